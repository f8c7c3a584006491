"""Records as people have them: bodies of several APIs, exports of tracing tools, conversations.

Each becomes the body of a chat or text completion. Content that is no text stays as it is.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

WRAPPERS = ("request", "body", "request_body", "payload", "params", "inputs", "input")
LISTS = ("observations", "data", "runs")
"""Where exports keep many records in one."""
CONVERSATION_FIELDS = (
    "conversation_id", "session_id", "sessionId", "thread_id", "chat_id", "conversation", "session",
)  # fmt: skip
TIME_FIELDS = ("start_time", "startTime", "timestamp")
ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/messages")
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "ai": "assistant", "bot": "assistant"}
"""What ShareGPT and LangChain call the roles."""
LANGCHAIN_TYPES = ("human", "ai", "system", "tool", "function", "chat")
REQUESTS_OF_TOOLS = {"generation", "llm"}
"""Kinds of observations (Langfuse) and runs (LangSmith) that are requests."""
MAX_DEPTH = 4
"""Wrappers inside each other."""
MAX_ANSWERS = 1000
"""Of one recorded conversation."""
EXPECTED = "expected messages, prompt, input or conversations"
PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z_]{0,23}")
MAX_NAMES = 6


class BrokenLineError(Exception):
    """A record is no request; the message says why, and quotes no text."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the log says of a request besides its body."""

    conversation: str = ""
    """The conversation as the log names it; "" when it does not."""
    time: str = ""
    """When it was sent, as tracing tools write it; later times sort after earlier ones."""
    depth: int = MAX_DEPTH
    """How many wrappers may still follow."""

    def inside(self, value: Mapping[str, Any]) -> "Origin":
        """The same for what is in this object."""
        time = next((value[name] for name in TIME_FIELDS if isinstance(value.get(name), str)), self.time)
        return Origin(self.conversation or _conversation_of(value), time, self.depth - 1)


@dataclass(frozen=True, slots=True)
class Found:
    """One request: the body of a chat or text completion."""

    body: Mapping[str, Any]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is well known, but sends no prompt to be cached."""

    kind: str


def found_in(value: Any, origin: Origin = Origin()) -> Iterator[Found | Skipped]:
    """All requests in a record. Raises `BrokenLineError` where there is nothing of a known form."""
    if isinstance(value, str):
        value = _decoded(value)
    if isinstance(value, list):
        yield from _in_list(value, origin)
        return
    if not isinstance(value, dict) or not origin.depth:
        raise BrokenLineError(f"found {_described(value)}: {EXPECTED}")
    if kind := _skipped_kind(value):
        yield Skipped(kind)
        return
    origin = origin.inside(value)
    if isinstance(value.get("conversations"), list):
        yield from _shared_conversation(value, origin)
    elif "messages" in value:
        yield from _chats(value, origin)
    elif "prompt" in value or "prompts" in value:
        yield Found({**value, "prompt": value.get("prompt", value.get("prompts"))}, origin)
    elif _is_responses(value):
        yield from _chats({**value, "messages": _response_messages(value)}, origin)
    elif many := next((value[name] for name in LISTS if isinstance(value.get(name), list)), None):
        yield from _in_list(many, origin)
    else:
        inner = next((value[name] for name in WRAPPERS if value.get(name)), None)
        if inner is None:
            raise BrokenLineError(f"found {_described(value)}: {EXPECTED}")
        yield from found_in(_with_tools_of_run(inner, value), origin)


def _in_list(values: Sequence[Any], origin: Origin) -> Iterator[Found | Skipped]:
    if values and all(map(_is_message, values)):
        yield from _chats({"messages": values}, origin)
        return
    if not values or not origin.depth or not all(isinstance(one, dict) for one in values):
        raise BrokenLineError(f"found {_described(values)}: {EXPECTED}")
    for one in values:
        yield from found_in(one, replace(origin, depth=origin.depth - 1))


def _with_tools_of_run(inner: Any, run: Mapping[str, Any]) -> Any:
    """LangSmith keeps the tools of a request beside its messages."""
    extra = run.get("extra")
    given = extra.get("invocation_params") if isinstance(extra, dict) else None
    if not isinstance(inner, dict) or not isinstance(given, dict) or "tools" not in given:
        return inner
    return {"tools": given["tools"], **inner}


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BrokenLineError("the wrapped request is no valid JSON") from error


def _described(value: Any) -> str:
    """What a value is, by its type and the names of its fields."""
    if isinstance(value, dict):
        names = [name for name in value if PLAIN_NAME.fullmatch(name)][:MAX_NAMES]
        more = ", …" if len(value) > len(names) else ""
        return f"an object with {', '.join(names)}{more}" if names else f"an object of {len(value)} fields"
    if isinstance(value, list):
        return f"a list of {len(value)}" + (f", first {_described(value[0])}" if value else "")
    kinds: dict[type, str] = {str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _skipped_kind(value: Mapping[str, Any]) -> str:
    """What a record is, if it is known to be no request: a call of another endpoint, or a step of a trace."""
    url = value.get("url")
    if isinstance(url, str) and "body" in value and not url.rstrip("/").endswith(ENDPOINTS):
        return url.rpartition("/v1")[2].partition("?")[0][:40]
    if "encoding_format" in value or ("input" in value and "embed" in str(value.get("model"))):
        return "embeddings"
    if "custom_id" in value and "response" in value:
        return "batch results"
    step = value.get("run_type", value.get("type") if "traceId" in value else None)
    return step[:40] if isinstance(step, str) and step.lower() not in REQUESTS_OF_TOOLS else ""


def _conversation_of(value: Mapping[str, Any]) -> str:
    extra = value.get("extra")
    places = [value, value.get("metadata"), value.get("extra_body")]
    if "run_type" in value:  # LangSmith's session_id is the project
        places = [value.get("metadata"), extra.get("metadata") if isinstance(extra, dict) else None]
    for place in places:
        for name in CONVERSATION_FIELDS:
            found = place.get(name) if isinstance(place, dict) else None
            if isinstance(found, dict):
                found = found.get("id")
            if isinstance(found, str | int) and found != "":
                return str(found)
    return ""


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and (
        isinstance(value.get("role"), str) or value.get("lc") == 1 or value.get("type") in LANGCHAIN_TYPES
    )


def _shared_conversation(value: Mapping[str, Any], origin: Origin) -> Iterator[Found]:
    """ShareGPT: the messages before every answer were a request."""
    origin = replace(origin, conversation=origin.conversation or str(value.get("id", "")))
    messages: list[Mapping[str, Any]] = []
    answers = 0
    for number, turn in enumerate(value["conversations"], start=1):
        role = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        if not isinstance(role, str):
            raise BrokenLineError(f"turn {number} of the conversation does not say whom it is from")
        role = ROLES.get(role, role)
        if role == "assistant" and messages:
            answers += 1
            if answers > MAX_ANSWERS:
                raise BrokenLineError(f"more than {MAX_ANSWERS:,} answers in one conversation")
            yield Found({"messages": list(messages)}, origin)
        messages.append({"role": role, "content": turn.get("value", turn.get("content"))})
    if not answers and messages:
        yield Found({"messages": messages}, origin)


def _chats(body: Mapping[str, Any], origin: Origin) -> Iterator[Found]:
    """A body with messages of OpenAI, Anthropic or LangChain; LangSmith keeps a list of lists."""
    given = body["messages"]
    if not isinstance(given, list) or not given:
        raise BrokenLineError("messages is no list, or empty")
    many = given if all(isinstance(one, list) for one in given) else [given]
    for messages in many:
        system = body.get("system")
        first = [{"role": "system", "content": system}] if system else []
        messages = [*first, *(part for one in messages for part in _messages(one))]
        yield Found({**body, "messages": messages, "tools": _tools(body.get("tools"))}, origin)


def _messages(one: Any) -> Iterator[Any]:
    """A message as chat completions have it; Anthropic's tool results are messages of their own."""
    if not isinstance(one, dict):
        yield one
        return
    if "role" not in one:
        yield _of_langchain(one)
        return
    content = one.get("content")
    if not isinstance(content, list):
        yield one
        return
    calls, rest = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_use":
            calls.append(_call(part.get("id"), part.get("name"), json.dumps(part.get("input"))))
        elif kind == "tool_result":
            yield {
                "role": "tool",
                "tool_call_id": part.get("tool_use_id"),
                "content": part.get("content"),
            }
        elif kind not in ("thinking", "redacted_thinking"):
            rest.append(part)
    if calls:
        yield {**one, "content": rest, "tool_calls": calls}
    elif rest or not content:
        yield {**one, "content": rest}


