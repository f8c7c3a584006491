"""What vLLM makes of a request's messages and tools before a chat template sees them (0.32,
`vllm/renderers/chat_utils.py` and its protocol classes): parts joined or wrapped, lines left out, roles
renamed, arguments parsed, keys in its own order.

Of what vLLM refuses anything may become. Raises `PromptError` for what cannot be rendered here, and
`LookupError` or `TypeError` for other things that vLLM refuses.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from cluster.apis.messages import BILLING_HEADER
from cluster.errors import PromptError

Message: TypeAlias = dict[str, Any]

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal",
              "thinking": "thinking"}  # fmt: skip
"""Where parts of these types have their text."""
PART_FIELDS = frozenset(
    {"audio_embeds", "audio_url", "closed", "data", "file", "image_embeds", "image_pil", "image_url",
     "input_audio", "name", "prompt_cache_breakpoint", "refusal", "text", "thinking", "type", "uuid",
     "video_embeds", "video_url"}
)  # fmt: skip
"""What templates do not get to see of a text part, besides its text; any other field they do."""


def conversation(
    messages: Iterable[Mapping[str, Any]], *, parts_as_objects: bool, knows_developer: bool
) -> list[Message]:
    """The messages as a template gets them. One without developers gets system messages."""
    found = [_message(message, parts_as_objects) for message in messages]
    if any(message["role"] == "developer" for message in found):
        if knows_developer and any(message.get("tools") is not None for message in found):
            raise PromptError("a developer's own tools cannot be rendered here")
        return found if knows_developer else _without_developers(found)
    return found


def tools_of(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool definitions, with all fields that templates may print and no others."""
    return [_tool(tool) for tool in tools]


def _message(message: Mapping[str, Any], parts_as_objects: bool) -> Message:
    role, content = message["role"], message.get("content")
    found: Message = {"role": role, "content": content}
    if parts_as_objects or role == "system" or not isinstance(content, str):
        found["content"] = _content(role, content, parts_as_objects)
    if role == "assistant":
        if message.get("tool_calls"):
            found["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
        reasoning = message.get("reasoning")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:
            found["reasoning"] = found["reasoning_content"] = reasoning
    elif role == "tool":
        if "tool_call_id" in message:
            found["tool_call_id"] = message["tool_call_id"]
    elif role == "developer":
        found["tools"] = message.get("tools")
    for key in ("name", "task"):
        if isinstance(message.get(key), str):
            found[key] = message[key]
    return found


def _content(role: str, content: Any, parts_as_objects: bool) -> Any:
    parts = [content] if isinstance(content, str) else content or ()
    if role == "system":
        parts = _without_billing(parts)
    parsed = list(filter(None, (_part(part, parts_as_objects) for part in parts)))
    if parts_as_objects and (role != "tool" or any(part["type"] != "text" for part in parsed)):
        return parsed
    texts = [part["text"] for part in parsed] if parts_as_objects else parsed
    return texts[0] if len(texts) == 1 else "\n".join(texts)


def _part(part: Any, as_object: bool) -> Any:
    """One part of a content: a text or an object with it; nothing where it is left out."""
    if isinstance(part, str):
        return {"type": "text", "text": part} if as_object else part
    kind = part.get("type") if isinstance(part, Mapping) and part.get("uuid") is None else None
    if kind == "tool_reference":
        return {"type": kind, "name": part.get("name")} if as_object else part.get("name")
    if kind not in TEXT_PARTS:
        raise PromptError("only text content can be tokenised here")
    text = part.get(TEXT_PARTS[kind])
    if text is None or not as_object:
        return text
    return {"type": "text", "text": text, **_others(part, PART_FIELDS)}


def _without_billing(parts: Iterable[Any]) -> Iterable[Any]:
    """The parts of a system prompt without lines that differ in every request of Claude Code."""
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else part
        # `str.startswith`, since texts of other classes refuse to be looked at (`chat_skeletons`).
        if not (isinstance(text, str) and str.startswith(text, BILLING_HEADER)):
            yield part
        elif rest := text.partition("\n")[2]:
            yield rest if isinstance(part, str) else {**part, "text": rest}


def _without_developers(messages: Sequence[Message]) -> list[Message]:
    """Developers become systems, and all systems together one, in front; unless there is only that."""
    renamed = [
        {**_others(message, ("tools",)), "role": "system"} if message["role"] == "developer" else message
        for message in messages
    ]
    places = [place for place, message in enumerate(renamed) if message["role"] == "system"]
    if places == [0]:
        return renamed
    texts = [_joined(renamed[place]["content"]) for place in places]
    others = [message for message in renamed if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(filter(None, texts))}, *others]


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if "text" in part)


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if isinstance(function["arguments"], dict):  # of Responses: vLLM brings only chats' into its own order
        return dict(call)
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except json.JSONDecodeError:
        arguments = {}
    return {
        "id": call["id"],
        "function": {
            "arguments": arguments if isinstance(arguments, dict) else {},
            "name": function["name"],
            **_others(function, ("arguments", "name")),
        },
        "type": "function",
        **_others(call, ("id", "function", "type")),
    }


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    complete = {field: function.get(field) for field in ("name", "description", "parameters")}
    deferred = tool.get("defer_loading")
    inner = function.get("defer_loading")
    switches = {"strict": function.get("strict"), "defer_loading": deferred if inner is None else inner}
    if not all(value is None or isinstance(value, bool) for value in (deferred, *switches.values())):
        raise PromptError("a switch of a tool is neither true nor false")
    complete |= {name: value for name, value in switches.items() if value is not None}
    described = {"type": "function", "function": complete}
    return described if deferred is None else {**described, "defer_loading": deferred}


def _others(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in known}
