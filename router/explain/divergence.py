"""Where two turns of one conversation part ways although they should not, and what kind of change it is.

The texts are compared and forgotten: what comes out are numbers, a role and a kind.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

MAX_CHARACTERS = 4096
"""So much of what differs in a message is looked at to classify the change: 6 ms at most."""
CONTEXT_CHARACTERS = 64
"""So much is looked at before and after what differs, so that dates and ids are seen as a whole."""
MAX_WORD_CHARACTERS = 256
"""Words that begin or end further away are not seen as a whole."""

Message: TypeAlias = Mapping[str, Any]

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"\b\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}(?=\b|T)|\b\d{{1,2}}[-/.]\d{{1,2}}[-/.]\d{{2,4}}\b"
    rf"|\b{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?\b|\b\d{{1,2}}\.? {_MONTH}(?: \d{{4}})?\b"
    r"|\b(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"T?\b\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?: ?[ap]\.?m\b\.?)?(?:Z\b|[+-]\d{2}:?\d{2}\b)?"
    r"|T\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:Z\b|[+-]\d{2}:?\d{2}\b)?|\b1\d{9}(?:\d{3})?\b",
    re.IGNORECASE,
)
_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{8,}\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Change:
    """The first difference between what was sent before and what is sent now."""

    message: int
    """Number of the message in the new request, from 0; -1 for what is not a message."""
    role: str
    kind: str
    """date, time, id, number, white_space, case, inserted, removed, reordered, edited, role, trimmed_history
    or tools."""


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> Change | None:
    """Compare the body of an earlier turn with that of a later one; None if this one only goes on."""
    if before.get("tools") != now.get("tools"):
        return Change(-1, "", "tools")
    old: Sequence[Message] = before["messages"]
    new: Sequence[Message] = now["messages"]
    number = next((n for n, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
    if number is None:
        if len(new) >= len(old):
            return None
        return Change(len(new) - 1, _role(new[-1]), "removed")
    return Change(number, _role(new[number]), _kind(old[number:], new[number:]))


def _kind(old: Sequence[Message], new: Sequence[Message]) -> str:
    """What happened to messages whose first ones differ."""
    if _role(old[0]) != _role(new[0]) and _text(old[0]) == _text(new[0]):
        return "role"
    if len(old) > 1 and new[0] in old[1:]:
        if old[0] in new:
            return "reordered"
        return "trimmed_history" if _role(new[0]) != "system" else "removed"
    if old[0] in new[1:]:
        return "inserted"
    return _kind_of_text(_text(old[0]), _text(new[0])) if _role(old[0]) == _role(new[0]) else "edited"


def _kind_of_text(old: str, new: str) -> str:
    old, new = _differing(old, new)
    if _SPACE.sub("", old) == _SPACE.sub("", new):
        return "white_space"
    if old.casefold() == new.casefold():
        return "case"
    for kind, patterns in (
        ("time", (_TIME,)),
        ("date", (_DATE,)),
        ("date", (_TIME, _DATE)),
        ("id", (_ID,)),
        ("number", (_NUMBER,)),
        ("id", (_ID, _NUMBER)),
        ("date", (_TIME, _DATE, _ID, _NUMBER)),
    ):
        if _masked(old, patterns) == _masked(new, patterns):
            return kind
    lines = Counter(old.splitlines()), Counter(new.splitlines())
    if lines[0] == lines[1] or _sorted_words(old) == _sorted_words(new):
        return "reordered"
    return "edited"


def _differing(old: str, new: str) -> tuple[str, str]:
    """Where two texts differ, with some context: patterns take a microsecond for every other character."""
    start = max(_num_alike(old, new, reverse=False) - CONTEXT_CHARACTERS, 0)
    furthest = max(start - MAX_WORD_CHARACTERS, 0)
    while start > furthest and not new[start].isspace():
        start -= 1
    old, new = old[start:], new[start:]
    alike = max(_num_alike(old, new, reverse=True) - CONTEXT_CHARACTERS, 0)
    furthest = max(alike - MAX_WORD_CHARACTERS, 0)
    while alike > furthest and not new[-alike].isspace():
        alike -= 1
    return old[: len(old) - alike][:MAX_CHARACTERS], new[: len(new) - alike][:MAX_CHARACTERS]


def _num_alike(old: str, new: str, *, reverse: bool) -> int:
    """How many characters two texts have in common at the beginning, or at the end."""
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        same = old.endswith(new[len(new) - middle :]) if reverse else old.startswith(new[:middle])
        low, high = (middle, high) if same else (low, middle - 1)
    return low


def _masked(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    for pattern in patterns:
        text = pattern.sub("\0", text)
    return text


def _sorted_words(text: str) -> list[str]:
    return sorted(re.findall(r"\w+", text))


def _role(message: Message) -> str:
    return str(message.get("role", ""))


def _text(message: Message) -> str:
    """The content as one text; parts that are no text in their JSON."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return msgspec.json.encode(content, order="sorted").decode()
