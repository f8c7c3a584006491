"""Keys of a prompt whose tokens are not known here: made of its texts, as if four bytes were a token.

They say which prompts begin alike and for about how long, and nothing about an engine's blocks.
"""

from typing import Any

import msgspec
import xxhash

from cluster.index.block_table import NO_KEYS, BlockKeys, unpack
from cluster.protocol.block_keys import TOKEN_BYTES, chained_keys, pack_tokens
from router.requests.schema import Call

MAX_BYTES = 256 * 1024
MAX_PIECES = 2048
"""Of a prompt that are looked at, from its beginning: bytes, and messages or parts of one. A millisecond or
two.
"""

_encode = msgspec.json.Encoder().encode


def approximate_keys(call: Call, root: bytes, block_size: int) -> tuple[BlockKeys, int]:
    """The keys of blocks of ``block_size`` tokens in a namespace, and the tokens that other conversations are
    likely to share.
    """
    try:
        data, opening = _chat(call) if call.messages else (_completion(call.fields.get("prompt")), 0)
    except (RecursionError, UnicodeError, OverflowError):
        return NO_KEYS, 0
    return unpack(chained_keys(root, data[:MAX_BYTES], block_size)), opening // TOKEN_BYTES


def _chat(call: Call) -> tuple[bytes, int]:
    """A chat's tools and messages, and how many bytes stand before the first user message."""
    data, opening = bytearray(_encode(call.fields.get("tools"))), -1
    for message in call.messages[:MAX_PIECES]:
        if opening < 0 and message["role"] == "user":
            opening = len(data)
        if isinstance(content := message.get("content"), list):
            message = {**message, "content": [_short(part) for part in content[:MAX_PIECES]]}
        data += _encode(message)
        if len(data) >= MAX_BYTES:
            break
    return bytes(data), max(opening, 0)


def _short(part: Any) -> Any:
    """A part of a message, or the hash of one that is no text: of a picture, say."""
    is_text = isinstance(part, str) or "text" in part
    return part if is_text else xxhash.xxh3_64_hexdigest(_encode(part))


def _completion(prompt: Any) -> bytes:
    first = prompt[0] if isinstance(prompt, list) and not isinstance(prompt[0], int) else prompt
    return first.encode() if isinstance(first, str) else pack_tokens(first or ())
