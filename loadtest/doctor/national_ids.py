"""National ids that can be checked: each has a form, and a rule that few other numbers keep."""

import re
from collections.abc import Callable

DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
CODICE_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12,
         14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip
"""Value of a character on an odd place of an Italian tax code."""


def is_ssn(text: str) -> bool:
    """United States: no group is all zeros, and the first one is not 666 or above 899."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_dni(text: str) -> bool:
    """Spain: the letter is the number modulo 23."""
    return DNI_LETTERS[int(text[:8]) % 23] == text[-1]


def is_steuer_id(text: str) -> bool:
    """Germany: ISO 7064 mod 11,10, and of the first ten digits just one occurs more than once."""
    digits = [int(character) for character in text if character.isdigit()]
    repeated = [count for count in (digits[:10].count(digit) for digit in range(10)) if count > 1]
    if digits[0] == 0 or len(repeated) != 1 or repeated[0] > 3:
        return False
    product = 10
    for digit in digits[:10]:
        product = 2 * ((digit + product) % 10 or 10) % 11
    return (11 - product) % 10 == digits[10]


def is_nir(text: str) -> bool:
    """France: the last two digits complete the rest to a multiple of 97."""
    digits = "".join(text.split())
    return (int(digits[:13]) + int(digits[13:])) % 97 == 0


def is_cpf(text: str) -> bool:
    """Brazil: two weighted sums."""
    digits = [int(character) for character in text if character.isdigit()]
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(digit * (length + 1 - place) for place, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return True


def is_bsn(text: str) -> bool:
    """Netherlands: the eleven test."""
    digits = [int(character) for character in text]
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=True)) % 11 == 0


def is_codice_fiscale(text: str) -> bool:
    """Italy: the last letter is a sum over all others."""
    odd = sum(CODICE_ODD[character] for character in text[:15:2])
    even = sum(int(character, 36) - 10 * character.isalpha() for character in text[1:15:2])
    return chr(ord("A") + (odd + even) % 26) == text[15]


def _well_formed(_text: str) -> bool:
    return True


NATIONAL_IDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("United States", re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"), is_ssn),
    ("Spain", re.compile(r"\b\d{8}-?[A-Z]\b"), is_dni),
    ("Italy", re.compile(r"\b[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]\b"), is_codice_fiscale),
    ("United Kingdom", re.compile(r"\b(?![DFIQUV])[A-Z](?![DFIOQUV])[A-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b"),
     _well_formed),
    ("France", re.compile(r"\b[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?\d{2} ?\d{3} ?\d{3} ?\d{2}\b"), is_nir),
    ("Brazil", re.compile(r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b"), is_cpf),
    ("Netherlands", re.compile(r"\bBSN\W{0,3}(\d{9})\b"), is_bsn),
    ("Germany", re.compile(r"(?<![\d.-])\d{2} ?\d{3} ?\d{3} ?\d{3}(?![\d.-]*\d)"), is_steuer_id),
)  # fmt: skip
