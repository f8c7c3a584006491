"""What kind of request a prompt comes from: its API, and the unusual features that shape its prompt.

Whether the router's tokens are the engine's is learned for each shape, so that a feature which one client
uses says nothing about the requests of others. Looking at a request takes 5 to 20 us, whatever its size.
"""

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

from router.requests.schema import Call

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
BILLING_LINE = "x-anthropic-billing-header"
"""A line of a system prompt that begins so is left out by some engines."""

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
            yield BILLING_LINE
    elif isinstance(content, list):
        for part in islice(content, MAX_LOOKED_AT):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if kind != "text":
                yield f"part {_name(kind)}"
            elif role == "system" and _has_billing_line(part.get("text")):
                yield BILLING_LINE
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
    return text.startswith(BILLING_LINE) or text.find("\n" + BILLING_LINE, 0, MAX_TEXT) >= 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _name(value: Any) -> str:
    """A client's word, if it is short and plain enough to be remembered and shown."""
    short = isinstance(value, str) and len(value) <= MAX_NAME
    return value if short and value.isascii() and value.isidentifier() else "other"
