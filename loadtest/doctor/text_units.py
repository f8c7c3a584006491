"""Cuts a text into words, and into things that tend to change: dates, times, ids, numbers, JSON.

JSON can be written again with its fields in another order.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from loadtest.doctor.kinds import Kind

MIN_JSON_CHARACTERS = 24
MAX_PARTS = 32
"""JSON objects looked at in one text."""
STYLES: tuple[dict[str, Any], ...] = (
    {"separators": (", ", ": ")},
    {"separators": (",", ":")},
    {"indent": 2},
    {"indent": 4},
    {"indent": 1},
    {"indent": "\t"},
)
DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class JsonPart:
    """An object or array inside a text, which can be written exactly as it stands there."""

    start: int
    end: int
    raw: str
    value: Any
    style: int
    ascii_only: bool
    shape: str
    """Equal for the same fields in any order, whatever their values."""

    def in_order_of(self, other: "JsonPart") -> str:
        """This JSON in its own style, with its fields in the order of the other one."""
        return _write(reorder(self.value, other.value), self.style, self.ascii_only)


def find_json(text: str) -> Iterator[JsonPart]:
    """The outermost objects of a text, and arrays of objects, in their order."""
    position = found = 0
    while found < MAX_PARTS:
        start = text.find("{", position)
        if start < 0:
            return
        bracket = text.rfind("[", position, start)
        if bracket >= 0 and not text[bracket + 1 : start].strip():
            start = bracket
        try:
            value, end = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            position = text.find("{", start) + 1
            continue
        position, raw = end, text[start:end]
        if len(raw) < MIN_JSON_CHARACTERS:
            continue
        for style in range(len(STYLES)):
            ascii_only = raw.isascii()
            if _write(value, style, ascii_only) == raw:
                yield JsonPart(start, end, raw, value, style, ascii_only, shape_of(value))
                found += 1
                break


def reorder(value: Any, like: Any) -> Any:
    """A JSON value with the fields of all its objects in the order of another value; unknown ones last."""
    if isinstance(value, dict) and isinstance(like, dict):
        known = [name for name in like if name in value]
        names = known + [name for name in value if name not in like]
        return {name: reorder(value[name], like.get(name)) for name in names}
    if isinstance(value, list) and isinstance(like, list):
        likes = [*like, *[like[-1] if like else None] * (len(value) - len(like))]
        return [reorder(one, other) for one, other in zip(value, likes, strict=False)]
    return value


def shape_of(value: Any) -> str:
    """The names of all fields, sorted."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{shape_of(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted({shape_of(one) for one in value})) + "]"
    return ""


def canonical(value: Any) -> str:
    """One text for a JSON value, whatever the order of its fields."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _write(value: Any, style: int, ascii_only: bool) -> str:
    return json.dumps(value, ensure_ascii=ascii_only, **STYLES[style])


MONTH = (
    "(?:Jan(?:uary|uar)?|Feb(?:ruary|ruar)?|Mar(?:ch)?|März|Apr(?:il)?|May|Mai|June?|Juni|July?|Juli|Aug(?:ust)?|"
    "Sep(?:t(?:ember)?)?|Oct(?:ober)?|Oktober|Nov(?:ember)?|Dec(?:ember)?|Dezember)"
)
CLOCK = (
    r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[AaPp]\.?[Mm]\b\.?)?"
    r"(?:\s?(?:UTC|GMT|CES?T|Z)\b|[+-]\d{2}:?\d{2}\b)?"
)
ISO_DATE = r"\b\d{4}[-/]\d{2}[-/]\d{2}"
LEXEME = re.compile(
    rf"(?P<id>\b[0-9a-fA-F]{{8}}-(?:[0-9a-fA-F]{{4}}-){{3}}[0-9a-fA-F]{{12}}\b"
    r"|\b[A-Za-z]{1,12}[-_](?=[A-Za-z0-9]*\d)(?=[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{8,}\b"
    r"|\b(?=[A-Za-z]*\d[A-Za-z]*\d)(?=\d*[A-Za-z]\d*[A-Za-z]|[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{10,}\b"
    r"|\b[A-Za-z]{1,12}[-_#]\d{5,}\b)"
    rf"|(?P<time>{ISO_DATE}[T ]{CLOCK}|(?<![\d:]){CLOCK}(?![:\d])|\b1[5-9]\d{{8}}(?:\d{{3}}|\.\d+)?\b)"
    rf"|(?P<date>{ISO_DATE}\b|\b\d{{1,2}}[./]\d{{1,2}}[./]\d{{4}}\b"
    rf"|\b(?:\d{{1,2}}(?:st|nd|rd|th|\.)?\s+)?{MONTH}\.?\s+(?:\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+\d{{4}}\b)?|\d{{4}}\b)"
    r"|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b)"
    r"|(?P<number>\d+(?:[.,]\d+)*)"
    r"|(?P<word>[^\W\d_]+)"
)
TAGS = {"id": Kind.ID, "time": Kind.TIME, "date": Kind.DATE}
NUMBER, WORD, JSON, END = "number", "word", "json", "end"


@dataclass(frozen=True, slots=True)
class Unit:
    """A word or a thing of another kind, with what stands in front of it."""

    lead: str
    """White space and punctuation since the unit before."""
    core: str
    tag: str
    """id, time, date, number, word, json, or end: what comes after the last one."""
    key: str
    """Equal keys: the two could stand for each other."""
    json: JsonPart | None = None


def units_of(text: str, with_json: bool = True) -> list[Unit]:
    """A text in parts that add up to it."""
    units: list[Unit] = []
    position = 0
    for part in find_json(text) if with_json else ():
        position = _cut(text, position, part.start, units)
        units.append(Unit(text[position : part.start], part.raw, JSON, f"\1{part.shape}", part))
        position = part.end
    position = _cut(text, position, len(text), units)
    units.append(Unit(text[position:], "", END, "\1end"))
    return units


def _cut(text: str, position: int, end: int, units: list[Unit]) -> int:
    """Append the units up to an end; returns where the last one stops."""
    for match in LEXEME.finditer(text, position, end):
        tag, core = str(match.lastgroup), match.group()
        # Quotes and accents have several spellings; case is one more.
        key = core.casefold() if core.isascii() else unicodedata.normalize("NFKC", core).casefold()
        units.append(Unit(text[position : match.start()], core, tag, key if tag == WORD else f"\1{tag}"))
        position = match.end()
    return position


def keys_of(units: Sequence[Unit]) -> list[str]:
    """What is compared of each unit."""
    return [unit.key for unit in units]


def skeleton_of(keys: Sequence[str]) -> int:
    """64 bits: equal for texts that differ only in dates, ids, numbers, case and what is between words."""
    return xxhash.xxh3_64_intdigest("\0".join(keys).encode("utf-8", "surrogatepass"))
