"""Counts personal data in instructions that more than one request has."""

from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from loadtest.doctor.bounded import Bounded
from loadtest.doctor.diagnosis import PersonalFinding
from loadtest.doctor.log_requests import LoggedRequest
from loadtest.doctor.personal_data import find_personal_data

MAX_TEXTS = 20_000
MAX_VALUES = 50_000
MAX_CHARACTERS = 200_000
"""The part of one text that is searched."""
MIN_REQUESTS = 2


@dataclass(slots=True)
class _Value:
    kind: str
    masked: str
    requests: int = 0


class PersonalCount:
    """Values are kept as hashes and masks. Bounded."""

    def __init__(self) -> None:
        self._texts: Bounded[int, tuple[int, ...]] = Bounded(MAX_TEXTS)
        self._values: Bounded[int, _Value] = Bounded(MAX_VALUES)

    def note(self, request: LoggedRequest, shared: float) -> None:
        """Search what others are likely to have too: the instructions, or ``shared`` (0 to 1) of a first
        message without any.
        """
        systems = [one.text for one in request.messages if one.is_system]
        first = request.messages[0].text
        for text in systems or [first[: int(shared * len(first))]]:
            for digest in self._search(text[:MAX_CHARACTERS]):
                value = self._values.get(digest)
                if value is not None:
                    value.requests += 1

    def findings(self) -> Sequence[PersonalFinding]:
        """The most frequent first."""
        values = [value for value in self._values.values() if value.requests >= MIN_REQUESTS]
        values.sort(key=lambda value: (-value.requests, value.kind, value.masked))
        return [PersonalFinding(value.kind, value.masked, value.requests) for value in values]

    def _search(self, text: str) -> tuple[int, ...]:
        digest = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
        known = self._texts.get(digest)
        if known is not None:
            return known
        digests = []
        for found in find_personal_data(text):
            key = xxhash.xxh3_64_intdigest(f"{found.kind}\0{found.value}".encode("utf-8", "surrogatepass"))
            self._values.first(key, _Value(found.kind, found.masked))
            digests.append(key)
        return self._texts.put(digest, tuple(dict.fromkeys(digests)))