def _call(identity: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def _of_langchain(one: Mapping[str, Any]) -> dict[str, Any]:
    """A message of LangChain: as a constructor, as type and data, or with type and content side by side."""
    inner = one.get("kwargs", one.get("data", one))
    if not isinstance(inner, dict):
        raise BrokenLineError("a message has neither role nor content")
    path = one.get("id")
    kind = one.get("type")
    if kind == "constructor" and isinstance(path, list) and path:
        kind = str(path[-1]).removesuffix("Chunk").removesuffix("Message").lower()
    if not isinstance(kind, str):
        raise BrokenLineError("a message has no role")
    found: dict[str, Any] = {"role": ROLES.get(kind, kind), "content": inner.get("content")}
    more = inner.get("additional_kwargs")
    calls = more.get("tool_calls") if isinstance(more, dict) else None
    if not calls and isinstance(inner.get("tool_calls"), list):
        calls = [
            _call(call.get("id"), call.get("name"), json.dumps(call.get("args")))
            for call in inner["tool_calls"]
            if isinstance(call, dict)
        ]
    if calls:
        found["tool_calls"] = calls
    if inner.get("tool_call_id"):
        found["tool_call_id"] = inner["tool_call_id"]
    return found


def _is_responses(value: Mapping[str, Any]) -> bool:
    given = value.get("input")
    if isinstance(given, list):
        return any(_is_message(one) or (isinstance(one, dict) and "type" in one) for one in given)
    return isinstance(given, str) and "model" in value and not given.startswith(("{", "["))


def _response_messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Instructions and input items of the Responses API as messages."""
    messages: list[Mapping[str, Any]] = []
    if instructions := body.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    if isinstance(body["input"], str):
        return [*messages, {"role": "user", "content": body["input"]}]
    for item in body["input"]:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "function_call":
            call = _call(item.get("call_id"), item.get("name"), item.get("arguments"))
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind == "function_call_output":
            messages.append(
                {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
            )
        elif kind != "reasoning":
            messages += _messages(item)
    return messages


def _tools(tools: Any) -> Any:
    """Tools of Anthropic and of the Responses API as chat completions have them."""
    if not isinstance(tools, list):
        return tools
    return [
        {
            "type": "function",
            "function": {
                "name": tool.get("name"),
                "description": tool.get("description"),
                "parameters": tool.get("input_schema", tool.get("parameters")),
            },
        }
        if isinstance(tool, dict) and "function" not in tool and "name" in tool
        else tool
        for tool in tools
    ]
