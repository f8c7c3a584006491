"""Personal data is found by its form and its checksum, and shown masked."""

import json

import pytest
from doctor_examinations import diagnose

from loadtest.doctor.personal_data import find_personal_data, without_personal_data

FOUND = [
    ("Write to anna.muster@example.org today", "e-mail address", "anna.muster@example.org"),
    ("Card 4111 1111 1111 1111 expires", "card number", "4111 1111 1111 1111"),
    ("Pay to DE89 3704 0044 0532 0130 00 now", "IBAN", "DE89 3704 0044 0532 0130 00"),
    ("Call +49 30 1234567 first", "phone number", "+49 30 1234567"),
    ("Call (212) 555-0187 first", "phone number", "(212) 555-0187"),
    ("from 203.0.113.77 at", "IP address", "203.0.113.77"),
    ("from 2001:db8:0:0:1:0:0:1 at", "IP address", "2001:db8:0:0:1:0:0:1"),
    ("Customer name: Maria van Dyk wants", "name", "Maria van Dyk"),
    ("user: Bob", "name", "Bob"),
    ("SSN 536-22-1234.", "national id (United States)", "536-22-1234"),
    ("DNI 12345678Z.", "national id (Spain)", "12345678Z"),
    ("CPF 529.982.247-25.", "national id (Brazil)", "529.982.247-25"),
    ("BSN 111222333.", "national id (Netherlands)", "111222333"),
    ("CF RSSMRA85T10A562S.", "national id (Italy)", "RSSMRA85T10A562S"),
    ("IdNr 86 095 742 719.", "national id (Germany)", "86 095 742 719"),
    ("NINO AB 12 34 56 C.", "national id (United Kingdom)", "AB 12 34 56 C"),
]
NOT_FOUND = [
    "Card 4111 1111 1111 1112 is mistyped",
    "DE88 3704 0044 0532 0130 00 is mistyped",
    "Version 10.15.300.2, loopback 127.0.0.1",
    "SSN 000-22-1234, DNI 12345678A, CPF 529.982.247-24",
    "On 2026-03-02 at 10:15:30 order 1234567 of user one was sent",
]


@pytest.mark.parametrize(("text", "kind", "value"), FOUND)
def test_personal_data_is_found_and_masked(text, kind, value):
    """Each kind, alone in its text; of the value hardly anything is left to be seen."""
    (found,) = find_personal_data(text)
    assert (found.kind, found.value) == (kind, value)
    assert value not in without_personal_data(text)
    assert without_personal_data(text).startswith(text[: found.start])


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_it_is_left_alone(text):
    """A wrong checksum, a version, a date: no personal data."""
    assert find_personal_data(text) == []


def test_only_what_requests_share_is_reported(tmp_path):
    """Instructions that two requests have count; what users write does not."""

    def line(system: str, user: str) -> bytes:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return json.dumps({"messages": messages}).encode()

    shared = "Escalate to help.desk@example.org where needed. " * 4
    lines = [line(shared, f"I am user{number}@example.org") for number in range(3)]
    diagnosis = diagnose([*lines, line("Only once: x@example.org", "hello")], tmp_path)
    assert [(one.kind, one.masked, one.requests) for one in diagnosis.personal] == [
        ("e-mail address", "h…@e….org", 3)
    ]
