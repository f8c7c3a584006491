"""What earlier prompts leave behind, so that a prompt that begins like one pays for its new part only.

A prompt is a chain of segments, cut where `cluster/prompts/text_splits.py` says. A segment is found by a
hash of everything up to its end, so prompts share the segments of what they have in common. It holds no
text and no tokens but those of an unfinished block: counts and keys are all that routing needs.

The hash is 128-bit XXH3 with a secret seed, over the namespace's root as well. So tenants with different
cache salts share nothing, not even timing. That two of a billion segments collide by accident has a chance of
2e-21, and who does not know the seed cannot aim. All that could be won is a request at the wrong replica:
engines tokenise for themselves.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import xxhash

MAX_BYTES = 128 * 1024 * 1024
"""Memory for the segments of one model: about 0.6 bytes per token with blocks of 16 tokens, and 350 bytes for
each message or 2 KB of text."""

SEGMENT_BYTES = 350
"""Memory of a segment besides its keys and its tail, measured."""


class Segment(msgspec.Struct, frozen=True, gc=False):
    """A part of a prompt, and where its chain of block keys can go on."""

    num_tokens: int
    """Tokens from the beginning of the prompt to the end of the segment."""
    last_key: bytes
    """Key of the last full block so far; the root when there is none."""
    tail: bytes
    """Packed tokens after the last full block."""
    keys: bytes = b""
    """Packed keys of the blocks that end in this segment."""
    opening_at: int = -1
    """Where in the segment the first user message begins, in bytes; -1 when it does not or is not known."""
    opening_tokens: int = 0
    """Tokens of the whole prompt in front of that."""


class PromptCache:
    """Segments by the hash of the text up to their end, least recently used first.

    May be used from several threads.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._seed = secrets.randbits(64)
        self._segments: OrderedDict[bytes, Segment] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Segments held."""
        return len(self._segments)

    def hasher(self, beginning: bytes) -> "xxhash.xxh3_128":
        """Computes the hashes of a prompt's segments one after the other, given what sets it apart."""
        return xxhash.xxh3_128(beginning, seed=self._seed)

    def get(self, digest: bytes) -> Segment | None:
        """The segment with this hash."""
        return self._segments.get(digest)

    def keep(self, digests: Sequence[bytes], segments: Sequence[Segment]) -> None:
        """Hold the segments of one prompt, from its first on, as those used last.

        A segment counts as used after those that follow it. So what goes first, when memory is full, is
        always the end of a prompt.
        """
        with self._lock:
            held = self._segments
            for digest, segment in zip(reversed(digests), reversed(segments), strict=True):
                if digest not in held:
                    self.num_bytes += _size(segment)
                held[digest] = segment
                held.move_to_end(digest)
            while self.num_bytes > self.max_bytes:
                _, evicted = held.popitem(last=False)
                self.num_bytes -= _size(evicted)


def _size(segment: Segment) -> int:
    return SEGMENT_BYTES + len(segment.keys) + len(segment.tail)
