"""Parses request bodies without holding up the event loop.

What is long is parsed in a thread. But a JSON parser holds the interpreter's lock from the first byte to the
last, and a body of millions of small values takes it seconds. Such a body goes to a process of its own, which
ends with its client, and which says only what routing cannot do without: its prompt gets no keys.

    python -m router.requests.bodies PATH SCOPE < BODY
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np

from router.errors import ApiError, InvalidRequestError, OverloadedError
from router.requests.endpoints import ENDPOINTS
from router.requests.forms import parse_form
from router.requests.prompt_threads import Pause, PromptBusyError, PromptThreads
from router.requests.schema import Call
from router.tenants.cache_scopes import CacheScope

UNMEASURED_BYTES = 32 * 1024
"""Up to this size the worst body is parsed in 4 ms."""
INLINE_BYTES = 1024 * 1024
INLINE_SECONDS = 0.008
"""Parsed on the event loop up to this size and estimate; else in a thread."""
THREAD_SECONDS = 0.02
"""Parsed in a thread up to this estimate, in which nobody else runs; else in a process."""

SECONDS_PER_CHARACTER = {"{": 270e-9, "[": 55e-9, ",": 55e-9, "\\": 10e-9}
"""How long the parser takes for a value or an escape, as measured by ``python -m
loadtest.studies.tokenising``.
"""
SECONDS_PER_BYTE = 0.8e-9
COUNTED_BYTES = 1024 * 1024
"""Looked at in one go."""

SESSION_HEADERS = (b"x-session-id", b"session_id", b"x-claude-code-session-id", b"x-opencode-session")
SESSION_METADATA = ("session_id", "conversation_id", "user_id")
"""Where clients name a conversation: vLLM's two headers, those of coding agents, ``metadata``."""
MAX_SESSION_BYTES = 256

CHILD_SECONDS = 20
"""CPU time that a process may take."""
CHILD_BYTES_PER_BYTE, CHILD_BYTES = 128, 512 * 1024 * 1024
"""Memory that it may take: for each byte of the body, and besides."""
POLL_SECONDS = 0.05
"""How often it is seen whether anybody still waits for a process."""


T = TypeVar("T")
TOO_MANY_VALUES = "The request body holds too many values."

Answer: TypeAlias = Call | tuple[str, str | None]
"""What such a process says: the request without its fields, or why the body is none, and the field's name."""


async def parse_body(
    path: str, raw: bytes, scope: CacheScope, threads: PromptThreads, client: Hashable, content_type: str = ""
) -> Call:
    """Parse the body of a request to this path, isolated for a scope. Only forms need the content type.

    Raises `InvalidRequestError` for a body that is none, and `OverloadedError` when its client has too many
    long ones waiting.
    """
    is_form = ENDPOINTS[path].read is None
    try:
        if is_form and len(raw) > INLINE_BYTES:
            return await threads.run(client, len(raw), lambda _: parse_form(path, raw, content_type))
        if is_form:
            return parse_form(path, raw, content_type)
        if _is_quick(raw):
            return _parse(path, raw, scope)
        return await threads.run(client, len(raw), lambda pause: _parse_in_thread(path, raw, scope, pause))
    except PromptBusyError as error:
        raise OverloadedError(f"The request body has not been read: {error}.") from error


async def rewritten(raw: bytes, rewrite: Callable[[bytes], T], threads: PromptThreads, client: Hashable) -> T:
    """What a function that parses the body makes of it, where others wait as little as for `parse_body`.

    Raises what that raises, and `InvalidRequestError` for a body that would take a process of its own.
    """
    if _is_quick(raw):
        return rewrite(raw)
    if parse_seconds(raw) > THREAD_SECONDS:
        raise InvalidRequestError(TOO_MANY_VALUES)
    try:
        return await threads.run(client, len(raw), lambda _: rewrite(raw))
    except PromptBusyError as error:
        raise OverloadedError(f"The request body has not been read: {error}.") from error


def _is_quick(raw: bytes) -> bool:
    """Whether it is parsed on the event loop."""
    return len(raw) <= UNMEASURED_BYTES or (len(raw) <= INLINE_BYTES and parse_seconds(raw) <= INLINE_SECONDS)


def in_session(call: Call, headers: Mapping[bytes, bytes]) -> Call:
    """The same call, told apart from others that begin alike by what its client calls the conversation. That
    joins nothing, so nobody can name another's conversation.
    """
    about, name = call.fields.get("metadata"), call.fields.get("prompt_cache_key")
    names = [name, *map(about.get, SESSION_METADATA)] if isinstance(about, dict) else [name]
    said = next((headers[header] for header in SESSION_HEADERS if header in headers), b"")
    said = said or next((name for name in names if isinstance(name, str)), "").encode(errors="replace")
    if not said:
        return call
    return msgspec.structs.replace(call, conversation=call.conversation + said[:MAX_SESSION_BYTES])


def _parse(path: str, raw: bytes, scope: CacheScope) -> Call:
    endpoint = ENDPOINTS[path]
    assert endpoint.read is not None
    call = endpoint.read(raw)
    if endpoint.salted:
        call = call.isolated(*scope.of(call.model, call.conversation))
    return call if call.is_readable else call.sealed()


def parse_seconds(raw: bytes) -> float:
    """How long it takes to parse JSON, at least; nothing is looked at beyond `THREAD_SECONDS`."""
    seconds = len(raw) * SECONDS_PER_BYTE
    data = np.frombuffer(raw, dtype=np.uint8)
    for start in range(0, len(data), COUNTED_BYTES):
        part = data[start : start + COUNTED_BYTES]
        for character, each in SECONDS_PER_CHARACTER.items():
            seconds += np.count_nonzero(part == ord(character)) * each
        if seconds > THREAD_SECONDS:
            break
    return seconds


def _parse_in_thread(path: str, raw: bytes, scope: CacheScope, pause: Pause) -> Call:
    if parse_seconds(raw) <= THREAD_SECONDS:
        return _parse(path, raw, scope)
    with open(os.memfd_create("body"), "w+b") as body:
        body.write(raw)
        body.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "router.requests.bodies", path, msgspec.json.encode(scope)],
            stdin=body,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        )
    answer = b""
    try:
        while child.returncode is None:
            pause()
            with suppress(subprocess.TimeoutExpired):
                answer = child.communicate(timeout=POLL_SECONDS)[0]
    finally:
        child.kill()
        child.communicate()  # also closes its pipe
    if child.returncode:
        raise InvalidRequestError(TOO_MANY_VALUES)
    call: Answer = msgspec.msgpack.decode(answer, type=Answer)
    if isinstance(call, tuple):
        raise InvalidRequestError(*call)
    return msgspec.structs.replace(call, raw=raw, upstream=call.upstream or raw)


def main(path: str, scope: str) -> None:
    """Parse the body on standard input, and write what there is to know of it to standard output."""
    resource.setrlimit(resource.RLIMIT_CPU, (CHILD_SECONDS, CHILD_SECONDS))
    raw, shared_by = sys.stdin.buffer.read(), msgspec.json.decode(scope, type=CacheScope)
    memory = CHILD_BYTES + CHILD_BYTES_PER_BYTE * len(raw)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    answer: Answer
    try:
        call = _parse(path, raw, shared_by).sealed()
        upstream = b"" if call.upstream == raw else call.upstream
        answer = msgspec.structs.replace(call, raw=b"", upstream=upstream)
    except ApiError as error:
        answer = (error.message, error.param)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
