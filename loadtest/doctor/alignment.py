"""Lays two texts that say the same side by side, and names the kind of every difference."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from loadtest.doctor.kinds import Kind, Kinds
from loadtest.doctor.text_units import END, NUMBER, TAGS, WORD, Unit, keys_of, units_of

MIN_SHARED = 0.6
"""The share of the longer text, in units, that two versions of one text have in common."""
MIN_RUN = 3
"""Units in a row that count as shared."""
SHARED_BEHIND = 64
"""Characters: a difference with less shared text behind it does no harm there."""
COUNTERS = re.compile(
    r"turn|step|messages?|remaining|left|count|counter|attempts?|iteration|rounds?|tokens?|budget|number|used|seq"
)
COUNTER_WORDS = 3
"""Words in front of a number, and behind it, that may tell that it counts."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, and what it would be if a defect were mended."""

    own: str
    fixed: str
    kind: Kind | None = None
    """None: the same in both texts, or a difference that does no harm."""
    unit: int = -1
    """Which unit of the reference it belongs to."""
    inner: tuple["Piece", ...] = ()
    """What else differs in JSON that was reordered."""


def pieces_of(own: Sequence[Unit], reference: Sequence[Unit], counting: bool = False) -> list[Piece] | None:
    """A text piece by piece beside a reference; None when they are no versions of one text.

    With ``counting`` the two follow each other in one conversation, so a number that differs counts.
    """
    own_keys, keys = keys_of(own), keys_of(reference)
    if own_keys == keys:
        return _same_words(own, reference, 0, counting)
    pieces: list[Piece] = []
    shared = 0
    for tag, i1, i2, j1, j2 in _opcodes(keys, own_keys):
        if tag == "equal":
            shared += i2 - i1 if i2 - i1 >= MIN_RUN else 0
            pieces += _same_words(own[j1:j2], reference[i1:i2], i1, counting)
        else:
            pieces.append(Piece(_text(own[j1:j2]), _text(reference[i1:i2]), Kind.VALUE, i1))
    return pieces if shared >= MIN_SHARED * max(len(own), len(reference)) else None


def harmful(pieces: Sequence[Piece]) -> list[Piece]:
    """The same text, with no kind for differences that have hardly any shared text behind them.

    What stands between two differences becomes one piece.
    """
    behind = 0
    marked: list[Piece] = []
    between: list[str] = []
    for piece in reversed(pieces):
        if piece.kind is not None and behind >= SHARED_BEHIND:
            marked += [_plain(between), piece]
            between = []
            continue
        behind += len(piece.own) if piece.kind is None else 0
        between.append(piece.own)
    marked.append(_plain(between))
    return marked[::-1]


def _plain(backwards: Sequence[str]) -> Piece:
    text = "".join(reversed(backwards))
    return Piece(text, text)


def kinds_of(pieces: Sequence[Piece]) -> Kinds:
    """Every kind of difference."""
    return frozenset(kind for piece in pieces for kind in _kinds(piece))


def mended(pieces: Sequence[Piece], kinds: Kinds) -> str:
    """The text with differences of these kinds taken back."""
    return "".join([_mended(piece, kinds) for piece in pieces])


def _mended(piece: Piece, kinds: Kinds) -> str:
    if piece.kind not in kinds:
        return piece.own
    return mended(piece.inner, kinds) if piece.inner else piece.fixed


def _kinds(piece: Piece) -> Iterator[Kind]:
    if piece.kind is not None:
        yield piece.kind
        for inner in piece.inner:
            yield from _kinds(inner)


def _opcodes(a: list[str], b: list[str]) -> Iterator[tuple[str, int, int, int, int]]:
    """The opcodes of `SequenceMatcher`, which is asked only about what lies between equal ends."""
    front, limit = 0, min(len(a), len(b))
    while front < limit and a[front] == b[front]:
        front += 1
    back = 0
    while back < limit - front and a[-1 - back] == b[-1 - back]:
        back += 1
    if front:
        yield "equal", 0, front, 0, front
    middle = SequenceMatcher(None, a[front : len(a) - back], b[front : len(b) - back], autojunk=False)
    for tag, i1, i2, j1, j2 in middle.get_opcodes():
        # One equal word between two differences is chance.
        yield tag, i1 + front, i2 + front, j1 + front, j2 + front
    if back:
        yield "equal", len(a) - back, len(a), len(b) - back, len(b)


def _same_words(own: Sequence[Unit], reference: Sequence[Unit], first: int, counting: bool) -> list[Piece]:
    pieces: list[Piece] = []
    for number, (mine, other) in enumerate(zip(own, reference, strict=True)):
        unit = first + number
        kind = None if mine.lead == other.lead else _kind_of_lead(mine.lead, other.lead)
        pieces.append(Piece(mine.lead, other.lead, kind, unit))
        if mine.core == other.core:
            pieces.append(Piece(mine.core, other.core, None, unit))
        elif mine.json and other.json:
            pieces += _json_pieces(mine, other, unit, counting)
        else:
            kind = _kind_of_core(reference, number, counting)
            pieces.append(Piece(mine.core, other.core, kind, unit))
    return pieces


def _kind_of_lead(own: str, reference: str) -> Kind:
    if "".join(own.split()) != "".join(reference.split()):
        return Kind.FORMAT
    line_ends = own.replace("\r\n", "\n") == reference.replace("\r\n", "\n")
    return Kind.FORMAT if line_ends else Kind.SPACE


def _kind_of_core(units: Sequence[Unit], number: int, counting: bool) -> Kind:
    tag = units[number].tag
    if tag == WORD:
        return Kind.FORMAT
    if tag != NUMBER:
        return TAGS[tag]
    near = units[max(number - COUNTER_WORDS, 0) : number + 1 + COUNTER_WORDS]
    counts = counting or any(COUNTERS.fullmatch(unit.key) for unit in near if unit.tag == WORD)
    return Kind.COUNTER if counts else Kind.VALUE


def _json_pieces(mine: Unit, other: Unit, unit: int, counting: bool) -> list[Piece]:
    assert mine.json is not None
    assert other.json is not None
    ordered = mine.json.in_order_of(other.json)
    own, reference = units_of(ordered, with_json=False), units_of(other.core, with_json=False)
    inner = pieces_of(own, reference, counting) or [Piece(ordered, other.core, Kind.VALUE)]
    if ordered == mine.core:
        return [Piece(piece.own, piece.fixed, piece.kind, unit) for piece in inner]
    return [Piece(mine.core, ordered, Kind.JSON, unit, tuple(inner))]


def _text(units: Sequence[Unit]) -> str:
    return "".join(unit.lead + unit.core for unit in units if unit.tag != END or unit.lead)
