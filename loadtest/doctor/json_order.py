"""JSON inside texts, and the same JSON with its fields in another order."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
