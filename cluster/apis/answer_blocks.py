"""The answer of a chat completion as blocks: thoughts, text and calls of tools, one after the other.

The form between chat completions and the other APIs: these have nothing but such blocks in their answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

Json: TypeAlias = dict[str, Any]


class Maker(Protocol):
    """Makes the answer to one request of another API out of a chat completion's."""

    def whole(self, answer: Mapping[str, Any], /) -> Json:
        """What an answer becomes that is not streamed."""

    def feed(self, chunk: Mapping[str, Any], /) -> Iterator[bytes]:
        """The events that one chunk of a stream becomes."""

    def close(self) -> Iterator[bytes]:
        """The events at the end of a stream."""


class Kind(Enum):
    """What a block is."""

    THOUGHTS = auto()
    TEXT = auto()
    CALL = auto()


@dataclass(slots=True)
class Block:
    """One block; of a call the text is that of its arguments."""

    kind: Kind
    index: int
    text: str = ""
    id: str = ""
    name: str = ""


class Part(Enum):
    """What happens to a block of a stream."""

    BEGUN = auto()
    ADDED = auto()
    ENDED = auto()


class Step(NamedTuple):
    """One thing that happens in a stream; what is added is `text`."""

    part: Part
    block: Block
    text: str = ""


def blocks_of(message: Mapping[str, Any]) -> list[Block]:
    """The blocks of a whole answer."""
    blocks = []
    if thoughts := message.get("reasoning") or message.get("reasoning_content"):
        blocks.append(Block(Kind.THOUGHTS, 0, thoughts))
    if text := message.get("content"):
        blocks.append(Block(Kind.TEXT, len(blocks), text))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = function.get("arguments") or ""
        blocks.append(Block(Kind.CALL, len(blocks), arguments, call["id"], function["name"]))
    return blocks


class BlockStream:
    """Finds the blocks in the chunks of a stream."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.usage: Json | None = None
        self.finish_reason: str | None = None
        self.stop_reason: Any = None
        self._open: Block | None = None
        self._call_number = -1
        """Of the call that is open, as chunks have it."""
        self._later = ""
        """Text that came in the middle of a call."""

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Step]:
        """What happens with one chunk."""
        self.usage = chunk.get("usage") or self.usage
        choices: Sequence[Json] = chunk.get("choices") or ()
        for choice in choices[:1]:
            delta = choice.get("delta") or {}
            if thoughts := delta.get("reasoning") or delta.get("reasoning_content"):
                yield from self._add(Kind.THOUGHTS, thoughts)
            if text := delta.get("content"):
                if self._open is not None and self._open.kind is Kind.CALL:
                    self._later += text
                else:
                    yield from self._add(Kind.TEXT, text)
            for call in delta.get("tool_calls") or ():
                yield from self._add_call(call)
            if choice.get("finish_reason") is not None:
                self.finish_reason, self.stop_reason = choice["finish_reason"], choice.get("stop_reason")

    def close(self) -> Iterator[Step]:
        """What happens at the end."""
        if self._open is not None:
            yield Step(Part.ENDED, self._open)
            self._open = None
        if self._later:
            text, self._later = self._later, ""
            yield from self._add(Kind.TEXT, text)
            yield from self.close()

    def _add(self, kind: Kind, text: str) -> Iterator[Step]:
        block = self._open
        if block is None or block.kind is not kind:
            yield from self.close()
            block = Block(kind, len(self.blocks))
            yield self._begin(block)
        block.text += text
        yield Step(Part.ADDED, block, text)

    def _add_call(self, call: Json) -> Iterator[Step]:
        function = call.get("function") or {}
        number, block = call.get("index", 0), self._open
        if function.get("name") and (number != self._call_number or call.get("id")):
            yield from self.close()
            self._call_number = number
            name = function["name"]
            call_id = call.get("id") or f"call_{number}"
            block = Block(Kind.CALL, len(self.blocks), id=call_id, name=name)
            yield self._begin(block)
        if (text := function.get("arguments")) and number == self._call_number and block is not None:
            block.text += text
            yield Step(Part.ADDED, block, text)

    def _begin(self, block: Block) -> Step:
        self._open = block
        self.blocks.append(block)
        return Step(Part.BEGUN, block)


def event(data: Json) -> bytes:
    """A server-sent event that is named after its type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), msgspec.json.encode(data))
