"""Shows what a text looks like without showing what it says."""

import re

CAPITALISED = re.compile(r"\b[A-Z\u00c0-\u00de]\w*")
NUMBER = re.compile(r"\d+")
HARMLESS = frozenset(
    ("a", "always", "answer", "be", "do", "for", "i", "if", "never", "request", "the", "this", "today", "use",
     "user", "you", "your")
)  # fmt: skip
"""Words that begin sentences, and are nobody's name."""
LETTER = re.compile(r"[^\W\d_]")
MAX_SHAPE = 32


def shape(text: str, limit: int = MAX_SHAPE) -> str:
    """Letters as x and X, digits as 9, the rest as it is; no longer than ``limit`` characters."""
    masked = LETTER.sub(lambda match: "X" if match.group().isupper() else "x", text)
    masked = re.sub(r"\d", "9", masked)
    return masked if len(masked) <= limit else f"{masked[: limit - 1]}…"


def without_names(text: str) -> str:
    """The text with its capitalised words and its numbers as shapes: a name can stand anywhere."""
    text = CAPITALISED.sub(
        lambda match: match.group() if match.group().casefold() in HARMLESS else shape(match.group(), 12),
        text,
    )
    return NUMBER.sub(lambda match: shape(match.group(), 12), text)


def visible(text: str) -> str:
    """White space that can be seen."""
    return text.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t").replace("\xa0", "\\xa0")
