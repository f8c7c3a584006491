"""One request of the conformance list, and what was seen of its answers."""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.hostile.raw_request import RawRequest

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
JSON_TYPE = (("Content-Type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Case:
    """A request that is sent to an engine and to a router in front of it."""

    name: str
    request: RawRequest
    meant: str = ""
    """The entry of `tests.conformance.meant` by which the two answers may differ."""


@dataclass(slots=True)
class Cases:
    """Collects the list; names are those of groups, numbered."""

    found: list[Case] = field(default_factory=list)

    def add(self, group: str, request: RawRequest, meant: str = "") -> None:
        """One more request of a group."""
        number = sum(case.name.startswith(f"{group} ") for case in self.found)
        self.found.append(Case(f"{group} {number}", request, meant))

    def post(self, group: str, path: str, *bodies: Any, meant: str = "", **headers: str) -> None:
        """POSTs of these bodies, JSON unless they are bytes."""
        given = {"Content-Type": "application/json", **{n.replace("_", "-"): v for n, v in headers.items()}}
        sent = tuple((name, value.encode("latin-1")) for name, value in given.items() if value)
        for body in bodies:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.add(group, RawRequest("POST", path, sent, data), meant)


def chat(text: str = "Hello!", **fields: Any) -> dict[str, Any]:
    """The body of a short chat that is always answered in the same way."""
    return {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 2,
        "temperature": 0,
        **fields,
    }


def completion(prompt: Any = "Hello, my name is", **fields: Any) -> dict[str, Any]:
    """The body of a short text completion that is always answered in the same way."""
    return {"model": "m", "prompt": prompt, "max_tokens": 2, "temperature": 0, **fields}


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same without these fields."""
    return {name: value for name, value in body.items() if name not in names}
