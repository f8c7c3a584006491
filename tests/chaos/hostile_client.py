"""A client that means harm, in a process of its own: ``python -m tests.chaos.hostile_client KIND PORT``.

It comes from another address than ordinary traffic, as it would, and goes on until it is killed.
"""

import itertools
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from tests.chaos.proxy import HOST
from tests.hostile.bodies import KINDS

SOURCE = ("127.0.0.2", 0)
ANSWER_SECONDS = 20.0
BODY_KINDS = (
    *("text: one letter", "text: random letters", "text: spaces", "text: base64", "text: emoji"),
    *("text: special tokens", "text: ordinary words", "text: many accents on one letter"),
    *("nested arrays", "nested, closed", "white space", "no JSON", "no UTF-8", "model", "cache_salt", "role"),
)
"""Those that a router refuses or that cost an engine nothing: what engines do with others is their affair."""
BODY_SIZES = (1024 * 1024, 15 * 1024 * 1024, 4 * 1024 * 1024)
NUM_OPEN = 300
PAUSE_SECONDS = 0.01
BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Hello! " * 50}]}).encode()


def send_bodies(port: int) -> None:
    """One after the other, each on a connection of its own."""
    for path, body in _bodies():
        with suppress(OSError), _connected(port) as connection:
            connection.sendall(_head(path, len(body)) + body)
            while connection.recv(65536):
                pass


def _bodies() -> Iterator[tuple[str, bytes]]:
    sizes = itertools.cycle(BODY_SIZES)
    for kind in itertools.cycle(BODY_KINDS):
        path, make = KINDS[kind]
        yield path, make(next(sizes))


def begin_requests(port: int) -> None:
    """Very many at a time: half a head, a head, half a body; what the router ends is begun anew."""
    whole = _head("/v1/chat/completions", len(BODY)) + BODY
    starts = (whole[:20], whole[: -len(BODY)], whole[: -len(BODY) // 2])
    connections: list[socket.socket] = []
    for start in itertools.cycle(starts):
        with suppress(OSError):
            connections.append(_connected(port))
            connections[-1].sendall(start)
        if len(connections) >= NUM_OPEN:
            connections.pop(0).close()
            time.sleep(PAUSE_SECONDS)


def _connected(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), ANSWER_SECONDS, SOURCE)


def _head(path: str, length: int) -> bytes:
    lines = f"POST {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", f"Content-Length: {length}"
    return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()


ATTACKS: Mapping[str, Callable[[int], None]] = {"bodies": send_bodies, "half_sent": begin_requests}

if __name__ == "__main__":
    ATTACKS[sys.argv[1]](int(sys.argv[2]))
