"""The paths whose requests an engine answers, one line each: everything the router does differently for
one of them stands here.

A request with keys goes where its blocks are. Any other goes to the replica with the least load.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from cluster.apis.answer_blocks import Maker
from cluster.apis.message_answers import MessageMaker
from cluster.apis.messages import MessagesShape, chat_of_messages
from cluster.apis.response_answers import ResponseMaker
from cluster.apis.responses import ResponsesShape, chat_of_response
from router.errors import anthropic_body
from router.http.sse import UNREADABLE, EventFilter, usage_of_reply
from router.http.stream_formats import (
    CHUNKS,
    MESSAGE,
    RESPONSE,
    PassedEvents,
    StreamFormat,
    UsageReader,
    usage_of_input,
)
from router.requests.agent_calls import Conversion, parse_as_chat
from router.requests.schema import (
    CHARACTERS_PER_TOKEN,
    CHAT_PATH,
    COMPLETION_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
    Call,
    call_of,
    parse_chat,
    parse_completion,
    read_object,
)

AUDIO_BYTES_PER_TOKEN = 320
"""Guess: 50 tokens a second, as Whisper has them, of audio at 128 kbit/s."""
NO_PROMPT = math.inf
"""Bytes per token where the engine computes nothing of a prompt."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path, and how its requests and answers are read."""

    path: str
    family: str
    """What OpenTelemetry calls the operation."""
    read: Callable[[bytes], Call] | None
    """Parses the JSON of a body; None where that is a form."""
    stream: StreamFormat | None = None
    """None where all answers are whole."""
    usage: UsageReader | None = usage_of_reply
    keyed: bool = False
    """Whether the prompt gets block keys."""
    salted: bool = True
    """Whether the engine keeps blocks of the prompt, and reads the salt that isolates a tenant's."""
    bytes_per_token: float = CHARACTERS_PER_TOKEN
    """For a guess at the load."""
    named_prompts: bool = False
    """Whether requests may name a prompt: ``prompt: {id, version, variables}``."""
    maker: Callable[[bytes], Maker] | None = None
    """Given a request's body, makes its answer of a chat completion's, for engines without this path."""

    @property
    def _is_anthropics(self) -> bool:
        return self.path.startswith(MESSAGES_PATH)

    def error_body(self, status: int, body: dict[str, Any]) -> dict[str, Any]:
        """An error in the API's own format, given in OpenAI's."""
        return anthropic_body(status, body) if self._is_anthropics else body

    def engine_error(self, status: int, answer: bytes) -> bytes:
        """An engine's answer that is an error, in the API's own format if it was in OpenAI's."""
        try:
            body = msgspec.json.decode(answer) if self._is_anthropics else None
        except UNREADABLE:
            return answer
        if not isinstance(body, dict) or not isinstance(body.get("error"), dict) or "type" in body:
            return answer
        return msgspec.json.encode(self.error_body(status, body))

    def events(self, keep_usage: bool) -> EventFilter:
        """What reads a stream on its way to the client."""
        assert self.stream is not None
        if self.usage is usage_of_reply and self.keyed:
            return EventFilter(keep_usage)
        return PassedEvents(ends=self.stream.ends, read_usage=self.usage)


def parse_passed(path: str, raw: bytes, *, streams: bool) -> Call:
    """Parse the body of a request whose prompt gets no keys.

    Where no answer ``streams``, engines take no notice of what the body says about that.
    """
    body = read_object(raw)
    call = call_of(path, body, b"", is_readable=body.is_standard)
    return msgspec.structs.replace(call, stream=streams and call.stream, wants_usage=True)


def _as_chat(
    path: str, shape: Any, convert: Conversion, stream: StreamFormat, maker: Callable[[bytes], Maker]
) -> Endpoint:
    read = partial(parse_as_chat, path, shape, convert)
    named = path == RESPONSES_PATH
    return Endpoint(path, "chat", read, stream, usage_of_input, keyed=True, named_prompts=named, maker=maker)


def _passed(
    path: str,
    family: str,
    stream: StreamFormat | None = None,
    usage: UsageReader | None = usage_of_reply,
) -> Endpoint:
    read = partial(parse_passed, path, streams=stream is not None)
    return Endpoint(path, family, read, stream, usage)


def _counted_only(path: str) -> Endpoint:
    read = partial(parse_passed, path, streams=False)
    return Endpoint(path, "tokenize", read, usage=None, salted=False, bytes_per_token=NO_PROMPT)


def _form(path: str, family: str) -> Endpoint:
    return Endpoint(
        path, family, None, CHUNKS, usage=None, salted=False, bytes_per_token=AUDIO_BYTES_PER_TOKEN
    )


ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(CHAT_PATH, "chat", parse_chat, CHUNKS, keyed=True, named_prompts=True),
        Endpoint(COMPLETION_PATH, "text_completion", parse_completion, CHUNKS, keyed=True),
        _as_chat(MESSAGES_PATH, MessagesShape, chat_of_messages, MESSAGE, lambda _: MessageMaker()),
        _as_chat(
            RESPONSES_PATH,
            ResponsesShape,
            chat_of_response,
            RESPONSE,
            lambda raw: ResponseMaker(msgspec.json.decode(raw)),
        ),
        _counted_only("/v1/messages/count_tokens"),
        *(
            _counted_only(f"{path}/render")
            for path in (CHAT_PATH, COMPLETION_PATH, MESSAGES_PATH, RESPONSES_PATH)
        ),
        *(_counted_only(f"{path}/derender") for path in (CHAT_PATH, COMPLETION_PATH)),
        _passed(f"{CHAT_PATH}/batch", "chat"),
        _passed("/inference/v1/generate", "text_completion", CHUNKS),
        _passed("/v1/systemone", "chat"),
        _passed("/v1/embeddings", "embeddings"),
        _passed("/v2/embed", "embeddings"),
        _passed("/pooling", "pooling"),
        _passed("/classify", "classify"),
        _passed("/score", "score"),
        _passed("/v1/score", "score"),
        _passed("/generative_scoring", "score"),
        _passed("/rerank", "rerank"),
        _passed("/v1/rerank", "rerank"),
        _passed("/v2/rerank", "rerank"),
        _counted_only("/tokenize"),
        _counted_only("/detokenize"),
        _form("/v1/audio/transcriptions", "transcription"),
        _form("/v1/audio/translations", "translation"),
    )
}
