"""One streamed request at a time over aiohttp, timed up to its first token with text.

Up to that token the stream is decoded as it comes; the rest is read as a whole and decoded when the clock has
stopped, so that many requests at once cost little.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

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

MAX_ANSWER_BYTES = 64 << 20
MODELS_SECONDS = 10.0


def open_session(seconds: float | None) -> aiohttp.ClientSession:
    """A session without a bound on connections, whose requests may take so long; None is for ever."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


class ChatClient:
    """Sends requests to one OpenAI-compatible URL, with or without ``/v1`` at its end."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        api_key: str = "",
        timeout_seconds: float | None = None,
    ) -> None:
        """Without ``timeout_seconds`` the session's own timeout holds."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self._session = session
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds) if timeout_seconds else session.timeout
        self._encoder = msgspec.json.Encoder()

    async def models(self) -> list[str]:
        """The names of all models. Raises `RequestFailedError`."""
        timeout = aiohttp.ClientTimeout(total=MODELS_SECONDS)
        try:
            async with self._session.get(
                f"{self.url}/v1/models", headers=self._headers, timeout=timeout
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise RequestFailedError(
                f"nothing answers at {self.url}: {error or type(error).__name__}"
            ) from error
        if response.status != 200:
            raise RequestFailedError(f"{self.url}/v1/models answers {refusal(response.status, body)}")
        return read_models(body)

    async def ask(self, model: str, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Reply:
        """Send one chat request and read its answer to the end. Raises `RequestFailedError`."""
        return await self._stream(
            "chat/completions", {"model": model, "messages": messages, "max_tokens": max_tokens}
        )

    async def complete(self, model: str, prompt: Sequence[int], max_tokens: int) -> Reply:
        """Send one prompt of token ids and read its answer to the end. Raises `RequestFailedError`."""
        return await self._stream("completions", {"model": model, "prompt": prompt, "max_tokens": max_tokens})

    async def _stream(self, path: str, fields: Mapping[str, Any]) -> Reply:
        options = {"temperature": 0.0, "stream": True, "stream_options": {"include_usage": True}}
        body = self._encoder.encode({**fields, **options})
        started = time.perf_counter()
        try:
            async with self._session.post(
                f"{self.url}/v1/{path}", data=body, headers=self._headers, timeout=self._timeout
            ) as response:
                if response.status != 200:
                    raise refusal(response.status, await response.read())
                first, answer = await _read(response)
                latency = time.perf_counter() - started
        except TimeoutError as error:
            raise RequestFailedError("no answer in time") from error
        except aiohttp.ClientError as error:
            raise RequestFailedError(f"{type(error).__name__}: {error}"[:MAX_MESSAGE]) from error
        ttft = None if first is None else first - started
        return read_reply(answer, latency, ttft, response.headers.get(REPLICA_HEADER, ""))


async def _read(response: aiohttp.ClientResponse) -> tuple[float | None, bytes]:
    """When the first text came (None if none did), and the whole answer."""
    answer, decoded, first = bytearray(), 0, None
    async for piece in response.content.iter_any():
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            raise RequestFailedError(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
        if first is None and (end := answer.rfind(b"\n")) >= decoded:
            if any(chunk.has_text for chunk in chunks_in(bytes(answer[decoded:end]))):
                first = time.perf_counter()
            decoded = end + 1
    return first, bytes(answer)
