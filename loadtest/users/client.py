"""One chat request over HTTP, by one of its APIs, timed. For greenlets: everything here waits through gevent.

geventhttpclient parses HTTP in C. The answer is read line by line up to its first token, and then as a whole:
what arrives later costs one receive, and is decoded when the clock has stopped.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gevent
import msgspec
from geventhttpclient.client import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse
from geventhttpclient.url import URL

from loadtest.harness.chat_answers import (
    MAX_MESSAGE,
    REPLICA_HEADER,
    Reply,
    RequestFailedError,
    chunks_in,
    read_models,
    read_reply,
    refusal,
)
from loadtest.harness.chat_apis import CHAT, ChatApi

MAX_OPEN = 10_000
"""Requests of one process at the same time; further ones wait."""
CONNECT_SECONDS = 10.0


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
        api: ChatApi = CHAT,
    ) -> None:
        url = URL(host)
        self._path, self._api = url.path.rstrip("/").removesuffix("/v1"), api
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

    def models(self) -> list[str]:
        """Names of all models, at least one. Raises `RequestFailedError`."""
        with _failures(), gevent.Timeout(CONNECT_SECONDS):
            response = self._http.get(f"{self._path}/v1/models", headers=self._headers)
            body = bytes(response.read())
        if response.status_code != 200:
            raise refusal(response.status_code, body)
        models = read_models(body)
        if not models:
            raise RequestFailedError("GET /v1/models names no model")
        return models

    def ask(
        self, model: str, messages: Sequence[Mapping[str, str]], max_tokens: int, user: str = ""
    ) -> Reply:
        """Send one request and wait for the whole answer. Raises `RequestFailedError`."""
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, **self._fields}
        if user:
            body["user"] = user
        data = self._encoder.encode(self._api.body(body))
        with _failures(), gevent.Timeout(self._timeout_seconds):
            started = time.perf_counter()
            response = self._http.post(f"{self._path}{self._api.path}", data, self._headers)
            try:
                if response.status_code != 200:
                    raise refusal(response.status_code, bytes(response.read()))
                first, head = _first_token(response, self._api) if self._stream else (None, b"")
                answer = head + response.read()
                latency = time.perf_counter() - started
            finally:
                response.release()  # its socket must not wait for the garbage collector
        replica = response.get(REPLICA_HEADER)
        return read_reply(
            answer,
            latency,
            first and first - started,
            replica if isinstance(replica, str) else "",
            self._stream,
            self._api.chunk,
            self._api.ends,
        )

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()


@contextmanager
def _failures() -> Iterator[None]:
    """Tells of the network's failures as `RequestFailedError`."""
    try:
        yield
    except gevent.Timeout as timeout:
        raise RequestFailedError(f"no answer within {timeout.seconds:g} s") from timeout
    except (OSError, HTTPParseError) as error:
        raise RequestFailedError(f"{type(error).__name__}: {error}"[:MAX_MESSAGE]) from error


def _first_token(response: HTTPSocketPoolResponse, api: ChatApi) -> tuple[float | None, bytes]:
    """When the first token arrived, and all lines up to it."""
    head = b""
    while line := response.readline(b"\n"):
        head += line
        if any(chunk.has_text for chunk in chunks_in(line, api.chunk)):
            return time.perf_counter(), head
    return None, head
