"""Token counts and block keys of prompts, at the cost of what is new in them."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from cluster.index.block_table import BlockKeys, unpack
from cluster.prompts.prompt_cache import PromptCache, Segment
from cluster.protocol.block_keys import KEY_BYTES, TOKEN_BYTES, chained_keys

SLICE_BYTES = 16 * 1024
"""Packed tokens whose keys are computed without a pause: well under a millisecond."""
COUNTED_BYTES = 8 * 1024
"""The longest part that is tokenised again to count the tokens before a mark in it."""


class Beginning(msgspec.Struct, frozen=True):
    """What a prompt's tokens depend on besides its data, and what their keys do."""

    root: bytes
    """The 8 bytes of the namespace."""
    block_size: int
    """Tokens per block; 0 for no keys."""
    is_text: bool
    """Whether the data is text, and not tokens."""
    tokens: bytes = b""
    """Packed tokens in front of those of the data."""

    def pack(self) -> bytes:
        """As bytes; other beginnings give others."""
        return self.root + self.block_size.to_bytes(4, "little") + bytes([self.is_text]) + self.tokens


class KeyedPrompt(msgspec.Struct, frozen=True):
    """What routing needs of a prompt."""

    num_tokens: int
    keys: BlockKeys
    """Keys of the prompt's full blocks."""
    opening_tokens: int = 0
    """Leading tokens that other conversations are likely to share: everything before the first user
    message."""
    marks: Sequence[int] = ()
    """Tokens before each place that was asked for; for one in a long part, before that."""


class PendingPrompt:
    """A prompt whose beginning has been looked for in the cache. `finish` does the rest of the work."""

    def __init__(
        self,
        cache: PromptCache,
        beginning: Beginning,
        data: bytes,
        cuts: Sequence[int],
        encode: Callable[[bytes, Sequence[int]], list[bytes]],
        *,
        ending: bytes = b"",
        opening_at: int = -1,
        tokens_before: Callable[[bytes, int], int | None] = lambda _part, _position: None,
        least_tokens: int = 0,
        marks: Sequence[int] = (),
    ) -> None:
        """Look up a prompt.

        ``cuts`` are the ends of the parts of ``data``; ``encode`` gives the packed tokens of the parts of a
        piece of it, given their ends.
        ``ending`` are packed tokens after those of the data. ``opening_at`` is where the first user message
        begins, in bytes, and ``tokens_before`` counts the tokens of a part in front of such a place. The
        prompt has ``least_tokens`` or more. ``marks`` are places in the data, in bytes.
        """
        self.least_tokens = least_tokens
        self._cache = cache
        self._block_size = beginning.block_size
        self._start = Segment(0, beginning.root, b"")
        if beginning.tokens:
            self._start = self._extended(self._start, beginning.tokens)
        self._data, self._cuts = data, cuts
        self._encode, self._ending = encode, ending
        self._opening_at, self._tokens_before = opening_at, tokens_before
        self._marks = marks
        hasher, view = cache.hasher(beginning.pack()), memoryview(data)
        self._digests = []
        """Hashes up to the end of each part but the last: where that is cut depends on what would follow."""
        for start, end in zip((0, *cuts), cuts[:-1], strict=False):
            hasher.update(view[start:end])
            self._digests.append(hasher.digest())
        self._segments: list[Segment] = []
        for segment in map(cache.get, self._digests):
            if segment is None:
                break
            self._segments.append(segment)
        self.new_bytes = len(data) - self._begin(len(self._segments))
        """Bytes of the data that have to be encoded."""

    @property
    def longest_new_part(self) -> int:
        """Bytes of the longest part that has to be encoded in one go."""
        first = len(self._segments)
        return max(
            (self._cuts[number] - self._begin(number) for number in range(first, len(self._cuts))), default=0
        )

    def finish(self, pause: Callable[[], None] | None = None) -> KeyedPrompt:
        """Encode what is new. Worker threads ``pause`` every millisecond or so, where others get to run; what
        a pause raises ends the work.
        """
        segments = self._segments
        known = self._begin(len(segments))
        ends = [cut - known for cut in self._cuts[len(segments) :]]
        parts = [b""] * len(ends) if pause else self._encode(self._data[known:], ends)
        for number, tokens in enumerate(parts, len(segments)):
            before = segments[-1] if segments else self._start
            start, end = self._begin(number), self._cuts[number]
            if pause:
                [tokens] = self._encode(self._data[start:end], [end - start])
            segment = self._extended(before, tokens, pause)
            if start <= self._opening_at < end:
                segment = msgspec.structs.replace(
                    segment, opening_at=self._opening_at - start, opening_tokens=self._opening_tokens(number)
                )
            segments.append(segment)
            if pause:
                pause()
        self._cache.keep(self._digests, segments[: len(self._digests)])
        last = segments[-1] if segments else self._start
        keys = [self._start.keys, *[segment.keys for segment in segments]]
        if self._ending:
            last = self._extended(last, self._ending)
            keys.append(last.keys)
        opening = self._known_opening_tokens()
        marks = [opening if mark == self._opening_at else self._tokens_at(mark) for mark in self._marks]
        return KeyedPrompt(last.num_tokens, unpack(b"".join(keys)), opening, marks)

    def _begin(self, number: int) -> int:
        """Where a part begins."""
        return self._cuts[number - 1] if number else 0

    def _known_opening_tokens(self) -> int:
        if self._opening_at < 0:
            return 0
        number = bisect_right(self._cuts, self._opening_at)
        segment = self._segments[number]
        if segment.opening_at == self._opening_at - self._begin(number):
            return segment.opening_tokens
        return self._opening_tokens(number)

    def _opening_tokens(self, number: int) -> int:
        """Tokens in front of the first user message, which begins in this part; 0 when that is no token."""
        start, end = self._begin(number), self._cuts[number]
        before = self._segments[number - 1] if number else self._start
        count = self._tokens_before(self._data[start:end], self._opening_at - start)
        return 0 if count is None else before.num_tokens + count

    def _tokens_at(self, position: int) -> int:
        number = bisect_right(self._cuts, position)
        start, before = self._begin(number), self._segments[number - 1] if number else self._start
        part = self._data[start : self._cuts[number]] if number < len(self._cuts) else b""
        if position <= start or not 0 < len(part) <= COUNTED_BYTES:
            return before.num_tokens
        return before.num_tokens + (self._tokens_before(part, position - start) or 0)

    def _extended(self, before: Segment, tokens: bytes, pause: Callable[[], None] | None = None) -> Segment:
        """The segment that follows another one and holds these packed tokens."""
        num_tokens = before.num_tokens + len(tokens) // TOKEN_BYTES
        if not self._block_size:
            return Segment(num_tokens, before.last_key, b"")
        last_key, rest, keys = before.last_key, before.tail + tokens, []
        block_bytes = self._block_size * TOKEN_BYTES
        slice_bytes = max(SLICE_BYTES // block_bytes, 1) * block_bytes
        for start in range(0, len(rest), slice_bytes):
            keys.append(chained_keys(last_key, rest[start : start + slice_bytes], self._block_size))
            last_key = keys[-1][-KEY_BYTES:] or last_key
            if pause and start:
                pause()
        full_bytes = len(rest) // block_bytes * block_bytes
        return Segment(num_tokens, last_key, rest[full_bytes:], b"".join(keys))
