"""One chat request over HTTP, timed. For greenlets: everything here waits through gevent.

geventhttpclient parses HTTP in C. The answer is read line by line up to its first token, and then as a whole:
what arrives later costs one receive, and is decoded when the clock has stopped.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gevent
import msgspec
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse
from geventhttpclient.url import URL

from loadtest.harness.chat_answers import Chunk, num_with_text, usage_in, whole_text

MAX_OPEN = 10_000
"""Requests of one process at the same time; further ones wait."""
CONNECT_SECONDS = 10.0
MAX_MESSAGE = 200
"""Characters of a server's error message."""
REPLICA_HEADER = "x-warmroute-replica"


class RequestFailedError(Exception):
    """A request was not answered to its end; with the server's message where there is one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as its client saw it. Counts are the server's own where it gives them."""

    text: str
    latency: float
    """Seconds from sending the request to the end of the answer."""
    ttft: float | None
    """Seconds to the first token; None if the answer was not streamed, or is empty."""
    output_tokens: int
    prompt_tokens: int | None
    cached_tokens: int | None
    """Prompt tokens that were in the engine's cache; None if the server does not say."""
    replica: str
    """Empty if the server does not say."""
    size: int
    """Bytes."""

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds from one token to the next, the first one left out."""
        if self.ttft is None or self.output_tokens < 2:
            return None
        return (self.latency - self.ttft) / (self.output_tokens - 1)


class ChatClient:
    """Sends chat requests to one OpenAI-compatible URL. Connections are shared and kept alive."""

    def __init__(
        self,
        host: str,
        *,
        api_key: str = "",
        stream: bool = True,
        timeout_seconds: float = 600.0,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        url = URL(host)
        self._path = url.path.rstrip("/").removesuffix("/v1")
        self._http = HTTPClient.from_url(
            url, concurrency=MAX_OPEN, connection_timeout=CONNECT_SECONDS, network_timeout=timeout_seconds
        )
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._stream = stream
        self._timeout_seconds = timeout_seconds
        self._fields: dict[str, Any] = {"temperature": 0.0}
        if stream:
            self._fields |= {"stream": True, "stream_options": {"include_usage": True}}
        self._fields |= extra_body or {}
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Chunk)

    def models(self) -> list[str]:
        """Names of all models, at least one. Raises `RequestFailedError`."""
        with _failures(), gevent.Timeout(CONNECT_SECONDS):
            response = self._http.get(f"{self._path}/v1/models", headers=self._headers)
            body = bytes(response.read())
            _check(response, body)
            try:
                models = [str(model["id"]) for model in msgspec.json.decode(body)["data"]]
            except (msgspec.MsgspecError, KeyError, TypeError) as error:
                raise RequestFailedError("GET /v1/models does not answer with a list of models") from error
        if not models:
            raise RequestFailedError("GET /v1/models names no model")
        return models

    def ask(
        self, model: str, messages: Sequence[Mapping[str, str]], max_tokens: int, user: str = ""
    ) -> Answer:
        """Send one request and wait for the whole answer. Raises `RequestFailedError`."""
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, **self._fields}
        if user:
            body["user"] = user
        data = self._encoder.encode(body)
        with _failures(), gevent.Timeout(self._timeout_seconds):
            started = time.perf_counter()
            response = self._http.post(f"{self._path}/v1/chat/completions", data, self._headers)
            if response.status_code != 200:
                _check(response, bytes(response.read()))
            first, head = self._first_token(response) if self._stream else (None, b"")
            answer = head + response.read()
            latency = time.perf_counter() - started
        chunks = self._chunks(answer)
        return _answer(chunks, latency, first and first - started, response.get(REPLICA_HEADER), len(answer))

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def _first_token(self, response: HTTPSocketPoolResponse) -> tuple[float | None, bytes]:
        """When the first token arrived, and all lines up to it."""
        head = b""
        while line := response.readline(b"\n"):
            head += line
            data = _data_of(line)
            if data.startswith(b"{") and self._decode(data).has_text:
                return time.perf_counter(), head
        return None, head

    def _chunks(self, answer: bytes) -> list[Chunk]:
        """All events of a stream, or the one object of an answer that was not streamed."""
        if not self._stream:
            return [self._decode(answer)]
        events = [_data_of(line) for line in answer.splitlines()]
        chunks = [self._decode(data) for data in events if data.startswith(b"{")]
        if b"[DONE]" not in events:
            raise RequestFailedError("the stream ended without [DONE]")
        return chunks

    def _decode(self, data: bytes) -> Chunk:
        try:
            chunk = self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise RequestFailedError(f"not what the API promises: {error}") from error
        if chunk.error:
            raise RequestFailedError(f"in the stream: {_message_in(chunk.error)}")
        return chunk


@contextmanager
def _failures() -> Iterator[None]:
    """Tells of the network's failures as `RequestFailedError`."""
    try:
        yield
    except gevent.Timeout as timeout:
        raise RequestFailedError(f"no answer within {timeout.seconds:g} s") from timeout
    except (OSError, HTTPParseError) as error:
        raise RequestFailedError(f"{type(error).__name__}: {error}"[:MAX_MESSAGE]) from error


def _check(response: HTTPSocketPoolResponse, body: bytes) -> None:
    """Raises `RequestFailedError` with the server's message."""
    if response.status_code == 200:
        return
    try:
        message = _message_in(msgspec.json.decode(body).get("error"))
    except (msgspec.MsgspecError, AttributeError):
        message = body.decode(errors="replace")[:MAX_MESSAGE]
    raise RequestFailedError(f"{response.status_code} {message}".rstrip())


def _message_in(error: Any) -> str:
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return str(message)[:MAX_MESSAGE]


def _data_of(line: bytes) -> bytes:
    return line[5:].strip() if line.startswith(b"data:") else b""


def _answer(
    chunks: Sequence[Chunk], latency: float, ttft: float | None, replica: object, size: int
) -> Answer:
    usage = usage_in(chunks)
    return Answer(
        text=whole_text(chunks),
        latency=latency,
        ttft=ttft,
        output_tokens=usage.completion_tokens or num_with_text(chunks),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        replica=replica if isinstance(replica, str) else "",
        size=size,
    )
