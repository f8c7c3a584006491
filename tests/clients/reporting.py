"""How a client's script says what worked: one line of JSON for each case. Runs in any Python."""

import json
import sys
import traceback

URL, MODEL, *ONLY = sys.argv[1:] if len(sys.argv) > 2 else ("", "")
"""Where the router is, its model, and the names of cases to run, if not all."""
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hello!"},
]
PARAMETERS = {
    "type": "object",
    "properties": {"what": {"type": "string"}, "how_many": {"type": "integer"}},
    "required": ["what", "how_many"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "find", "description": "Find it.", "parameters": PARAMETERS}}
ARGUMENTS = {"what": "the", "how_many": 1}
"""What the simulated engine calls the tool with, and answers in this schema."""
ENDLESS = 4000
"""Tokens of an answer that takes 40 s: whoever aborts it wants it to end now."""


def run(*cases):
    """Run each case, and say what became of it."""
    for case in (one for one in cases if not ONLY or one.__name__ in ONLY):
        try:
            case()
            said = "ok"
        except Exception as error:
            said = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        sys.stdout.write(json.dumps({"case": case.__name__, "said": said}) + "\n")
        sys.stdout.flush()
