"""An ordinary user beside a hostile one, in a process of its own.

    python -m tests.hostile.probe PORT FILE ADDRESS KEY

Asks for ``/healthz`` every 50 ms, and for a short chat every tenth time, each on a connection that is kept,
from an address of its own, with an API key unless that is empty. A line per answer goes to the file: which of
them, when, milliseconds, status.
"""

import http.client
import json
import sys
import time
from pathlib import Path

EVERY_SECONDS = 0.05
CHAT_EVERY = 10
LIMIT_SECONDS = 120
CHAT = {
    "model": "tiny",
    "max_tokens": 1,
    "messages": [{"role": "user", "content": "Hello! Tell me about water."}],
}


def ask(
    connection: http.client.HTTPConnection,
    headers: dict[str, str],
    method: str,
    path: str,
    body: bytes | None,
) -> int:
    """One request; 0 when it fails."""
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
    except OSError:
        connection.close()
        return 0
    except http.client.HTTPException:
        connection.close()
        return 0
    return response.status


def main(port: int, file: Path, address: str, key: str) -> None:
    """Ask until killed."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    requests = {
        "healthz": ("GET", "/healthz", None),
        "chat": ("POST", "/v1/chat/completions", json.dumps(CHAT).encode()),
    }
    connections = {
        kind: http.client.HTTPConnection(
            "127.0.0.1", port, timeout=LIMIT_SECONDS, source_address=(address, 0)
        )
        for kind in requests
    }
    with file.open("w", buffering=1) as lines:
        number, due = 0, time.monotonic()
        while True:
            kind = "chat" if number % CHAT_EVERY == CHAT_EVERY - 1 else "healthz"
            began = time.monotonic()
            status = ask(connections[kind], headers, *requests[kind])
            now = time.monotonic()
            lines.write(f"{kind} {began:.3f} {(now - began) * 1000:.1f} {status}\n")
            number += 1
            due = max(due + EVERY_SECONDS, now)
            time.sleep(max(due - time.monotonic(), 0))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
