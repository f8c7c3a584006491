"""What engines hold at the end of kept responses: prompts and answers as tokens, as engines report them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from cluster.apis.answer_blocks import Json
from cluster.protocol.block_keys import pack_tokens

REPORTS = ("input_messages", "output_messages")
"""In a response, the prompt and the answer as tokens, where the request asks for them."""
MAX_BYTES = 512 * 1024
"""Of a request whose tokens are asked for; of longer ones they would not fit into one event of a stream."""

Shape: TypeAlias = dict[str, int]
"""Hashes of what a prompt depends on besides the conversation, by name."""


class Held(msgspec.Struct):
    """What an engine has held at the end of a response."""

    tokens: bytes = b""
    """Packed; without those that were held at the end of the response before, where it went on from them."""
    continues: bool = False
    shape: Shape = {}


def held_after(response: Json, before: bytes, shape: Shape) -> Held:
    """What its engine has held at the end of a response; nothing where that does not say so."""
    reports: Sequence[Any] = [response.get(name) for name in REPORTS]
    try:
        [prompt], [answer] = reports
        tokens = pack_tokens([*prompt["tokens"], *answer["tokens"]])
    except (KeyError, OverflowError, TypeError, ValueError):
        return Held()
    continues = bool(before) and tokens.startswith(before)
    return Held(tokens[len(before) :] if continues else tokens, continues, shape)


def joined(turns: Sequence[Held]) -> Held:
    """What the last of responses that follow each other has left, whole."""
    tokens = b""
    for held in turns:
        tokens = (tokens if held.continues else b"") + held.tokens
    return Held(tokens, shape=turns[-1].shape)


def without_reports(response: Json, asked: Mapping[str, Any]) -> Json:
    """A response to a client that has not asked for tokens."""
    if asked.get("enable_response_messages"):
        return response
    return {**response, **{name: None for name in REPORTS if name in response}}
