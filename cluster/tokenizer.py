"""Renders and tokenises prompts exactly as the engine does, with the model's own chat template.

Needs ``transformers`` and no torch. What vLLM does to a request before its template sees it is repeated
here (`vllm/renderers`, 0.32): content parts are joined or wrapped as the template expects, tool call
arguments become objects, tools get their missing fields. The router compares the outcome with the engine's
``/tokenize`` and falls back to the ring where they differ, so a drift is an alarm and not a wrong key.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import xxhash

from cluster.errors import PromptError, TokenizerUnavailableError

FINGERPRINTED_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


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


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine will see it."""

    token_ids: Sequence[int]
    opening_tokens: int
    """Leading tokens that other conversations are likely to share: everything before the first user
    message."""


def tokenizer_fingerprint(directory: Path) -> str:
    """Identify a model's tokenizer and template files: 16 hexadecimal digits, "" when none can be read."""
    digest = xxhash.xxh3_64()
    found = False
    for name in FINGERPRINTED_FILES:
        with suppress(OSError):
            content = (directory / name).read_bytes()
            found = True
            digest.update(name.encode() + b"\0")
            digest.update(content)
    return digest.hexdigest() if found else ""


class PromptTokenizer:
    """The tokenizer and chat template of one model.

    Raises `TokenizerUnavailableError` when the directory holds no tokenizer that ``transformers`` can load.
    """

    def __init__(self, directory: Path) -> None:
        # Importing transformers takes seconds: done here, in the thread that loads the tokenizer.
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
            self._backend = self._tokenizer.backend_tokenizer
        except Exception as error:  # transformers raises whatever broken files make its parsers raise
            raise TokenizerUnavailableError(f"no usable tokenizer in {directory}: {error}") from error
        self.fingerprint = tokenizer_fingerprint(directory)
        self.has_chat_template = isinstance(self._tokenizer.chat_template, str | dict | list)
        self._parts_as_objects = self._template_reads_parts()
        # transformers caches compiled templates in a plain dict; rendering may run in worker threads.
        self._render_lock = threading.Lock()

    def chat(self, request: Mapping[str, Any]) -> Prompt:
        """Render and tokenise the body of a chat completion request.

        Raises `PromptError` when the model has no chat template or its template refuses the messages.
        """
        try:
            text = self._render(request)
        except TEMPLATE_ERRORS as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}") from error
        encoding = self._backend.encode(text, add_special_tokens=bool(request.get("add_special_tokens")))
        return Prompt(encoding.ids, self._opening_tokens(request["messages"], text, encoding))

    def completion(self, prompt: str | Sequence[int], add_special_tokens: bool = True) -> Prompt:
        """Tokenise one prompt of a text completion request; token ids pass through."""
        if isinstance(prompt, str):
            return Prompt(self._backend.encode(prompt, add_special_tokens=add_special_tokens).ids, 0)
        return Prompt(prompt, 0)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the given tokens, special tokens left out."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=True))

    def _render(self, request: Mapping[str, Any]) -> str:
        reasoning_effort = request.get("reasoning_effort")
        options: dict[str, Any] = {
            "tools": [_complete_tool(tool) for tool in request["tools"]] if request.get("tools") else None,
            "add_generation_prompt": request.get("add_generation_prompt", True),
            "continue_final_message": request.get("continue_final_message", False),
            "documents": request.get("documents"),
        }
        if reasoning_effort is not None:
            options["reasoning_effort"] = reasoning_effort
            options["enable_thinking"] = reasoning_effort != "none"
        options.update(request.get("chat_template_kwargs") or {})
        messages = [self._template_message(message) for message in request["messages"]]
        with self._render_lock:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **options))

    def _template_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        role, content = message["role"], message.get("content")
        rendered: dict[str, Any] = {"role": role}
        if self._parts_as_objects and role != "tool":
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
            rendered["content"] = [{"type": "text", "text": _part_text(part)} for part in parts]
        else:
            rendered["content"] = (
                content if isinstance(content, str) else "\n".join(map(_part_text, content or ()))
            )
        if role == "assistant" and message.get("tool_calls"):
            rendered["tool_calls"] = [_parsed_tool_call(call) for call in message["tool_calls"]]
        if role == "assistant" and message.get("reasoning") is not None:
            rendered["reasoning"] = rendered["reasoning_content"] = message["reasoning"]
        if role == "tool" and "tool_call_id" in message:
            rendered["tool_call_id"] = message["tool_call_id"]
        if isinstance(message.get("name"), str):
            rendered["name"] = message["name"]
        return rendered

    def _opening_tokens(self, messages: Sequence[Mapping[str, Any]], text: str, encoding: Any) -> int:
        """Tokens in front of the first user message; 0 when its text cannot be found in the rendering."""
        position = 0
        for message in messages:
            content = message.get("content")
            if not isinstance(content, str):
                content = "\n".join(map(_part_text, content or ()))
            content = content.strip()
            found = text.find(content, position) if content else -1
            if message["role"] == "user":
                token = encoding.char_to_token(found) if found >= 0 else None
                return token or 0
            # A short user message may also occur in what stands before it: look for it only behind that.
            position = found + len(content) if found >= 0 else position
        return 0

    def _template_reads_parts(self) -> bool:
        """Whether the chat template loops over the parts of a message (vLLM's content format "openai")."""
        from transformers.utils import chat_template_utils

        template = self._tokenizer.chat_template
        if not isinstance(template, str):
            return False
        try:
            tree = chat_template_utils._compile_jinja_template(template).environment.parse(template)
        except jinja2.TemplateError:
            return False
        return any(_is_content(loop.iter) for loop in tree.find_all(jinja2.nodes.For))


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
