"""For which requests of a model the router's tokens are not the engine's, as far as replies have shown.

A reply whose count of prompt tokens differs says something about its own conversation. Three conversations of
one unusual shape in a row say something about that shape, unless one of it has agreed lately. Nothing that a
client sends says anything about ordinary requests, or about other shapes: for these only the comparison with
the engine's ``/tokenize`` counts (`router.requests.tokenizers`). A shape is an API and the unusual features
that shape a prompt; looking at a request's takes 5 to 20 us, whatever its size.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

from cluster.apis.messages import BILLING_HEADER
from router.requests.schema import Call

MAX_CONVERSATIONS = 10_000
"""Conversations remembered as not exact; beyond, those that differed first are tried again."""
MAX_SHAPES = 64
DIFFERENCES = 3
"""Conversations in a row that differ before a shape is no longer believed."""
AGREED_SECONDS = 300.0
"""A shape that has agreed within this time is believed, however many of its conversations differ."""
LOOK_SECONDS = 0.1
"""How often a reply that agrees is noted while nothing differs: looking at its shape takes microseconds."""
MAX_AGREED = 1024
"""Shapes remembered as having agreed."""
TRIAL_SECONDS = 5.0
"""First pause before a request of a shape that is not believed is compared again; it doubles every time."""
TRIAL_LIMIT_SECONDS = 300.0
FORGET_SECONDS = 900.0
"""A shape of which nothing has differed for so long is like a new one."""

PROMPT_FIELDS = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "function_call",
        "functions",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "prompt_embeds",
        "reasoning",
        "reasoning_effort",
        "suffix",
        "thinking",
        "truncate_prompt_tokens",
    }
)
"""Fields of a request, besides its messages and tools, with which engines make its prompt."""
USUAL_ROLES = ("system", "user", "assistant", "tool")
USUAL_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id"})
"""Of a message."""

ENDS = 8
"""Messages looked at from either end of a conversation."""
MAX_LOOKED_AT = 8
"""Parts of a message, its keys, tool calls, tools and options that are looked at."""
MAX_TEXT = 4096
"""Characters of a system prompt that are searched."""
MAX_FEATURES = 8
MAX_NAME = 32
"""Characters of a name that a client gives; of longer ones nothing is kept."""


class Shape(NamedTuple):
    """A kind of request. Bounded in size, whatever the client sends."""

    family: str
    """The API, by the path of its endpoint."""
    features: tuple[str, ...]
    """What is unusual about the request, in alphabetical order."""

    def __str__(self) -> str:
        return f"{self.family} with {', '.join(self.features)}" if self.features else self.family


@dataclass(slots=True)
class _Record:
    """What replies have said of one shape; times are monotonic, in seconds."""

    differences: int = 0
    """Conversations that have differed since one agreed."""
    believed: bool = True
    differed_at: float = float("-inf")
    trial_at: float = 0.0
    pause: float = TRIAL_SECONDS
    where: str = ""
    """Where the router's tokens and the engine's part, in words; "" while that is not known."""

    def differs(self, now: float, may_be_doubted: bool) -> None:
        """One more conversation has differed."""
        self.differences += 1
        if self.believed and self.differences >= DIFFERENCES and may_be_doubted:
            self.believed, self.pause = False, TRIAL_SECONDS
            self._wait(now)

    def agrees(self) -> None:
        """A reply has agreed."""
        self.differences, self.believed = 0, True

    def takes_trial(self, now: float) -> bool:
        """Whether the next request is to be compared although the shape is not believed."""
        if now < self.trial_at:
            return False
        self._wait(now)
        return True

    def _wait(self, now: float) -> None:
        self.trial_at = now + self.pause
        self.pause = min(2 * self.pause, TRIAL_LIMIT_SECONDS)


class Exactness:
    """What replies have shown of one model's requests."""

    def __init__(self) -> None:
        self._conversations: OrderedDict[int, Shape] = OrderedDict()
        """Conversations that have differed, and in which shape: others may begin in the same way."""
        self._records: OrderedDict[Shape, _Record] = OrderedDict()
        self._any_doubted = False
        self._agreed: OrderedDict[Shape, float] = OrderedDict()
        """When unusual shapes have agreed; also those of which nothing has differed yet."""
        self._look_at = float("-inf")

    def wants_agreement(self, now: float) -> bool:
        """Whether a reply that agrees is to be noted: any while something differs, otherwise some."""
        return bool(self._records) or now >= self._look_at

    def is_exact(self, call: Call, conversation_key: int, now: float) -> bool:
        """Whether this request's tokens are believed to be the engine's, or are to be compared once more."""
        if not self._any_doubted and conversation_key not in self._conversations:
            return True
        shape = shape_of(call)
        record = self._records.get(shape)
        if record is not None and not record.believed:
            return record.takes_trial(now)
        return self._conversations.get(conversation_key) != shape

    def agrees(self, shape: Shape, conversation_key: int, now: float) -> None:
        """A reply's count of prompt tokens was the router's."""
        self._look_at = now + LOOK_SECONDS
        if shape.features:
            self._agreed[shape] = now
            self._agreed.move_to_end(shape)
            if len(self._agreed) > MAX_AGREED:
                self._agreed.popitem(last=False)
        if (record := self._records.get(shape)) is not None:
            record.agrees()
            self._note_doubts()
        if self._conversations.get(conversation_key) == shape:
            del self._conversations[conversation_key]

    def differs(self, shape: Shape, conversation_key: int, now: float) -> None:
        """A reply's count of prompt tokens was another one."""
        record = self._records.setdefault(shape, _Record())
        record.differed_at = now
        self._records.move_to_end(shape)
        if len(self._records) > MAX_SHAPES:
            self._records.popitem(last=False)
        if self._conversations.get(conversation_key) != shape:
            self._conversations[conversation_key] = shape
            self._conversations.move_to_end(conversation_key)
            if len(self._conversations) > MAX_CONVERSATIONS:
                self._conversations.popitem(last=False)
            agreed_lately = now - self._agreed.get(shape, float("-inf")) < AGREED_SECONDS
            record.differs(now, may_be_doubted=bool(shape.features) and not agreed_lately)
        self._note_doubts()

    def wants_location(self, shape: Shape) -> bool:
        """Whether this shape differs, and it is to be found out where."""
        record = self._records.get(shape)
        return record is not None and not record.where

    def locate(self, shape: Shape, where: str) -> None:
        """It has been found out where tokens of this shape part."""
        if (record := self._records.get(shape)) is not None:
            record.where = where

    def forget_until(self, now: float) -> None:
        """Drop shapes of which nothing has differed for long, at a monotonic time in seconds."""
        old = [shape for shape, record in self._records.items() if now - record.differed_at > FORGET_SECONDS]
        for shape in old:
            del self._records[shape]
        if old:
            self._note_doubts()

    def _note_doubts(self) -> None:
        self._any_doubted = any(not record.believed for record in self._records.values())

    def problems(self) -> Iterator[str]:
        """What operators should know."""
        for shape, record in self._records.items():
            where = f" ({record.where})" if record.where else ""
            counted = f"{shape}: the engine counts other prompt tokens"
            if not record.believed:
                yield f"{counted}{where}; such requests go by their texts"
            elif record.differences >= DIFFERENCES:
                number = record.differences
                yield f"{counted} in {number} conversations in a row{where}; these go by their texts"


