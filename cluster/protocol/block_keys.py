"""Keys of KV blocks: equal keys mean equal tokens, and equal everything before them.

``key[0] = xxh3_64(root ‖ tokens[0])``, ``key[i] = xxh3_64(key[i-1] ‖ tokens[i])``, with tokens as
little-endian uint32 and keys as 8 big-endian bytes. The root stands for the namespace: all that makes KV
state incompatible or that must not be shared. Router and agents compute the same keys, whatever hash the
engine uses itself.
"""

import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash

TOKEN_BYTES = 4
KEY_BYTES = 8


@dataclass(frozen=True, slots=True)
class Namespace:
    """What must be equal for two KV blocks of one model with the same tokens to be interchangeable.

    The model is none of it: engines may have several names for one, each in its own order, and a prompt is
    only compared with what replicas of its own model hold.
    """

    tokenizer_fingerprint: str
    block_size: int
    """Tokens per block."""
    lora: str = ""
    cache_salt: str = ""

    def root(self) -> bytes:
        """The 8 bytes that stand in front of the first block's tokens."""
        digest = xxhash.xxh3_64()
        for field in (self.tokenizer_fingerprint, str(self.block_size), self.lora, self.cache_salt):
            encoded = field.encode()
            digest.update(len(encoded).to_bytes(4, "little"))
            digest.update(encoded)
        return digest.digest()


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """Token ids as keys are made from them, `TOKEN_BYTES` each."""
    tokens = array("I", token_ids)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens.tobytes()


def unpack_tokens(data: bytes) -> Sequence[int]:
    """The token ids of `pack_tokens`."""
    tokens = array("I", data)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens


def block_key(parent: bytes, tokens: bytes) -> bytes:
    """Key of one full block of packed tokens whose predecessor has the key ``parent`` (the root for the first
    block).
    """
    return xxhash.xxh3_64_digest(parent + tokens)


def block_keys(root: bytes, token_ids: Sequence[int], block_size: int) -> list[int]:
    """Keys of all full blocks of ``block_size`` tokens in a prompt; its tail has none."""
    return unpack_keys(chained_keys(root, pack_tokens(token_ids), block_size))


def chained_keys(parent: bytes, tokens: bytes, block_size: int) -> bytes:
    """Packed keys of the full blocks in packed tokens, which follow the block with the key ``parent``."""
    step = TOKEN_BYTES * block_size
    keys = []
    for start in range(0, len(tokens) - step + 1, step):
        parent = xxhash.xxh3_64_digest(parent + tokens[start : start + step])
        keys.append(parent)
    return b"".join(keys)


def pack_keys(keys: Iterable[int]) -> bytes:
    """Keys as one string, 8 big-endian bytes each."""
    packed = array("Q", keys)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def unpack_keys(data: bytes) -> list[int]:
    """The keys of `pack_keys`. Raises `ValueError` for a length that is not a multiple of 8."""
    keys = array("Q")
    keys.frombytes(data)
    if sys.byteorder == "little":
        keys.byteswap()
    return keys.tolist()
