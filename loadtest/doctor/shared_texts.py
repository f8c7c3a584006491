"""Finds which texts are versions of one another, and how a version differs from the first one.

Paragraphs can also come in another order than before.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from loadtest.doctor.alignment import Piece, harmful, pieces_of
from loadtest.doctor.bounded import Bounded
from loadtest.doctor.kinds import Kind
from loadtest.doctor.text_units import Unit, keys_of, skeleton_of, units_of

MIN_PARAGRAPH = 60
"""Characters."""
MAX_SETS = 50_000
SEPARATOR = "\n\n"


class Documents:
    """Remembers sets of long paragraphs in the order in which each set was first seen. Bounded."""

    def __init__(self) -> None:
        self._orders: Bounded[int, tuple[int, ...]] = Bounded(MAX_SETS)
        self._met: Bounded[int, bool] = Bounded(MAX_SETS)

    def in_first_order(self, text: str) -> str:
        """The text with the paragraphs that other texts had too where they stood when the same ones were
        first together.
        """
        if SEPARATOR not in text:
            return text
        parts = text.split(SEPARATOR)
        places = [place for place, part in enumerate(parts) if len(part) >= MIN_PARAGRAPH]
        if len(places) < 2:
            return text
        digest_of = {
            place: xxhash.xxh3_64_intdigest(parts[place].encode("utf-8", "surrogatepass")) for place in places
        }
        places = [place for place in places if self._met.get(digest_of[place])]
        for digest in digest_of.values():
            self._met.put(digest, True)
        digests = tuple(digest_of[place] for place in places)
        if len(digests) < 2:
            return text
        group = xxhash.xxh3_64_intdigest(repr(sorted(digests)).encode())
        order = self._orders.first(group, digests)
        if order == digests:
            return text
        by_digest = {digest: parts[place] for digest, place in zip(digests, places, strict=True)}
        if len(by_digest) < len(digests):
            return text  # the same paragraph twice: nothing to sort by
        for place, digest in zip(places, order, strict=True):
            parts[place] = by_digest[digest]
        return SEPARATOR.join(parts)


MAX_TEXTS = 256
"""First versions; about 250 bytes for each of their words."""
MAX_ANCHORS = 200_000
MAX_KNOWN = 1024
"""Texts whose pieces are remembered."""
MAX_LINES = 100_000
SHINGLE = 6
"""Words in a row by which a similar text is found."""
SAMPLED = 4
"""One shingle in so many is kept, the same ones in every text."""
MIN_LINE = 40
"""Characters of a line in a user message that is compared with lines of others."""
MIN_USER_TEXT = 200
LINE_KINDS = frozenset({Kind.DATE, Kind.TIME, Kind.ID, Kind.SPACE, Kind.FORMAT, Kind.JSON, Kind.COUNTER})
"""A line has no second version by chance where only these differ."""


@dataclass(slots=True)
class Shared:
    """One text, in the version that was met first."""

    number: int
    """In the order in which such texts were met."""
    text: str
    units: list[Unit]
    versions: int = 1
    volatile: set[int] = field(default_factory=set)
    """Units that were different in some version."""


@dataclass(frozen=True, slots=True)
class Version:
    """A text beside the first version of it."""

    pieces: Sequence[Piece]
    shared: Shared | None
    """None for the lines of a user message, which have several."""


class SharedTexts:
    """Instructions, each compared as a whole, and user messages, compared line by line. Bounded."""

    def __init__(self) -> None:
        self._by_skeleton: Bounded[int, Shared] = Bounded(MAX_TEXTS)
        self._by_number: Bounded[int, Shared] = Bounded(MAX_TEXTS)
        self._by_anchor: Bounded[int, int] = Bounded(MAX_ANCHORS)
        self._lines: Bounded[int, str] = Bounded(MAX_LINES)
        self._known: Bounded[str, Version] = Bounded(MAX_KNOWN)
        self._num_texts = 0

    def instruction(self, text: str) -> Version:
        """A system message beside the first version of it; beside itself when it is the first."""
        known = self._known.get(text)
        return known if known is not None else self._known.put(text, self._compare(text))

    def user_text(self, text: str) -> Version:
        """A user message beside lines that were met before; only long ones are looked at."""
        if len(text) < MIN_USER_TEXT:
            return Version((Piece(text, text),), None)
        pieces: list[Piece] = []
        for line in text.splitlines(keepends=True):
            pieces += self._line(line)
        return Version(harmful(pieces), None)

    def _compare(self, text: str) -> Version:
        units = units_of(text)
        keys = keys_of(units)
        skeleton, anchors = skeleton_of(keys), _anchors(keys)
        shared = self._by_skeleton.get(skeleton)
        pieces = pieces_of(units, shared.units) if shared else None
        if pieces is None:
            votes = Counter(map(self._by_anchor.get, anchors))
            for number, _ in votes.most_common(3):
                shared = self._by_number.get(number) if number is not None else None
                if shared and (pieces := pieces_of(units, shared.units)) is not None:
                    break
        if pieces is None or shared is None:
            return self._begin(text, units, skeleton, anchors)
        shared.versions += 1
        shared.volatile.update(piece.unit for piece in pieces if piece.own != piece.fixed)
        return Version(harmful(pieces), shared)

    def _begin(self, text: str, units: list[Unit], skeleton: int, anchors: Sequence[int]) -> Version:
        shared = Shared(self._num_texts, text, units)
        self._num_texts += 1
        self._by_skeleton.put(skeleton, shared)
        self._by_number.put(shared.number, shared)
        for anchor in anchors:
            self._by_anchor.first(anchor, shared.number)
        return Version((Piece(text, text),), shared)

    def _line(self, line: str) -> list[Piece]:
        if len(line) < MIN_LINE:
            return [Piece(line, line)]
        units = units_of(line)
        first = self._lines.first(skeleton_of(keys_of(units)), line)
        if first == line:
            return [Piece(line, line)]
        pieces = pieces_of(units, units_of(first)) or [Piece(line, line)]
        return [piece if piece.kind in LINE_KINDS else Piece(piece.own, piece.own) for piece in pieces]


def _anchors(keys: Sequence[str]) -> list[int]:
    hashes = (
        xxhash.xxh3_64_intdigest("\0".join(keys[start : start + SHINGLE]).encode("utf-8", "surrogatepass"))
        for start in range(len(keys) - SHINGLE + 1)
    )
    return [number for number in hashes if number % SAMPLED == 0]
