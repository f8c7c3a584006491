"""What a prompt's template makes of a request; and how templates are written, so that they make the same
tokens whoever has written them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from cluster.store.prompts import Message, Template
from router.errors import InvalidRequestError, quoted

T = TypeVar("T")

VARIABLE = re.compile(r"\{\{\s*([\w-]+)\s*\}\}")
TOOL_FIELDS = ("type", "name", "description", "parameters", "strict", "function")
ROLES = ("system", "developer")
"""Roles whose messages come first among the fixed ones, in this order."""


def normalised(template: Template) -> Template:
    """The same template, with line ends, spaces at the end of lines, the order of roles and of tools' fields
    as they are always written. Raises `InvalidRequestError` for a variable that is not where it may be.
    """
    found = msgspec.structs.replace(
        template,
        messages=sorted((_message(one) for one in template.messages), key=_place),
        tools=sorted((_ordered(tool) for tool in template.tools), key=_tool_name),
        variable_messages=[_message(one) for one in template.variable_messages],
    )
    for place, text in (*_texts("messages", found.messages), *_texts("tools", found.tools)):
        for name in VARIABLE.findall(text):
            if name not in found.segments:
                raise InvalidRequestError(
                    f"The variable {quoted(name)} stands in the fixed part, at {place}: no blocks behind it "
                    "could be shared. Move it to 'variable_messages', or list its values in 'segments'.",
                    place,
                )
    for name in found.segments:
        if not any(name in VARIABLE.findall(text) for _, text in _texts("messages", found.messages)):
            raise InvalidRequestError(f"No fixed message uses the segment {quoted(name)}.", "segments")
    return found


def segments_of(template: Template, variables: Mapping[str, Any]) -> dict[str, str]:
    """The values of the fixed part's variables. Raises `InvalidRequestError` for what they may not be."""
    chosen = {}
    for name, values in template.segments.items():
        value = variables.get(name, values[0])
        if value not in values:
            raise InvalidRequestError(
                f"The variable {quoted(name)} must be one of {', '.join(values)}.",
                f"prompt.variables.{name}"[:64],
            )
        chosen[name] = value
    return chosen


def fixed_part(template: Template, segments: Mapping[str, str]) -> tuple[list[Message], list[dict[str, Any]]]:
    """Messages and tools that every request with these segments begins with."""
    return _filled(template.messages, segments), _filled(template.tools, segments)


def variable_part(template: Template, variables: Mapping[str, Any]) -> list[Message]:
    """The messages behind the fixed ones. Raises `InvalidRequestError` when a variable is missing."""
    for _, text in _texts("variable_messages", template.variable_messages):
        for name in VARIABLE.findall(text):
            if not isinstance(variables.get(name), str):
                raise InvalidRequestError(
                    f"The prompt needs a text for the variable {quoted(name)}.",
                    f"prompt.variables.{name}"[:64],
                )
    return _filled(template.variable_messages, variables)


def _message(message: Message) -> Message:
    if not isinstance(message.get("role"), str) or "content" not in message:
        raise InvalidRequestError("Each message of a prompt needs 'role' and 'content'.", "messages")
    rest = {name: value for name, value in message.items() if name not in ("role", "content")}
    return {"role": message["role"], "content": _tidy(message["content"]), **rest}


def _tidy(value: Any) -> Any:
    """Texts with one kind of line end, and nothing at the ends of lines or at their own ends."""
    if isinstance(value, str):
        return "\n".join(line.rstrip() for line in value.splitlines()).strip()
    if isinstance(value, list):
        return [_tidy(one) for one in value]
    return {name: _tidy(one) for name, one in value.items()} if isinstance(value, dict) else value


def _place(message: Message) -> int:
    return ROLES.index(message["role"]) if message["role"] in ROLES else len(ROLES)


def _ordered(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool's fields in the order in which APIs document them, all others by name."""
    names = sorted(tool, key=lambda name: (TOOL_FIELDS.index(name) if name in TOOL_FIELDS else 99, name))
    return {
        name: _ordered(tool[name])
        if name == "function" and isinstance(tool[name], dict)
        else _sorted(tool[name])
        for name in names
    }


def _sorted(value: Any) -> Any:
    """JSON with fields by name; the order of properties is a template's author's, and kept."""
    if isinstance(value, dict):
        return {
            name: {key: _sorted(one) for key, one in value[name].items()}
            if name == "properties" and isinstance(value[name], dict)
            else _sorted(value[name])
            for name in sorted(value)
        }
    return [_sorted(one) for one in value] if isinstance(value, list) else _tidy(value)


def _tool_name(tool: dict[str, Any]) -> str:
    function = tool.get("function")
    return str(function.get("name") if isinstance(function, dict) else tool.get("name"))


def _texts(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """All texts in a value, and where each stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _texts(f"{place}[{number}]", one)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _texts(f"{place}.{name}", one)


def _filled(value: T, variables: Mapping[str, Any]) -> T:
    """A value with the variables in place of their names. What variables hold is not searched for others."""
    found: Any = value
    if isinstance(value, str):
        found = VARIABLE.sub(lambda match: str(variables.get(match[1], match[0])), value)
    elif isinstance(value, list):
        found = [_filled(one, variables) for one in value]
    elif isinstance(value, dict):
        found = {name: _filled(one, variables) for name, one in value.items()}
    return found  # type: ignore[no-any-return]  # of the same type
