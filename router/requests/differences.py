"""Finds where the router's tokens and an engine's part: at which message, and at which token.

The engine's come from its ``/tokenize``. Findings are in numbers and roles, never in clients' words.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import PromptError
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.wire import Lease
from router.errors import AttemptFailedError
from router.requests.schema import Call
from router.upstream.client import Upstream

MAX_BYTES = 256 * 1024
"""Of longer requests it is not found out."""
REMEDY = "does the engine have options for its template? WARMROUTE_CHAT_OPTIONS, docs/rendering.md"
TOKENIZE_FIELDS = (
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "tools",
    "prompt",
)
ARGUMENTS = ("documents", "reasoning_effort")
"""Fields that ``/tokenize`` takes only among the arguments of the template."""
PROBES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "Hello, wörld! 12345 \n\n  two spaces"}]},
    {
        "messages": [
            {"role": "system", "content": "You are  terse.\n"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "东京 🚀 ok"},
            {"role": "user", "content": " <b>done?</b> "},
        ]
    },
)

ROLES = ("system", "developer", "user", "assistant", "tool")


async def locate(upstream: Upstream, url: str, model: str, tokenizer: PromptTokenizer, call: Call) -> str:
    """Where a request's tokens part, in words; "" where that cannot be found out."""
    question = _question(call)
    if question is None:
        return ""
    try:
        theirs = await upstream.tokenise(url, {"model": model, **question})
        return "" if theirs is None else await asyncio.to_thread(_compared, tokenizer, call.fields, theirs)
    except (AttemptFailedError, PromptError):
        return ""


async def differs_on_probe(upstream: Upstream, lease: Lease, model: str, tokenizer: PromptTokenizer) -> str:
    """The first difference between a tokenizer's tokens and a replica's, in words; "" where there is none.
    Raises `AttemptFailedError` when the replica does not answer.
    """
    probes = PROBES if tokenizer.has_chat_template else ({"prompt": "Hello, wörld! 12345"},)
    for number, probe in enumerate(probes):
        try:
            prompt = tokenizer.chat(probe) if "messages" in probe else tokenizer.completion(probe["prompt"])
        except PromptError:
            continue
        engine = await upstream.tokenise(lease.url, {"model": model, **probe})
        if engine is not None and engine != list(prompt.token_ids):
            where = _where_they_part(tokenizer, probe, prompt.token_ids, engine)
            return (
                f"the router's tokenizer and that of replica {lease.replica} differ on probe {number}, "
                f"{where}; {REMEDY}"
            )
    return ""


def _where_they_part(
    tokenizer: PromptTokenizer, request: Mapping[str, Any], ours: Sequence[int], theirs: Sequence[int]
) -> str:
    """The first difference between two lists of tokens that a request might have, in words."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    token = next((at for at, (our, their) in pairs if our != their), min(len(ours), len(theirs)))
    messages = request.get("messages", ())
    number = tokenizer.message_at(request, token) if messages else 0
    if number == len(messages):
        return f"at token {token}" + (", after the last message" if messages else "")
    role = messages[number]["role"]
    return f"at token {token}, at message {number} ({role if role in ROLES else 'another role'})"


def _question(call: Call) -> dict[str, Any] | None:
    """The same prompt for ``/tokenize``; None when that cannot be asked for it."""
    fields = call.fields
    if not 0 < len(call.raw) <= MAX_BYTES or not (call.messages or isinstance(fields.get("prompt"), str)):
        return None
    question = {name: fields[name] for name in TOKENIZE_FIELDS if fields.get(name) is not None}
    if call.messages:
        given = fields.get("chat_template_kwargs") or {}
        arguments = {name: fields[name] for name in ARGUMENTS if fields.get(name) is not None}
        if "reasoning_effort" in arguments:
            given = {"enable_thinking": arguments["reasoning_effort"] != "none", **given}
        question |= {
            "messages": list(map(_renamed, call.messages)),
            "chat_template_kwargs": {**given, **arguments},
        }
    return question


def _renamed(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """``/tokenize`` does not know the old name of what an assistant thought."""
    thought = message.get("reasoning_content")
    return message if thought is None else {"reasoning": thought, **message}


def _compared(tokenizer: PromptTokenizer, fields: Mapping[str, Any], theirs: Sequence[int]) -> str:
    if "messages" in fields:
        ours = tokenizer.chat(fields)
    else:
        ours = tokenizer.completion(fields["prompt"], fields.get("add_special_tokens") is not False)
    if list(ours.token_ids) == list(theirs):
        return f"its /tokenize agrees: {REMEDY}"
    return f"they part {_where_they_part(tokenizer, fields, ours.token_ids, theirs)}"
