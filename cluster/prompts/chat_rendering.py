"""Renders the messages of a chat request with the model's own template, as the engine does.

What vLLM does to a request before its template sees it is repeated here (`vllm/renderers`, 0.32): content
parts are joined or wrapped as the template expects, tool call arguments become objects, tools get their
missing fields.

Templates may look ahead, back, and at the clock, so a turn renders the whole conversation again, about 4 us
per message, unless its template is known to only print what messages say
(`cluster/prompts/chat_skeletons.py`).
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2

from cluster.errors import PromptError
from cluster.prompts.chat_skeletons import Skeleton, SkeletonMaker

TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template, or a message that is not shaped as it expects, can raise."""

UNCOMMON_OPTIONS = ("documents", "continue_final_message", "chat_template_kwargs")
"""Fields that transformers checks or rewrites before it renders."""

SHAPING_FIELDS = frozenset({"tools", "reasoning_effort", *UNCOMMON_OPTIONS})
"""Fields of a request with which it is rendered in full."""
SHAPING_KEYS = frozenset({"tool_calls", "reasoning", "tool_call_id", "name"})
"""Keys of a message with which it is rendered in full."""
MAX_SKELETONS = 256
MAX_SKELETON_MESSAGES = 256
MAX_SKELETON_ROLE = 16
"""Bounds on what is remembered of one template, the last one in characters: at most 20 MB."""
MAX_OPENING_MESSAGES = 16
"""Looked through for the first user message: each one that is not printed costs a search of all the text."""
SAMPLE_TEXT = " \n A <think>text</think> {{ with }} what templates look for: <tool_call>\\n</tool_call> \n"


class Rendered(NamedTuple):
    """A prompt as text."""

    text: str
    opening_at: int
    """Where the first user message begins, in characters; -1 when it cannot be found."""


class ChatRenderer:
    """The chat template of one model, given its tokenizer as transformers loads it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self.has_template = isinstance(template, str | dict | list)
        self._compiled = _compile(template) if isinstance(template, str) else None
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._parts_as_objects = self._compiled is not None and _reads_parts(self._compiled, template)
        self._skeletons: SkeletonMaker | None = None
        if self._compiled is not None and isinstance(template, str):
            self._skeletons = SkeletonMaker(template, self._compiled.environment)
        self._skeleton = lru_cache(MAX_SKELETONS)(self._make_skeleton)

    def render(self, request: Mapping[str, Any]) -> Rendered:
        """The prompt. Raises `PromptError` when there is no template or it refuses the messages."""
        try:
            messages = request["messages"]
            texts = [message.get("content") for message in messages]
            if self._skeletons is not None and self._is_plain(request, texts):
                roles = tuple([message["role"] for message in messages])
                skeleton = self._skeleton(roles, request.get("add_generation_prompt", True))
                if skeleton is not None:
                    return Rendered(*skeleton.fill(texts))
            text = self._render(request)
        except TEMPLATE_ERRORS as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error
        return Rendered(text, opening_position(messages, text))

    def _is_plain(self, request: Mapping[str, Any], texts: Sequence[Any]) -> bool:
        """Whether nothing but roles and texts goes into the prompt, and every text has something in it."""
        if len(texts) > MAX_SKELETON_MESSAGES or not isinstance(
            request.get("add_generation_prompt", True), bool
        ):
            return False
        if not SHAPING_FIELDS.isdisjoint(request) and any(map(request.get, SHAPING_FIELDS)):
            return False
        for text, message in zip(texts, request["messages"], strict=True):
            if not isinstance(text, str) or not text or text.isspace():
                return False
            if len(message["role"]) > MAX_SKELETON_ROLE:
                return False
            if len(message) > 2 and not SHAPING_KEYS.isdisjoint(message):
                return False
        return True

    def _make_skeleton(self, roles: tuple[str, ...], add_generation_prompt: Any) -> Skeleton | None:
        """What is printed around the texts of a conversation; None when that depends on more than the roles.

        It is tried on texts that templates could be looking for.
        """

        def request(texts: Sequence[str]) -> dict[str, Any]:
            messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
            return {"messages": messages, "add_generation_prompt": add_generation_prompt}

        assert self._skeletons is not None
        skeleton = self._skeletons.make(roles, lambda texts: self._variables(request(texts)))
        samples = [f"{SAMPLE_TEXT}{number}{SAMPLE_TEXT}" for number in range(len(roles))]
        if skeleton is None or skeleton.fill(samples)[0] != self._render(request(samples)):
            return None
        return skeleton

    def _render(self, request: Mapping[str, Any]) -> str:
        variables = self._variables(request)
        if self._compiled is not None and not any(map(request.get, UNCOMMON_OPTIONS)):
            # What `apply_chat_template` comes down to, without 20 us of checks.
            return str(self._compiled.render(variables))
        options = {name: variables[name] for name in variables.keys() - self._special_tokens.keys()}
        messages = options.pop("messages")
        options["documents"] = request.get("documents")
        options["continue_final_message"] = request.get("continue_final_message", False)
        options.update(request.get("chat_template_kwargs") or {})
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **options))

    def _variables(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the template gets to see."""
        variables: dict[str, Any] = {
            **self._special_tokens,
            "messages": [self._template_message(message) for message in request["messages"]],
            "tools": [_complete_tool(tool) for tool in request["tools"]] if request.get("tools") else None,
            "documents": None,
            "add_generation_prompt": request.get("add_generation_prompt", True),
        }
        reasoning_effort = request.get("reasoning_effort")
        if reasoning_effort is not None:
            variables["reasoning_effort"] = reasoning_effort
            variables["enable_thinking"] = reasoning_effort != "none"
        return variables

    def _template_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        role, content = message["role"], message.get("content")
        rendered: dict[str, Any] = {"role": role}
        if self._parts_as_objects and role != "tool":
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
            rendered["content"] = [{"type": "text", "text": _part_text(part)} for part in parts]
        else:
            rendered["content"] = _joined_text(content)
        if role == "assistant" and message.get("tool_calls"):
            rendered["tool_calls"] = [_parsed_tool_call(call) for call in message["tool_calls"]]
        if role == "assistant" and message.get("reasoning") is not None:
            rendered["reasoning"] = rendered["reasoning_content"] = message["reasoning"]
        if role == "tool" and "tool_call_id" in message:
            rendered["tool_call_id"] = message["tool_call_id"]
        if isinstance(message.get("name"), str):
            rendered["name"] = message["name"]
        return rendered


