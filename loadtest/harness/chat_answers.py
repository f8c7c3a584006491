"""Answers of an OpenAI-compatible server, as far as clients of load tests look into them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

REPLICA_HEADER = "x-warmroute-replica"
MAX_MESSAGE = 200
"""Characters of a server's error message."""


class RequestFailedError(Exception):
    """A request was not answered to its end; with the server's message where there is one."""


class Text(msgspec.Struct):
    """What a model says, or a piece of it."""

    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    """One answer: a piece of it in a stream, else the whole message; a text completion has plain text."""

    delta: Text | None = None
    message: Text | None = None
    text: str | None = None

    @property
    def content(self) -> str:
        """What is said, without thoughts."""
        said = self.delta or self.message
        return (said.content if said else self.text) or ""

    @property
    def thoughts(self) -> str:
        """What is thought before something is said."""
        said = self.delta or self.message
        return (said.reasoning_content if said else None) or ""


class Details(msgspec.Struct):
    """What a server says of a prompt's tokens."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as the server counted them; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class Chunk(msgspec.Struct):
    """A streamed event, or an answer that was not streamed."""

    choices: Sequence[Choice] = ()
    usage: Usage | None = None
    error: Any = None

    @property
    def text(self) -> str:
        """What is said in all its choices, without thoughts."""
        return "".join(choice.content for choice in self.choices)

    @property
    def has_text(self) -> bool:
        """Whether it brings any text, thoughts included."""
        return any(choice.content or choice.thoughts for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as its client saw it. Counts are the server's own where it gives them."""

    text: str
    latency: float
    """Seconds from sending the request to the end of the answer."""
    ttft: float | None
    """Seconds to the first token with text; None if the answer was not streamed, or has none."""
    output_tokens: int
    prompt_tokens: int
    """0 if the server does not say."""
    cached_tokens: int | None
    """Prompt tokens that were in the engine's cache; None if the server does not say."""
    replica: str
    """Empty if the server does not say."""
    size: int
    """Bytes of the answer."""

    @property
    def first_token(self) -> float:
        """Seconds to the first token. Without text, the first token is the last one, and came at the end."""
        return self.latency if self.ttft is None else self.ttft

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds from one token to the next, the first one left out."""
        if self.ttft is None or self.output_tokens < 2:
            return None
        return (self.latency - self.ttft) / (self.output_tokens - 1)


_decoder = msgspec.json.Decoder(Chunk)


def decode_chunk(data: bytes) -> Chunk:
    """One event's JSON. Raises `RequestFailedError` for an error, and for what is no event."""
    try:
        chunk = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise RequestFailedError(f"not what the API promises: {error}") from error
    if chunk.error:
        raise RequestFailedError(f"in the stream: {_message_of(chunk.error)}")
    return chunk


def chunks_in(lines: bytes, decode: Callable[[bytes], Chunk] = decode_chunk) -> list[Chunk]:
    """The events in some lines of a stream. Raises `RequestFailedError`."""
    events = [line[5:].strip() for line in lines.splitlines() if line.startswith(b"data:")]
    return [decode(data) for data in events if data.startswith(b"{")]


def read_reply(
    answer: bytes,
    latency: float,
    ttft: float | None,
    replica: str,
    is_stream: bool = True,
    decode: Callable[[bytes], Chunk] = decode_chunk,
    ends: Sequence[bytes] = (b"[DONE]",),
) -> Reply:
    """Decode a whole answer, by ``decode`` and with one of these ``ends``. Raises `RequestFailedError`."""
    chunks = chunks_in(answer, decode) if is_stream else [decode(answer)]
    if is_stream and not any(end in answer for end in ends):
        raise RequestFailedError(f"the stream ended without {ends[0].decode()}")
    usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage), Usage())
    details = usage.prompt_tokens_details or Details()
    return Reply(
        text="".join(chunk.text for chunk in chunks),
        latency=latency,
        ttft=ttft,
        output_tokens=usage.completion_tokens or sum(chunk.has_text for chunk in chunks),
        prompt_tokens=usage.prompt_tokens or 0,
        cached_tokens=details.cached_tokens,
        replica=replica,
        size=len(answer),
    )


def read_models(body: bytes) -> list[str]:
    """The names in an answer of ``/v1/models``. Raises `RequestFailedError`."""
    try:
        return [str(model["id"]) for model in msgspec.json.decode(body)["data"]]
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise RequestFailedError("GET /v1/models does not answer with a list of models") from error


def refusal(status: int, body: bytes) -> RequestFailedError:
    """What to raise for an answer whose status is not 200, with the server's own words."""
    try:
        message = _message_of(msgspec.json.decode(body)["error"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        message = body.decode(errors="replace")[:MAX_MESSAGE]
    return RequestFailedError(f"{status} {message}".rstrip())


def _message_of(error: Any) -> str:
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return str(message)[:MAX_MESSAGE]
