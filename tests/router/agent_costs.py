"""What Messages and Responses cost before they are decided, beside the chat completion of the same size.

    python -m tests.router.agent_costs MODEL_DIRECTORY

CPU time of parsing, rendering, tokenising and keys of a later turn, medians of many that take turns.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from cluster.prompts.tokenizer import PromptTokenizer
from router.requests.agent_calls import fitted
from router.requests.endpoints import ENDPOINTS
from router.requests.schema import MESSAGES_PATH

SENTENCE = "the quick brown fox jumps over the lazy dog and then some more words follow here "
SYSTEM = SENTENCE * 80
MARK = {"cache_control": {"type": "ephemeral"}}
ROUNDS = 200


def bodies(number):
    """By name: the path and the body of a request with so many messages, each as a text and in parts."""
    plain = [
        {"role": "assistant" if each % 2 else "user", "content": f"{SENTENCE * 4}{each}"}
        for each in range(number)
    ]
    parts = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in plain]
    kinds = {"user": "input_text", "assistant": "output_text"}
    items = [{**each, "content": [{"type": kinds[each["role"]], "text": each["content"]}]} for each in plain]
    last = {**parts[-1], "content": [{**parts[-1]["content"][0], **MARK}]}
    system, path = {"role": "system", "content": SYSTEM}, "/v1/chat/completions"
    yield "chat", path, {"messages": [system, *plain]}
    yield "Messages", MESSAGES_PATH, {"system": SYSTEM, "messages": plain}
    yield "Responses", "/v1/responses", {"instructions": SYSTEM, "input": plain}
    yield "chat in parts", path, {"messages": [system, *parts]}
    yield "Messages in parts", MESSAGES_PATH, {"system": SYSTEM, "messages": parts}
    yield "Responses in parts", "/v1/responses", {"instructions": SYSTEM, "input": items}
    marked = [{"type": "text", "text": SYSTEM, **MARK}]
    yield "Messages with breakpoints", MESSAGES_PATH, {"system": marked, "messages": [*parts[:-1], last]}


def prepare(path, raw, tokenizer):
    """All that is done to a request before it is decided."""
    call = ENDPOINTS[path].read(raw)
    call = fitted(call, tokenizer) if path == MESSAGES_PATH else call
    call.upstream_body()
    tokenizer.keyed_chat(call.fields, b"12345678", 16, call.breakpoints).finish()


def main():
    """Print a table."""
    tokenizer = PromptTokenizer(Path(sys.argv[1]))
    for number in (1, 21, 201):
        named = [(name, path, {"model": "m", **body}) for name, path, body in bodies(number)]
        cases = [(name, path, json.dumps(body).encode()) for name, path, body in named]
        seconds = {name: [] for name, _, _ in cases}
        for _ in range(ROUNDS):
            for name, path, raw in cases:
                began = time.process_time()
                prepare(path, raw, tokenizer)
                seconds[name].append(time.process_time() - began)
        took = {name: statistics.median(all_of_it) for name, all_of_it in seconds.items()}
        for name, median in took.items():
            chat = took["chat" if name in ("Messages", "Responses", "chat") else "chat in parts"]
            sys.stdout.write(
                f"{number} messages, {name}: {1e6 * median:.0f} us, {median / chat:.2f} of chat\n"
            )


if __name__ == "__main__":
    main()
