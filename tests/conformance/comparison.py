"""Sends requests to an engine and to a router, and says in what the answers differ."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from tests.conformance.case import Case
from tests.conformance.meant import MEANT
from tests.hostile.raw_request import RawRequest

SECONDS = 120.0
HEADERS = ("content-type", "retry-after", "www-authenticate", "location")
"""Compared as they are."""
PRESENT = ("metadata", "endpoint-load-metrics")
"""Headers whose values are of the moment."""
VOLATILE = frozenset(
    {
        *(
            "id",
            "created",
            "created_at",
            "completed_at",
            "request_id",
            "item_id",
            "response_id",
            "obfuscation",
        ),
        *("cached_tokens", "created_cache_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        *("input_tokens", "sequence_number"),
    }
)
"""Ids, times, and what depends on the requests before. Whether they are null counts."""
COUNTED = re.compile(r" of \d+ items|'[a-z]+-[0-9a-f-]{16,}'")
"""In error messages: how many fields a body has, which grows when usage is asked for; and ids."""
TEXTS = frozenset({"content", "text", "arguments", "delta", "partial_json", "reasoning"})
"""Strings that arrive in pieces, cut by chance."""


class Answer(NamedTuple):
    """What came back; status 0 when nothing did."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(port: int, request: RawRequest) -> Answer:
    """Send one request on a connection of its own, and read its answer to the end."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        with suppress(ConnectionError):  # refused before it was sent whole: the answer is there
            connection.sendall(request.encoded())
        response = http.client.HTTPResponse(connection, method=request.method)
        try:
            response.begin()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, b"")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, body)


def differences(engine: Answer, router: Answer) -> Iterator[str]:
    """In what a client would see that it does not talk to the engine."""
    if engine.status != router.status:
        yield f"status {engine.status}, {router.status}"
    for name in HEADERS:
        ours, theirs = router.headers.get(name), engine.headers.get(name)
        if ours != theirs and not (name == "content-type" and theirs is None and not engine.body):
            yield f"{name} {theirs}, {ours}"
    for name in PRESENT:
        if (name in engine.headers) != (name in router.headers):
            yield f"{name} {engine.headers.get(name)}, {router.headers.get(name)}"
    theirs, ours = _read(engine), _read(router)
    if isinstance(ours, dict) and ours.get("type") == "error" and "type" not in theirs:
        theirs, ours = (each["error"]["message"] for each in (theirs, ours))
    if theirs != ours:
        pairs = enumerate(zip(str(theirs), str(ours), strict=False))
        start = max(0, next((place for place, (one, other) in pairs if one != other), 0) - 60)
        yield f"body {str(theirs)[start : start + 300]}, {str(ours)[start : start + 300]}"


def compare(case: Case, engine_port: int, router_port: int) -> list[str]:
    """The differences of one case that are not meant; what is meant must still be an answer of that kind."""
    engine, router = ask(engine_port, case.request), ask(router_port, case.request)
    if router.status == 0:
        return ["no answer"]
    if not case.meant:
        return list(differences(engine, router))
    if router.status not in MEANT[case.meant].statuses:
        return [f"status {engine.status}, {router.status} {router.body[:300]!r}"]
    return []


def _read(answer: Answer) -> Any:
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return _stream(answer.body.decode())
    try:
        return _normal(json.loads(answer.body))
    except ValueError:
        return answer.body


def _stream(text: str) -> tuple[list[str], dict[str, str]]:
    """The order of the kinds of events, repetitions left out, and the texts put together.

    A busy engine puts its last tokens into the event that says why it ended: that counts as if it always did.
    """
    kinds: list[str] = []
    texts: dict[str, str] = {}
    assert text.endswith("\n\n"), text[-200:]
    for event in text.removesuffix("\n\n").split("\n\n"):
        name, _, data = event.rpartition("data: ")
        found = None if data == "[DONE]" else _kind(json.loads(data), "", texts)
        if kinds[-1:] in ([name + json.dumps(each)] for each in (found, _unfinished(found))):
            kinds.pop()
        kinds.append(name + (data if found is None else json.dumps(found)))
    return kinds, texts


def _unfinished(kind: Any) -> Any:
    """A kind of event as it is before the last one of its choice."""
    if not isinstance(kind, dict) or not kind.get("choices"):
        return kind
    choices = [
        {
            name: None if name == "finish_reason" else inner
            for name, inner in choice.items()
            if name != "stop_reason"
        }
        for choice in kind["choices"]
    ]
    return {**kind, "choices": choices}


def _kind(value: Any, place: str, texts: dict[str, str]) -> Any:
    """A value with its texts taken out."""
    if isinstance(value, dict):
        index = str(value.get("index", ""))
        found = {}
        for name, inner in value.items():
            if name == "system_fingerprint":  # see `tests.conformance.meant`
                continue
            if name in TEXTS and isinstance(inner, str):
                where = f"{place}{index}.{name}"
                texts[where] = texts.get(where, "") + inner
                found[name] = "?"
            elif name in ("usage", "logprobs", "token_ids") and inner:
                found[name] = "?"
            else:
                found[name] = _kind(inner, f"{place}{index}.{name}", texts) if name not in VOLATILE else "?"
        return found
    return [_kind(inner, place, texts) for inner in value] if isinstance(value, list) else _normal(value)


def _normal(value: Any) -> Any:
    """A value without what is different each time."""
    if isinstance(value, dict):
        return {
            name: "?" if name in VOLATILE and inner is not None else _normal(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_normal(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 1)
    return COUNTED.sub("?", value) if isinstance(value, str) else value
