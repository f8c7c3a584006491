"""One request byte by byte, so that nothing is put right on its way, and what comes back for it."""

import http.client
import json
import socket
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import dataclass

HOST = "127.0.0.1"
LIMIT_SECONDS = 10.0
"""Without an answer after this long a request counts as not answered."""
KEPT_BYTES = 64 * 1024
"""Read of an answer; the rest of a longer one is left."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request that is well-formed HTTP/1.1, whatever it asks for."""

    method: str
    target: str
    headers: tuple[tuple[str, bytes], ...] = ()
    body: bytes = b""
    chunk: int = 0
    """Size of the chunks that the body is sent in; 0 sends it in one piece with its length."""

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        lines = [f"{self.method} {self.target} HTTP/1.1\r\nHost: {HOST}\r\n".encode()]
        lines += [b"%b: %b\r\n" % (name.encode(), value) for name, value in self.headers]
        if self.chunk:
            parts = [self.body[at : at + self.chunk] for at in range(0, len(self.body), self.chunk)]
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
            return b"".join([*lines, b"Transfer-Encoding: chunked\r\n\r\n", chunks])
        return b"".join([*lines, b"Content-Length: %d\r\n\r\n" % len(self.body), self.body])

    def to_line(self) -> str:
        """For another process."""
        headers = [(name, b64encode(value).decode()) for name, value in self.headers]
        return json.dumps([self.method, self.target, headers, b64encode(self.body).decode(), self.chunk])

    @classmethod
    def of_line(cls, line: str) -> "RawRequest":
        """What `to_line` has written."""
        method, target, headers, body, chunk = json.loads(line)
        decoded = tuple((name, b64decode(value)) for name, value in headers)
        return cls(method, target, decoded, b64decode(body), chunk)

    def __str__(self) -> str:
        data = self.encoded()
        return repr(data if len(data) < 2000 else data[:2000]) + f" ({len(data)} bytes)"


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What came back; status 0 when nothing did."""

    status: int
    retry_after: str | None = None
    body: bytes = b""

    @property
    def is_fault(self) -> bool:
        """Whether a router must not answer so while all that it needs is well."""
        return self.status == 0 or (
            self.status >= 500 and not (self.status == 503 and self.retry_after is not None)
        )


class RawClient:
    """A client with one connection, which is kept as long as the router keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def send(self, request: RawRequest) -> RawAnswer:
        """Send one request; a kept connection that has ended meanwhile is replaced."""
        was_kept = self._socket is not None
        answer = self._exchange(request)
        return self._exchange(request) if was_kept and answer.status == 0 else answer

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: RawRequest) -> RawAnswer:
        try:
            if self._socket is None:
                self._socket = socket.create_connection((HOST, self._port), LIMIT_SECONDS)
            with suppress(ConnectionError):  # refused before it was sent whole: the answer is there
                self._socket.sendall(request.encoded())
            response = http.client.HTTPResponse(self._socket, method=request.method)
            response.begin()
            is_endless = response.headers.get_content_type() == "text/event-stream"
            body = b"" if is_endless else response.read(KEPT_BYTES)
            if is_endless or response.will_close or not response.isclosed():
                self.close()
            return RawAnswer(response.status, response.headers.get("Retry-After"), body)
        except (OSError, http.client.HTTPException):
            self.close()
            return RawAnswer(0)
