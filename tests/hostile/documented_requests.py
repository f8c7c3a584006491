"""Requests that schemathesis draws from an OpenAPI document, half of them against its rules.

    python -m tests.hostile.documented_requests COUNT SEED < DOCUMENT

A line per request goes to the standard output. It needs nothing but schemathesis and its own folder, so that
it can run in an environment of its own.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from tests.hostile.raw_request import RawRequest

LEFT_OUT = frozenset({"content-length", "user-agent", "connection", "x-schemathesis-testcaseid"})
"""Headers that are not of the request, or different each time."""


def documented(document: dict[str, Any], count: int, number: int) -> Iterator[RawRequest]:
    """At most about so many requests, evenly over operations; the same for the same number."""
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    each = -(-count // (2 * len(operations)))
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        for operation in operations:
            yield from map(_raw, _cases(operation.as_strategy(generation_mode=mode), each, number))


def _cases(strategy: SearchStrategy[schemathesis.Case], count: int, number: int) -> list[schemathesis.Case]:
    cases: list[schemathesis.Case] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(strategy)
    def draw(case: schemathesis.Case) -> None:
        cases.append(case)

    with suppress(Unsatisfiable):  # nothing breaks the rules of an operation that has none
        draw()
    return cases


def _raw(case: schemathesis.Case) -> RawRequest:
    options = case.as_transport_kwargs(base_url="http://127.0.0.1")
    prepared = requests.Request(**options).prepare()
    headers = tuple(
        (name, value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in prepared.headers.items()
        if name.lower() not in LEFT_OUT
    )
    body = prepared.body or b""
    return RawRequest(
        prepared.method, prepared.path_url, headers, body if isinstance(body, bytes) else body.encode()
    )


if __name__ == "__main__":
    for each in documented(json.load(sys.stdin), int(sys.argv[1]), int(sys.argv[2])):
        sys.stdout.write(each.to_line() + "\n")
