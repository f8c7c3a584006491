"""Cuts a text into words, and into things that tend to change: dates, times, ids, numbers, JSON."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from loadtest.doctor.json_order import JsonPart, find_json
from loadtest.doctor.kinds import Kind

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
