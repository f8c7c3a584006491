"""What a chat template makes of a conversation's shape, with holes where the messages' texts go.

Most templates only print what messages say, perhaps without white space around it. Whatever else they do,
such as looking back, counting turns or looking for a system prompt, depends on the roles alone. So what they
print around the texts is the same for all conversations with the same roles, and is found once, by a
rendering with texts that print and strip as others do and refuse every other use. A template that refuses,
or that asks for the time, is rendered in full each time.

A text that has become part of an ordinary string could be looked at unnoticed. So a template with anything
that makes strings of strings (macros, block assignments, most filters and calls) has no skeletons at all.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import jinja2
from jinja2 import nodes

NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.Name,
    nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.CondExpr, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Mod, nodes.Neg, nodes.Concat,
    nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Call, nodes.Keyword,
    nodes.Break, nodes.Continue,
)  # fmt: skip
"""What a template may consist of."""
CALLS = frozenset({"namespace", "range", "raise_exception", "strftime_now"})
FILTERS = frozenset(
    {"trim", "string", "length", "count", "list", "first", "last", "selectattr", "rejectattr"}
)
TESTS = frozenset({"string", "defined", "undefined", "none", "mapping", "number", "boolean", "true", "false"})
"""What a text may be asked: the answers are the same for all texts."""

Hole: TypeAlias = tuple[int, bool]
"""Number of the message whose text goes here, and whether without white space around it."""


class _LooksAtTextError(Exception):
    """The template does more with a text than to print it. Not of a kind that Jinja handles itself."""


class _Printed(str):
    """A text, or one put together from others, that can be printed and continued."""

    __slots__ = ()

    def __add__(self, other: Any) -> "_Printed":
        return _Printed(_plain(self) + _plain(other))

    def __radd__(self, other: Any) -> "_Printed":
        return _Printed(_plain(other) + _plain(self))

    def __bool__(self) -> bool:  # `Skeletons` are for texts with something in them
        return True

    def strip(self, *characters: Any) -> "_Printed":
        raise _LooksAtTextError


class _Text(_Printed):
    """The text of one message."""

    _stripped: _Printed

    def strip(self, *characters: Any) -> _Printed:
        if characters:
            raise _LooksAtTextError
        return self._stripped


def _plain(text: Any) -> str:
    if not isinstance(text, str):
        raise _LooksAtTextError
    return str(text)


def _refuse(*_arguments: Any, **_options: Any) -> NoReturn:
    raise _LooksAtTextError


_KEPT = {"__getattribute__", "__new__", "__init__", "__str__", "__repr__", "__class__", "__doc__", "__dir__",
         "__sizeof__", "__reduce__", "__reduce_ex__", "__getstate__", "__subclasshook__", "__init_subclass__",
         "__setattr__", "__delattr__"}  # fmt: skip
for _name in {*dir(str), "__rmod__", "__rmul__"} - _KEPT - vars(_Printed).keys():
    setattr(_Printed, _name, _refuse)


class Skeleton:
    """What is printed around the texts of one conversation."""

    def __init__(self, printed: Sequence[str], holes: Sequence[Hole], opening: int) -> None:
        """Begins and ends with what is ``printed``; the text at the hole number ``opening`` is that of the
        first user message, -1 if there is none.
        """
        self._parts = [""] * (2 * len(printed) - 1)
        self._parts[::2] = printed
        self._holes = tuple(holes)
        self._opening = opening

    def fill(self, texts: Sequence[str]) -> tuple[str, int]:
        """The prompt, and where in it the first user message begins, in characters; -1 when it does not."""
        parts = self._parts.copy()
        parts[1::2] = [texts[number].strip() if strip else texts[number] for number, strip in self._holes]
        opening = self._opening
        if opening < 0:
            return "".join(parts), -1
        place = 2 * opening + 1
        text = parts[place]
        return "".join(parts), sum(map(len, parts[:place])) + len(text) - len(text.lstrip())


class SkeletonMaker:
    """Makes skeletons from one template."""

    def __init__(self, template: str, environment: jinja2.Environment) -> None:
        self._template = _compile(template, environment)
        # No client can write what marks a hole.
        mark = secrets.token_hex(8)
        self._format = f"\ue000{mark}:%d:%s\ue001"
        self._hole = re.compile(f"\ue000{mark}:([0-9]+):(s?)\ue001")

    def make(
        self, roles: Sequence[str], variables: Callable[[Sequence[str]], Mapping[str, Any]]
    ) -> Skeleton | None:
        """The skeleton of conversations with these roles, given what the template gets for certain texts.

        None when it depends on more than roles.
        """
        if self._template is None:
            return None
        texts = []
        for number in range(len(roles)):
            text = _Text(self._format % (number, ""))
            text._stripped = _Printed(self._format % (number, "s"))
            texts.append(text)
        try:
            pieces = self._hole.split(self._template.render(variables(texts)))
        except (
            Exception
        ):  # whatever the template does with a text that refuses, and whatever the sandbox forbids
            return None
        holes = [(int(number), bool(strip)) for number, strip in zip(pieces[1::3], pieces[2::3], strict=True)]
        numbers = [number for number, _ in holes]
        first_user = roles.index("user") if "user" in roles else -1
        opening = numbers.index(first_user) if first_user in numbers else -1
        return Skeleton(pieces[::3], holes, opening)


def _compile(template: str, environment: jinja2.Environment) -> jinja2.Template | None:
    """The template for texts that refuse; None if it holds what could look at them unnoticed."""
    watching = environment.overlay()
    watching.globals = {**environment.globals, "strftime_now": _refuse}
    watching.filters = {name: _watched_filter(name, found) for name, found in environment.filters.items()}
    watching.tests = {name: _watched_test(name, found) for name, found in environment.tests.items()}
    try:
        tree = watching.parse(template)
        if not all(map(_is_open, tree.find_all(nodes.Node))):
            return None
        return jinja2.Template.from_code(watching, watching.compile(_without_concat(tree)), watching.globals)
    except jinja2.TemplateError:
        return None


def _is_open(node: nodes.Node) -> bool:
    """Whether texts that this part of a template handles stay such that refuse."""
    if type(node) not in NODES:
        return False
    if isinstance(node, nodes.Mod):  # of strings it formats
        return any(
            isinstance(side, nodes.Const) and isinstance(side.value, int) for side in (node.left, node.right)
        )
    if isinstance(node, nodes.Compare):  # an ordinary string could look for a text in itself
        looks = any(
            op.op in ("in", "notin") and not isinstance(op.expr, nodes.List | nodes.Tuple) for op in node.ops
        )
        return not looks or (isinstance(node.expr, nodes.Const) and len(node.ops) == 1)
    if isinstance(node, nodes.Call):
        if node.dyn_args or node.dyn_kwargs:
            return False
        if isinstance(node.node, nodes.Name):
            return node.node.name in CALLS
        plain = all(isinstance(argument, nodes.Const) for argument in node.args)
        return isinstance(node.node, nodes.Getattr) and plain and not node.kwargs
    return True


def _without_concat(node: Any) -> Any:
    """The same with ``a + b`` for ``a ~ b``, which would make an ordinary string."""
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, field, _without_concat(value))
        elif isinstance(value, list):
            value[:] = [_without_concat(item) if isinstance(item, nodes.Node) else item for item in value]
    if not isinstance(node, nodes.Concat):
        return node
    sides = [nodes.Filter(side, "string", [], [], None, None, lineno=node.lineno) for side in node.nodes]
    joined: nodes.Expr = sides[0]
    for side in sides[1:]:
        joined = nodes.Add(joined, side, lineno=node.lineno)
    return joined.set_environment(node.environment) if node.environment else joined


def _watched_filter(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    if name == "trim":
        return lambda value, *characters: value.strip(*characters) if isinstance(value, str) else _refuse()
    if name == "string":
        return lambda value: value if isinstance(value, str) else str(value)
    return original if name in FILTERS else _refuse


def _watched_test(name: str, original: Any) -> Callable[..., Any]:
    def watched(value: Any, *arguments: Any) -> Any:
        return _refuse() if isinstance(value, _Printed) else original(value, *arguments)

    return original if name in TESTS or hasattr(original, "jinja_pass_arg") else watched
