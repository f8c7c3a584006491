"""Renders a chat request with the model's own template, as the engine does.

What vLLM does to a request before its template sees it is repeated here (`vllm/renderers`, 0.32): which of
several values for an option counts, and in `cluster/prompts/chat_messages.py` what becomes of messages and
tools. docs/rendering.md has the list.

Templates may look ahead, back, and at the clock, so a turn renders the whole conversation again, about 4 us
per message, unless its template is known to only print what messages say
(`cluster/prompts/chat_skeletons.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jinja2
import jinja2.meta

from cluster.apis.messages import BILLING_HEADER
from cluster.errors import PromptError
from cluster.prompts.chat_messages import conversation, tools_of
from cluster.prompts.chat_skeletons import Skeleton, SkeletonMaker
from cluster.prompts.content_format import reads_parts

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

SHAPING_FIELDS = frozenset(
    {"tools", "documents", "reasoning_effort", "chat_template_kwargs", "continue_final_message"}
)
"""Fields of a request with which it is rendered in full."""
SHAPING_KEYS = frozenset({"tool_calls", "reasoning", "reasoning_content", "tool_call_id", "name", "task"})
"""Keys of a message with which it is rendered in full."""
STANDARD_VARIABLES = frozenset({"tools", "documents", "add_generation_prompt"})
"""What every template is given, whether it uses that or not."""
MAX_SKELETONS = 256
MAX_SKELETON_MESSAGES = 256
MAX_SKELETON_ROLE = 16
"""Bounds on what is remembered of one template, the last one in characters: at most 20 MB."""
MAX_OPENING_MESSAGES = 16
"""Looked through for the first user message: each one that is not printed costs a search of all the text."""
SAMPLE_TEXT = " \n A <think>text</think> {{ with }} what templates look for: <tool_call>\\n</tool_call> \n"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Options of an engine's command line that change prompts, by vLLM's names for them."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    chat_template: Path | None = None
    """A file, instead of the model's own template."""
    chat_template_content_format: Literal["auto", "string", "openai"] = "auto"
    default_chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    exclude_tools_when_tool_choice_none: bool = False


class Rendered(NamedTuple):
    """A prompt as text."""

    text: str
    opening_at: int
    """Where the first user message begins, in characters; -1 when it cannot be found."""


class Template:
    """A chat template, and what it wants to be given."""

    def __init__(self, text: str, compiled: jinja2.Template, content_format: str) -> None:
        self.text = text
        self.compiled = compiled
        tree = compiled.environment.parse(text)
        self.variables = jinja2.meta.find_undeclared_variables(tree) | STANDARD_VARIABLES
        self.parts_as_objects = reads_parts(tree) if content_format == "auto" else content_format == "openai"
        self.knows_developer = '"developer"' in text or "'developer'" in text

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A request's messages as the template gets them."""
        return conversation(
            messages, parts_as_objects=self.parts_as_objects, knows_developer=self.knows_developer
        )