def shape_of(call: Call) -> Shape:
    """The shape of a request."""
    fields = call.fields
    found = set(chain(_fields(fields), _tools(fields), _messages(fields)))
    return Shape(call.path.removeprefix("/v1/"), tuple(sorted(found)[:MAX_FEATURES]))


def _fields(fields: Mapping[str, Any]) -> Iterator[str]:
    for name in filter(fields.__contains__, PROMPT_FIELDS):
        value = fields[name]
        if name == "chat_template_kwargs" and isinstance(value, Mapping):
            for option in islice(value, MAX_LOOKED_AT):
                yield f"{name}.{_name(option)}"
        elif value is not None:
            yield name


def _tools(fields: Mapping[str, Any]) -> Iterator[str]:
    tools = fields.get("tools")
    if not isinstance(tools, list):
        return
    if tools and fields.get("tool_choice") == "none":
        yield "tools without a choice"
    for tool in islice(tools, MAX_LOOKED_AT):
        if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
            yield "tools of other types"
        elif "defer_loading" in tool or "defer_loading" in _mapping(tool.get("function")):
            yield "deferred tools"


def _messages(fields: Mapping[str, Any]) -> Iterator[str]:
    messages = fields.get("messages")
    if not isinstance(messages, list):
        return
    for message in messages if len(messages) <= 2 * ENDS else messages[:ENDS] + messages[-ENDS:]:
        if isinstance(message, dict) and not _is_ordinary(message):
            yield from _message(message)


def _is_ordinary(message: dict[str, Any]) -> bool:
    """Whether it is a role and a text, as most messages are: `_message` takes five times as long."""
    return (
        len(message) == 2
        and message.get("role") in ("user", "assistant")  # a tuple: in a completion it may be anything
        and isinstance(message.get("content"), str)
    )


def _message(message: Mapping[str, Any]) -> Iterator[str]:
    role, content = message.get("role"), message.get("content")
    if role not in USUAL_ROLES:
        yield f"role {_name(role)}"
    if len(message) > 2:
        for key in islice(message, MAX_LOOKED_AT):
            if key not in USUAL_KEYS:
                yield f"message.{_name(key)}"
        if message.get("tool_calls") is not None and not (
            role == "assistant" and _are_plain_calls(message["tool_calls"])
        ):
            yield "unusual tool calls"
    if isinstance(content, str):
        if role == "system" and _has_billing_line(content):
            yield BILLING_HEADER
    elif isinstance(content, list):
        for part in islice(content, MAX_LOOKED_AT):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if kind != "text":
                yield f"part {_name(kind)}"
            elif role == "system" and _has_billing_line(part.get("text")):
                yield BILLING_HEADER
    elif not message.get("tool_calls"):
        yield "no content"


def _are_plain_calls(calls: Any) -> bool:
    return isinstance(calls, list) and all(
        isinstance(_mapping(_mapping(call).get("function")).get("arguments"), str)
        for call in islice(calls, MAX_LOOKED_AT)
    )


def _has_billing_line(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    return text.startswith(BILLING_HEADER) or text.find("\n" + BILLING_HEADER, 0, MAX_TEXT) >= 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _name(value: Any) -> str:
    """A client's word, if it is short and plain enough to be remembered and shown."""
    short = isinstance(value, str) and len(value) <= MAX_NAME
    return value if short and value.isascii() and value.isidentifier() else "other"
