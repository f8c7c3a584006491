"""OpenAI's Responses API: the chat completion that a request stands for.

Item by item what vLLM 0.32 makes of it (`vllm/entrypoints/openai/responses/utils.py`), so that the prompt
rendered here is the engine's: reasoning, text and calls of one answer become one message, and of an answer's
parts only the first one counts.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cluster.apis.answer_blocks import Json

SAME_FIELDS = (
    "model", "temperature", "top_p", "top_k", "min_p", "stream", "chat_template_kwargs", "frequency_penalty",
    "presence_penalty", "repetition_penalty", "seed", "stop", "parallel_tool_calls",
)  # fmt: skip
"""What a chat completion calls by the same name."""
HISTORY_ELSEWHERE = ("previous_response_id", "conversation", "previous_input_messages")
"""Fields that refer to what the request does not hold."""
CUSTOM_INPUT = "input"
"""A custom tool is shown to models as a function with this one parameter."""
SEPARATOR = "__"
"""Between a namespace and the name of a function in it."""
UNFINISHED = ("in_progress", "incomplete")


class ResponsesShape(msgspec.Struct, kw_only=True):
    """What a request must look like for `chat_of_response`."""

    input: str | list[Json] | None = None
    instructions: str | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    reasoning: Json | None = None
    chat_template_kwargs: Json | None = None
    text: Json | None = None


def chat_of_response(body: Mapping[str, Any]) -> Json | None:
    """The body of the chat completion; None for what only an engine can judge. The body has its shape."""
    given = body.get("input")
    if given is None or any(body.get(name) is not None for name in HISTORY_ELSEWHERE):
        return None
    if body.get("truncation") not in (None, "disabled"):
        return None
    chat: Json = {name: body[name] for name in SAME_FIELDS if body.get(name) is not None}
    messages: list[Json] = []
    if instructions := body.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    else:
        try:
            for item in given:
                _add_item(messages, item)
        except (AttributeError, KeyError, IndexError, TypeError):  # the engine says what is wrong with it
            return None
        last = given[-1] if given else {}
        if last.get("type", "message") in ("message", "reasoning") and last.get("status") in UNFINISHED:
            chat |= {"add_generation_prompt": False, "continue_final_message": True}
    chat["messages"] = messages
    if (most := body.get("max_output_tokens")) is not None:
        chat["max_tokens"] = most
    if effort := (body.get("reasoning") or {}).get("effort"):
        chat["reasoning_effort"] = effort
    if output := _response_format((body.get("text") or {}).get("format") or {}):
        chat["response_format"] = output
    if tools := _functions(body.get("tools") or ()):
        chat["tools"] = tools
        chat["tool_choice"] = _choice(body.get("tool_choice") or "auto")
    return chat


def _add_item(messages: list[Json], item: Json) -> None:
    """Add one item, as a message of its own or to the answer it belongs to. Raises for what is not known."""
    kind, role = item.get("type"), item.get("role")
    if kind in ("function_call", "custom_tool_call"):
        answer = _answer(messages)
        if answer is None:
            messages.append(answer := {"role": "assistant"})
        answer.setdefault("tool_calls", []).append(_tool_call(item))
    elif kind == "reasoning":
        if item.get("encrypted_content"):
            raise KeyError("encrypted_content")
        thoughts = item.get("content") or item["summary"]
        _add_to_answer(messages, "reasoning", thoughts[0]["text"] if thoughts else "")
    elif kind in ("function_call_output", "custom_tool_call_output"):
        messages.append({"role": "tool", "content": item["output"], "tool_call_id": item["call_id"]})
    elif role == "assistant" and kind in (None, "message"):
        content = item["content"]
        _add_to_answer(messages, "content", content if isinstance(content, str) else content[0]["text"])
    elif role is not None and kind in (None, "message"):
        messages.append(_plain(item))
    else:
        raise KeyError(kind)


def _plain(item: Json) -> Json:
    """A message of somebody else than the model, its texts under the name they have in a chat."""
    content = item["content"]
    if isinstance(content, str):
        return {"role": item["role"], "content": content}
    parts = []
    for part in content:
        if part["type"] in ("input_text", "text", "output_text"):
            parts.append({"type": "text", "text": part["text"]})
        elif part["type"] == "input_image":
            parts.append({"type": "image_url", "image_url": {"url": part["image_url"]}})
        else:
            raise KeyError(part["type"])
    alone = len(parts) == 1 and parts[0]["type"] == "text"  # what is nothing but text is rendered sooner
    return {"role": item["role"], "content": parts[0]["text"] if alone else parts}


def _answer(messages: Sequence[Json]) -> Json | None:
    return messages[-1] if messages and messages[-1]["role"] == "assistant" else None


def _add_to_answer(messages: list[Json], name: str, text: str) -> None:
    """To the model's last message, where that has no such part yet."""
    if not isinstance(text, str):
        raise TypeError(name)
    answer = _answer(messages)
    if answer is None or answer.get(name) is not None:
        messages.append(answer := {"role": "assistant"})
    answer[name] = text


def _tool_call(item: Json) -> Json:
    """A call with its arguments as an object: templates see it as it is, in this order."""
    name, arguments = item["name"], item.get("arguments")
    if item["type"] == "custom_tool_call":
        arguments = json.dumps({CUSTOM_INPUT: item.get("input") or ""}, ensure_ascii=False)
    elif item.get("namespace"):
        name = f"{item['namespace']}{SEPARATOR}{name}"
    if not isinstance(arguments, str):
        raise TypeError("arguments")
    try:
        parsed = json.loads(arguments or "{}")
    except json.JSONDecodeError:
        parsed = {}
    function = {"name": name, "arguments": parsed if isinstance(parsed, dict) else {}}
    return {"id": item["call_id"], "function": function, "type": "function"}


def _functions(tools: Sequence[Json]) -> list[Json]:
    """The tools that are shown to a model, in order: functions, functions in namespaces, and custom tools."""
    functions: list[Json] = []
    for tool in tools:
        if tool.get("type") == "function":
            functions.append(_function(tool, tool.get("name")))
        elif tool.get("type") == "namespace":
            for inner in tool.get("tools") or ():
                if inner.get("type") == "function":
                    functions.append(_function(inner, f"{tool.get('name')}{SEPARATOR}{inner.get('name')}"))
        elif tool.get("type") == "custom":
            text = {"type": "string", "description": "The freeform text payload for this tool."}
            parameters = {
                "type": "object",
                "properties": {CUSTOM_INPUT: text},
                "required": [CUSTOM_INPUT],
                "additionalProperties": False,
            }
            functions.append(_function({**tool, "parameters": parameters}, tool.get("name")))
    return functions


def _function(tool: Json, name: str | None) -> Json:
    function: Json = {"name": name}
    for field in ("description", "parameters", "strict", "defer_loading"):
        if field in ("description", "parameters") or tool.get(field) is not None:
            function[field] = tool.get(field)
    return {"type": "function", "function": function}


def _choice(choice: str | Json) -> str | Json:
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice.get("name")}}


def _response_format(output: Json) -> Json | None:
    if output.get("type") == "json_object":
        return {"type": "json_object"}
    if output.get("type") == "json_schema":
        schema = {name: output[name] for name in ("name", "schema", "strict") if name in output}
        return {"type": "json_schema", "json_schema": schema}
    return None
