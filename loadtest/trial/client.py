"""One streamed chat request, timed up to its first token with text.

Up to that token the stream is decoded as it comes; the rest is read as a whole and decoded when the clock has
stopped, so that many requests at once cost little.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from loadtest.harness.chat_answers import Chunk, num_with_text, usage_in, whole_text
from loadtest.trial.errors import RequestFailedError, TrialError

REPLICA_HEADER = "x-warmroute-replica"
MAX_ANSWER_BYTES = 64 << 20
MAX_MESSAGE = 200
"""Characters of a server's error message."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Times in seconds; counts are the server's own."""

    text: str
    ttft: float
    """NaN when no token with text came."""
    latency: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    replica: str


class ChatClient:
    """Sends chat requests to one OpenAI-compatible URL, with or without ``/v1`` at its end."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, api_key: str = "", timeout_seconds: float = 600.0
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._session = session
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Chunk)

    async def models(self) -> list[str]:
        """Names of all models. Raises `TrialError`."""
        try:
            async with self._session.get(
                f"{self.url}/v1/models", headers=self._headers, timeout=aiohttp.ClientTimeout(total=10)
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TrialError(f"nothing answers at {self.url}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise TrialError(f"{self.url}/v1/models answers {response.status} {_message_in(body)}")
        try:
            return [model["id"] for model in msgspec.json.decode(body)["data"]]
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise TrialError(f"{self.url}/v1/models does not answer with a list of models") from error

    async def ask(self, model: str, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Reply:
        """Send one request and read its answer to the end. Raises `RequestFailedError`."""
        body = self._encoder.encode(
            {
                "model": model,
                "messages": messages,
                "max_tokens": max_tokens,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        started = time.perf_counter()
        try:
            async with self._session.post(
                f"{self.url}/v1/chat/completions", data=body, headers=self._headers, timeout=self._timeout
            ) as response:
                if response.status != 200:
                    raise RequestFailedError(f"{response.status} {_message_in(await response.read())}")
                first, answer = await self._read(response)
                latency = time.perf_counter() - started
        except TimeoutError as error:
            raise RequestFailedError("no answer in time") from error
        except aiohttp.ClientError as error:
            raise RequestFailedError(f"{type(error).__name__}: {error}"[:MAX_MESSAGE]) from error
        return self._reply(answer, first - started, latency, response.headers.get(REPLICA_HEADER, ""))

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[float, bytes]:
        """When the first text came (NaN if none did), and the whole answer."""
        answer, decoded, first = bytearray(), 0, math.nan
        async for piece in response.content.iter_any():
            answer += piece
            if len(answer) > MAX_ANSWER_BYTES:
                raise RequestFailedError(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
            if math.isnan(first) and (end := answer.rfind(b"\n")) >= decoded:
                if any(chunk.has_text for chunk in self._chunks(bytes(answer[decoded:end]))):
                    first = time.perf_counter()
                decoded = end + 1
        return first, bytes(answer)

    def _chunks(self, events: bytes) -> list[Chunk]:
        lines = [line[5:].strip() for line in events.splitlines() if line.startswith(b"data:")]
        try:
            chunks = [self._decoder.decode(line) for line in lines if line.startswith(b"{")]
        except msgspec.MsgspecError as error:
            raise RequestFailedError(f"not what the API promises: {error}") from error
        for chunk in chunks:
            if chunk.error:
                raise RequestFailedError(f"in the stream: {str(chunk.error)[:MAX_MESSAGE]}")
        return chunks

    def _reply(self, answer: bytes, ttft: float, latency: float, replica: str) -> Reply:
        chunks = self._chunks(answer)
        if b"[DONE]" not in answer:
            raise RequestFailedError("the stream ended without [DONE]")
        usage = usage_in(chunks)
        return Reply(
            text=whole_text(chunks),
            ttft=ttft,
            latency=latency,
            prompt_tokens=usage.prompt_tokens or 0,
            cached_tokens=usage.cached_tokens or 0,
            output_tokens=usage.completion_tokens or num_with_text(chunks),
            replica=replica,
        )


def _message_in(body: bytes) -> str:
    """The server's own words about an error."""
    try:
        error = msgspec.json.decode(body)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (msgspec.MsgspecError, KeyError, TypeError):
        message = body.decode(errors="replace")
    return str(message)[:MAX_MESSAGE]
