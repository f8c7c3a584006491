"""Whether a chat template wants a message's content as a list of parts, found as vLLM finds it.

By loops over the content of messages, also where that has another name or is given to a macro. What vLLM
overlooks (0.32, `vllm/renderers/hf.py`) is overlooked here too.
"""

from collections.abc import Iterator
from typing import Any

from jinja2 import nodes


def reads_parts(tree: nodes.Template) -> bool:
    """Whether the template loops over the parts of a message (vLLM's content format "openai")."""
    try:
        return any(_loops_over_content(tree))
    except (RecursionError, TypeError):  # a template that vLLM does not understand either
        return False


def _loops_over_content(tree: nodes.Template) -> Iterator[bool]:
    """True at the first such loop: what stands behind it is not looked at."""
    names = _aliases(tree, "messages")
    loops = list(tree.find_all(nodes.For))
    messages = [_target(loop.target) for loop in loops if any(_is(loop.iter, name) for name in names)]
    in_macros: dict[int, set[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        parameters = _given_content(tree, macro, messages)
        for loop in macro.find_all(nodes.For):
            in_macros[id(loop)] = parameters or in_macros.get(id(loop), parameters)
    for loop in loops:
        content = loop.iter.name if isinstance(loop.iter, nodes.Name) else None
        if any(_is(loop.iter, name, "content") for name in messages) or (
            content in in_macros.get(id(loop), {"content"})
        ):
            yield bool(_target(loop.target))


def _aliases(tree: nodes.Template, name: str) -> list[str]:
    """The name and all others that its value, or part of it, is given."""
    names = [name]
    for known in names:
        for assignment in tree.find_all(nodes.Assign):
            if _is(assignment.node, known) and (alias := _target(assignment.target)) not in names:
                names.append(alias)
    return names


def _given_content(tree: nodes.Template, macro: nodes.Macro, messages: list[str]) -> set[str]:
    """The parameters that a macro is given a message's content for."""
    parameters, found = [parameter.name for parameter in macro.args], set()
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
            given: list[tuple[str, Any]] = [*zip(parameters, call.args, strict=False)]
            given += [(keyword.key, keyword.value) for keyword in call.kwargs if keyword.key in parameters]
            found |= {
                name for name, value in given if any(_is(value, message, "content") for message in messages)
            }
    return found


def _is(node: Any, name: str, key: str = "") -> bool:
    """Whether an expression is the variable, or what it has under the key; filtered or sliced, maybe."""
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    if key and isinstance(node, nodes.Getitem):
        return _is_variable(node.node, name) and isinstance(node.arg, nodes.Const) and node.arg.value == key
    if key:
        return isinstance(node, nodes.Getattr) and node.attr == key and _is_variable(node.node, name)
    return _is_variable(node, name)


def _is_variable(node: Any, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _target(node: nodes.Node) -> str:
    """The name that a loop or an assignment gives a value. Raises `TypeError` for several."""
    if not isinstance(node, nodes.Name):
        raise TypeError("not one name")
    return node.name
