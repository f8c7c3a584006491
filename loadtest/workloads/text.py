"""Text that is known by what it is made of: parts of so many tokens, and the block keys that follow.

The keys behave as the real ones do (`cluster.protocol.block_keys`): equal keys mean equal text up to the
end of that block, and a block across two parts belongs to just these two. No token is ever made up.
"""

import struct
from dataclasses import dataclass

import xxhash

GOLDEN_RATIO = 0x9E3779B97F4A7C15
"""The golden ratio of 2**64: its multiples lie far from each other."""


def mix(*numbers: int) -> int:
    """A 64-bit number that stands for these 64-bit numbers in this order."""
    return xxhash.xxh3_64_intdigest(struct.pack(f"<{len(numbers)}Q", *numbers))


def block_keys(identity: int, blocks: range) -> list[int]:
    """64-bit keys of these blocks of a text. Steps from a random number collide as little as hashes, and
    take a quarter of the time.
    """
    return [(identity + GOLDEN_RATIO * block) % 2**64 for block in blocks]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of text. Equal identities mean the same words."""

    identity: int
    """64 bits."""
    tokens: int


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt as it grows, part by part."""

    block_size: int
    """Tokens per block."""
    tokens: int = 0
    identity: int = 0
    """64 bits: equal for equal parts in the same order."""
    keys: tuple[int, ...] = ()
    """The keys of all full blocks."""

    def then(self, part: Part) -> "Text":
        """This text with one more part at its end."""
        identity = mix(self.identity, part.identity, part.tokens)
        tokens = self.tokens + part.tokens
        new_blocks = range(len(self.keys), tokens // self.block_size)
        return Text(self.block_size, tokens, identity, (*self.keys, *block_keys(identity, new_blocks)))
