"""Chat answers on the wire, as far as clients of load tests look into them."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


class Text(msgspec.Struct):
    """What a model says, or a piece of it."""

    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    """One answer: a piece of it in a stream, else the whole message."""

    delta: Text | None = None
    message: Text | None = None


class Details(msgspec.Struct):
    """Of the prompt's tokens."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as the server counted them; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that were in the engine's cache."""
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


class Chunk(msgspec.Struct):
    """A streamed event, or an answer that was not streamed."""

    choices: Sequence[Choice] = ()
    usage: Usage | None = None
    error: Any = None

    @property
    def texts(self) -> list[Text]:
        """Of all its choices."""
        texts = (choice.delta or choice.message for choice in self.choices)
        return [text for text in texts if text is not None]

    @property
    def has_text(self) -> bool:
        """Whether it brings any, thoughts included."""
        return any(text.content or text.reasoning_content for text in self.texts)


def whole_text(chunks: Iterable[Chunk]) -> str:
    """What was said, without thoughts."""
    return "".join(text.content for chunk in chunks for text in chunk.texts if text.content)


def usage_in(chunks: Sequence[Chunk]) -> Usage:
    """The last usage that was reported; an empty one if none was."""
    return next((chunk.usage for chunk in reversed(chunks) if chunk.usage), Usage())


def num_with_text(chunks: Iterable[Chunk]) -> int:
    """Chunks that bring text: about the tokens, where the server does not count them."""
    return sum(chunk.has_text for chunk in chunks)
