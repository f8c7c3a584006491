"""Anthropic's Messages API: the chat completion that a request stands for.

Field by field what vLLM 0.32 makes of it (`vllm/entrypoints/anthropic/serving.py`), so that the prompt
rendered here is the engine's. What vLLM drops is dropped: ``cache_control``, signatures, redacted thinking.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from cluster.apis.answer_blocks import Json

BILLING_HEADER = "x-anthropic-billing-header"
"""System blocks, and first lines of system prompts, that begin so hold a hash of the request: engines leave
them out."""
TOOL_CHANGES = ("tool_addition", "tool_removal")
KNOWN_BLOCKS = frozenset(
    {"text", "image", "tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking",
     *TOOL_CHANGES}
)  # fmt: skip
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
SAME_FIELDS = ("model", "temperature", "top_p", "top_k", "stream", "chat_template_kwargs")
"""What a chat completion calls by the same name."""


class Block(msgspec.Struct):
    """Whatever a block of content holds that is looked at."""

    type: str
    text: str | None = None
    source: Json | None = None
    id: str | None = None
    tool_use_id: str | None = None
    name: str | None = None
    input: Json | None = None
    content: str | list[Json] | None = None
    thinking: str | None = None
    tool: Json | None = None


class Message(msgspec.Struct):
    """One message."""

    role: str
    content: str | list[Block]


class MessagesShape(msgspec.Struct, kw_only=True):
    """What a request must look like for `chat_of_messages`."""

    messages: list[Message]
    system: str | list[Block] | None = None
    tools: list[Json] | None = None
    tool_choice: Json | None = None
    thinking: Json | None = None
    output_config: Json | None = None
    chat_template_kwargs: Json | None = None


def chat_of_messages(body: Mapping[str, Any]) -> Json | None:
    """The body of the chat completion; None for what only an engine can judge. The body has its shape.

    Some templates want `system_first`, and some know no effort ``none``, which stands for disabled thinking.
    """
    chat: Json = {name: body[name] for name in SAME_FIELDS if body.get(name) is not None}
    messages: list[Json] = []
    if system := _system_text(body.get("system") or ""):
        messages.append({"role": "system", "content": system})
    for message in body["messages"]:
        if message["role"] not in ("user", "assistant", "system"):
            return None
        if not isinstance(message["content"], str) and any(
            block["type"] not in KNOWN_BLOCKS for block in message["content"]
        ):
            return None
        messages.extend(_messages(message))
    chat["messages"] = messages
    if (most := body.get("max_tokens")) is not None:
        chat["max_tokens"] = most
    if stop := body.get("stop_sequences"):
        chat["stop"] = stop
    output = body.get("output_config") or {}
    if effort := output.get("effort"):
        chat["reasoning_effort"] = effort
    if schema := (output.get("format") or {}).get("schema"):
        chat["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "json_schema", "schema": schema},
        }
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "disabled":
        chat["reasoning_effort"] = "none"
    elif thinking.get("type") == "enabled" and "budget_tokens" in thinking:
        chat["thinking_token_budget"] = thinking["budget_tokens"]
    return chat if _add_tools(body, chat) else None


def system_first(chat: Json) -> Json:
    """The same for a template that wants all system messages in front, as one."""
    messages: Sequence[Json] = chat["messages"]
    system = "".join([message["content"] for message in messages if message["role"] == "system"])
    others = [message for message in messages if message["role"] != "system"]
    return {**chat, "messages": [{"role": "system", "content": system}, *others]}


def _system_text(content: str | Sequence[Json]) -> str:
    """Of the field, whose text stays as it is, or of its blocks."""
    if isinstance(content, str):
        return content
    texts = [block.get("text") or "" for block in content if block["type"] == "text"]
    return "".join([text for text in texts if not text.startswith(BILLING_HEADER)])


def _messages(message: Json) -> Iterator[Json]:
    """What one message becomes: results of tools come first, each as a message of its own."""
    role, content = message["role"], message["content"]
    if role == "system":
        billing = isinstance(content, str) and content.startswith(BILLING_HEADER)
        if text := "" if billing else _system_text(content):
            yield {"role": "system", "content": text}
        return
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    converted: Json = {"role": role}
    parts: list[Json] = []
    calls: list[Json] = []
    thoughts: list[str] = []
    for block in content:
        kind = block["type"]
        if kind == "text" and block.get("text"):
            parts.append({"type": "text", "text": block["text"]})
        elif kind == "image" and block.get("source"):
            parts.append(_image(block["source"]))
        elif kind == "thinking" and block.get("thinking") is not None:
            thoughts.append(block["thinking"])
        elif kind == "tool_use":
            calls.append(_tool_call(block))
        elif kind == "tool_result" and role == "user":
            yield from _tool_result(block)
        elif kind == "tool_result":
            result = block.get("content")
            parts.append({"type": "text", "text": f"Tool result: {result or ''}"})
    if thoughts:
        converted["reasoning"] = "".join(thoughts)
    if calls:
        converted["tool_calls"] = calls
    if parts:
        alone = len(parts) == 1 and parts[0]["type"] == "text"
        converted["content"] = parts[0]["text"] if alone else parts
    if role != "user" or parts:
        yield converted


def _tool_call(block: Json) -> Json:
    function = {"name": block.get("name") or "", "arguments": json.dumps(block.get("input") or {})}
    return {"id": block.get("id") or "call_0", "type": "function", "function": function}


def _tool_result(block: Json) -> Iterator[Json]:
    content = block.get("content") or ""
    about = {"role": "tool", "tool_call_id": block.get("tool_use_id") or ""}
    if isinstance(content, str):
        yield {**about, "content": content}
        return
    texts = [item.get("text", "") for item in content if item.get("type") == "text"]
    yield {**about, "content": "\n".join(texts)}
    images = [_image(item.get("source", {})) for item in content if item.get("type") == "image"]
    if images := [image for image in images if image["image_url"]["url"]]:
        yield {"role": "user", "content": images}
    names = [
        item.get("tool_name") or item.get("name") for item in content if item.get("type") == "tool_reference"
    ]
    if references := [{"type": "tool_reference", "name": name} for name in names if name]:
        yield {**about, "content": references}


def _image(source: Json) -> Json:
    url = f"data:{source.get('media_type', 'image/jpeg')};base64,{source.get('data', '')}"
    if source.get("type") == "url":
        url = source.get("url", "")
    return {"type": "image_url", "image_url": {"url": url}}


def _add_tools(body: Mapping[str, Any], chat: Json) -> bool:
    """Add tools and the choice among them. False where an engine would refuse them, or may know others."""
    choice = body.get("tool_choice") or {}
    if choice:
        chat["parallel_tool_calls"] = not choice.get("disable_parallel_tool_use")
        kind = choice.get("type")
        named = {"type": "function", "function": {"name": choice.get("name")}}
        chat["tool_choice"] = named if kind == "tool" else TOOL_CHOICES.get(kind or "")
    tools = _tools_in_effect(body)
    if tools is None:
        return True
    if not all(isinstance(tool.get("input_schema"), dict) and tool.get("name") for tool in tools):
        return False
    chat["tools"] = [_tool(tool) for tool in tools]
    chat.setdefault("tool_choice", "auto")
    return True


def _tool(tool: Json) -> Json:
    schema = tool["input_schema"]
    function: Json = {
        "name": tool["name"],
        "description": tool.get("description"),
        "parameters": schema if "type" in schema else {**schema, "type": "object"},
    }
    for name in ("strict", "defer_loading"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _tools_in_effect(body: Mapping[str, Any]) -> list[Json] | None:
    """The tools at the end of the conversation: messages may add and remove some."""
    tools: list[Json] | None = body.get("tools")
    changes = [
        block
        for message in body["messages"]
        if message["role"] == "system" and not isinstance(message["content"], str)
        for block in message["content"]
        if block["type"] in TOOL_CHANGES
    ]
    if not changes:
        return tools
    named = {tool.get("name"): tool for tool in tools or ()}
    removed = set()
    for block in changes:
        change = block.get("tool") or {}
        definition = change.get("definition")
        name = (definition or change).get("name")
        if definition is not None:
            named[name] = definition
        elif name not in named:
            return [{}]
        elif block["type"] == "tool_addition":
            named[name] = {key: value for key, value in named[name].items() if key != "defer_loading"}
        if block["type"] == "tool_removal":
            removed.add(name)
        else:
            removed.discard(name)
    return [tool for name, tool in named.items() if name not in removed]