class ChatRenderer:
    """The chat template of one model, given its tokenizer as transformers loads it."""

    def __init__(self, tokenizer: Any, options: ChatOptions | None = None) -> None:
        self._tokenizer = tokenizer
        self._options = options or ChatOptions()
        own = tokenizer.chat_template
        if self._options.chat_template is not None:
            own = self._options.chat_template.read_text()
        named = own if isinstance(own, dict) else {"default": own}
        self._template = self._tools_template = self._compiled(named.get("default"))
        if "tool_use" in named:
            self._tools_template = self._compiled(named["tool_use"])
        self.templates = [one.text for one in (self._template, self._tools_template) if one is not None]
        self.has_template = bool(self.templates)
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._skeletons: SkeletonMaker | None = None
        if self._template is not None:
            self._skeletons = SkeletonMaker(self._template.text, self._template.compiled.environment)
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
            return self._render(request)
        except TEMPLATE_ERRORS as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error

    def _is_plain(self, request: Mapping[str, Any], texts: Sequence[Any]) -> bool:
        """Whether nothing but roles and texts goes into the prompt, and every text has something in it."""
        if len(texts) > MAX_SKELETON_MESSAGES or not isinstance(
            request.get("add_generation_prompt", True), bool
        ):
            return False
        if not SHAPING_FIELDS.isdisjoint(request) and any(
            request.get(name) not in (None, False) for name in SHAPING_FIELDS
        ):
            return False
        for text, message in zip(texts, request["messages"], strict=True):
            if not isinstance(text, str) or not text or text.isspace():
                return False
            role = message["role"]
            if len(role) > MAX_SKELETON_ROLE or (role == "system" and text.startswith(BILLING_HEADER)):
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

        if "developer" in roles:
            return None
        assert self._skeletons is not None
        skeleton = self._skeletons.make(roles, lambda texts: self._variables(request(texts))[2])
        samples = [f"{SAMPLE_TEXT}{number}{SAMPLE_TEXT}" for number in range(len(roles))]
        if skeleton is None or skeleton.fill(samples)[0] != self._render(request(samples)).text:
            return None
        return skeleton

    def _render(self, request: Mapping[str, Any]) -> Rendered:
        template, continues, variables = self._variables(request)
        messages = variables["messages"]
        if continues:
            own = {**self._special_tokens, "messages": messages}
            options = {name: value for name, value in variables.items() if value is not own.get(name)}
            options |= {"tokenize": False, "chat_template": template.text, "continue_final_message": True}
            text = self._tokenizer.apply_chat_template(messages, **options)
        else:  # what `apply_chat_template` comes down to, without 20 us of checks
            text = template.compiled.render(variables)
        return Rendered(str(text), opening_position(messages, text))

    def _variables(self, request: Mapping[str, Any]) -> tuple[Template, bool, dict[str, Any]]:
        """The template, whether the last message is to be continued, and what the template gets to see.

        Of several values for one name a field of the request wins, then its ``chat_template_kwargs``, then
        the engine's defaults.
        """
        given, effort = request.get("chat_template_kwargs") or {}, request.get("reasoning_effort")
        own = {
            "add_generation_prompt": flag(request, "add_generation_prompt", default=True),
            "continue_final_message": flag(request, "continue_final_message"),
            "documents": request.get("documents"),
            "reasoning_effort": effort,
        }
        if effort is not None and "enable_thinking" not in given:
            own["enable_thinking"] = effort != "none"
        unwanted = self._options.exclude_tools_when_tool_choice_none and request.get("tool_choice") == "none"
        tools = tools_of(request["tools"]) if request.get("tools") and not unwanted else None
        defaults = _merged(self._options.default_chat_template_kwargs, {"tools": tools})
        options = {"tools": None, "documents": None, **_merged(defaults, _merged(given, own))}
        if options.get("tokenize"):
            raise PromptError("tokens that transformers makes have no special tokens around them")
        template = self._template if options["tools"] is None else self._tools_template
        if template is None:
            raise PromptError("the model has no chat template")
        seen = {name: value for name, value in options.items() if name in template.variables}
        messages = template.conversation(request["messages"])
        variables = {**self._special_tokens, **seen, "messages": messages}
        return template, options["continue_final_message"], variables

    def _compiled(self, text: Any) -> Template | None:
        from transformers.utils import chat_template_utils

        if not isinstance(text, str):
            return None
        try:
            compiled = chat_template_utils._compile_jinja_template(text)
        except jinja2.TemplateError:
            return None
        if not isinstance(compiled, jinja2.Template):
            return None
        return Template(text, compiled, self._options.chat_template_content_format)


def opening_position(messages: Sequence[Mapping[str, Any]], text: str) -> int:
    """Where the first user message begins in the rendered text, in characters; -1 when it cannot be found
    or too much stands before it.
    """
    position = 0
    for message in messages[:MAX_OPENING_MESSAGES]:
        content = message["content"]
        if not isinstance(content, str):
            content = next((part["text"] for part in content if "text" in part), "")
        content = content.strip()
        found = text.find(content, position) if content else -1
        if message["role"] == "user":
            return found
        # A short user message may also occur in what stands before it: look for it only behind that.
        position = found + len(content) if found >= 0 else position
    return -1


def flag(request: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A switch of a request. Raises `PromptError` for what engines may read as one, and perhaps do not."""
    value = request.get(name, default)
    if not isinstance(value, bool):
        raise PromptError(f"{name} is neither true nor false")
    return value


def _merged(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's `merge_kwargs`: null and "auto" leave what was there before."""
    return {**defaults, **{name: value for name, value in overrides.items() if value not in (None, "auto")}}
