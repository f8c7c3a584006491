"""Finds personal data in texts (what has a form, and a check where there is one), and hides it."""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtest.doctor.national_ids import NATIONAL_IDS

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


EMAIL = r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}"
NAME = r"[A-ZÀ-Þ][\w'\u2019-]+(?: (?:van|von|de|der|da|di|el|bin|[A-ZÀ-Þ][\w'\u2019.-]*)){0,3}"
LABEL = (
    r"(?i:\b(?:user|customer|client|patient|employee|caller|member|account holder|full|first|last|contact|"
    r"kunde|benutzer)(?:[ _-]?name)?\s*[:=]\s*)"
)
IBAN_BASE, IBAN_REMAINDER = 97, 1


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of personal data."""

    kind: str
    value: str
    start: int
    end: int

    @property
    def masked(self) -> str:
        """What may be shown."""
        if self.kind == "e-mail address":
            name, _, host = self.value.partition("@")
            return f"{name[0]}…@{host[0]}….{host.rpartition('.')[2]}"
        if self.kind == "name":
            return " ".join(f"{word[0]}…" for word in self.value.split())
        visible = 2 if len(self.value) > 6 else 0
        return f"{self.value[:visible]}{'•' * (len(self.value) - visible)}"


def find_personal_data(text: str) -> list[Found]:
    """What is found, in its order; a character belongs to one find only."""
    found: list[Found] = []
    taken = bytearray(len(text))
    for kind, pattern, accept in RULES:
        for match in pattern.finditer(text):
            start, end = match.span(match.lastindex or 0)
            if not any(taken[start:end]) and accept(text[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(Found(kind, text[start:end], start, end))
    return sorted(found, key=lambda one: one.start)


def without_personal_data(text: str) -> str:
    """The text with everything found masked."""
    return "".join(_parts(text))


def _parts(text: str) -> Iterator[str]:
    position = 0
    for one in find_personal_data(text):
        yield text[position : one.start]
        yield one.masked
        position = one.end
    yield text[position:]


def _digits(text: str) -> list[int]:
    return [int(character) for character in text if character.isdigit()]


def _is_card(text: str) -> bool:
    digits = _digits(text)
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    compact = "".join(text.split()).upper()
    if not 15 <= len(compact) <= 34:
        return False
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return int(number) % IBAN_BASE == IBAN_REMAINDER


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _is_phone(text: str) -> bool:
    return 8 <= len(_digits(text)) <= 15


def _always(_text: str) -> bool:
    return True


RULES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("e-mail address", re.compile(EMAIL), _always),
    ("IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), _is_iban),
    ("card number", re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-]*\d)"), _is_card),
    *((f"national id ({name})", pattern, check) for name, pattern, check in NATIONAL_IDS),
    ("IP address", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)"), _is_address),
    ("IP address", re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{1,4}(?![\w:])"), _is_address),
    (
        "phone number",
        re.compile(r"(?<![\w+])\+\d(?:[ ()/.-]{0,2}\d){7,14}(?!\d)|\(\d{3}\) ?\d{3}-\d{4}\b"),
        _is_phone,
    ),
    ("name", re.compile(f"{LABEL}({NAME})"), _always),
)
"""Kind, how it is written, and what else must hold; the first rule that takes a character wins."""