def opening_position(messages: Sequence[Mapping[str, Any]], text: str) -> int:
    """Where the first user message begins in the rendered text, in characters; -1 when it cannot be found
    or too much stands before it.
    """
    position = 0
    for message in messages[:MAX_OPENING_MESSAGES]:
        content = _joined_text(message.get("content")).strip()
        found = text.find(content, position) if content else -1
        if message["role"] == "user":
            return found
        # A short user message may also occur in what stands before it: look for it only behind that.
        position = found + len(content) if found >= 0 else position
    return -1


def _compile(template: str) -> jinja2.Template | None:
    from transformers.utils import chat_template_utils

    try:
        compiled = chat_template_utils._compile_jinja_template(template)
    except jinja2.TemplateError:
        return None
    return compiled if isinstance(compiled, jinja2.Template) else None


def _reads_parts(compiled: jinja2.Template, template: str) -> bool:
    """Whether the chat template loops over the parts of a message (vLLM's content format "openai")."""
    return any(
        _is_content(loop.iter) for loop in compiled.environment.parse(template).find_all(jinja2.nodes.For)
    )


def _is_content(node: jinja2.nodes.Node) -> bool:
    """Whether a template expression is ``message.content``, ``message['content']`` or a variable
    ``content``."""
    if isinstance(node, jinja2.nodes.Name):
        return node.name == "content"
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    return isinstance(node, jinja2.nodes.Filter) and node.node is not None and _is_content(node.node)


def _joined_text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(map(_part_text, content or ()))


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise PromptError("only text content can be tokenised here")


def _complete_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function") or {}
    complete = {field: function.get(field) for field in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        complete["strict"] = function["strict"]
    return {"type": tool.get("type", "function"), "function": complete}


def _parsed_tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if not isinstance(arguments, Mapping):
        try:
            arguments = json.loads(arguments) if arguments else {}
        except (TypeError, ValueError):
            arguments = {}
        function["arguments"] = arguments if isinstance(arguments, dict) else {}
    return {**call, "function": function}
