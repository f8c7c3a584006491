"""Tokens and block keys of logged requests, with the model's own template and tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import PromptError
from cluster.prompts.prompt_cache import PromptCache
from cluster.prompts.prompt_keys import KeyedPrompt
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import Namespace
from loadtest.doctor.log_requests import LoggedRequest, Message

CACHE_BYTES = 48 * 1024 * 1024
PROBE = "probe_of_doctor"
TOOL_PROBE = {
    "tools": [{"type": "function", "function": {"name": PROBE, "description": PROBE, "parameters": {}}}],
    "messages": [{"role": "user", "content": "one"}],
}
CALL_PROBE = {
    "messages": [
        {"role": "user", "content": "one"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": PROBE, "arguments": "{}"}}],
        },
    ]
}


class RequestKeys(Protocol):
    """Turns requests into tokens and block keys."""

    block_size: int
    adds_tools: bool

    def keyed(self, request: LoggedRequest) -> KeyedPrompt:
        """Token count and block keys. Raises `PromptError` for a request that cannot be rendered."""
        ...


class Prompts:
    """Turns requests into what an engine would compute."""

    def __init__(self, directory: Path, block_size: int, stand_in: bool = False) -> None:
        """Load the tokenizer of a model.

        A ``stand_in`` is not the model that the log is from: what its template does not show of tools is
        counted as JSON, since the real one will show it.
        """
        self.block_size = block_size
        self._tokenizer = PromptTokenizer(directory, PromptCache(CACHE_BYTES))
        self._namespace = Namespace(self._tokenizer.fingerprint, block_size)
        self._roots: dict[str, bytes] = {"": self._namespace.root()}
        shown = self._tokenizer.has_chat_template
        self.adds_tools = stand_in and not (shown and self._shows(TOOL_PROBE))
        """Whether tools are written in front of the instructions."""
        self._adds_calls = stand_in and not (shown and self._shows(CALL_PROBE))

    def keyed(self, request: LoggedRequest) -> KeyedPrompt:
        """Token count and block keys. Raises `PromptError` when the model's template refuses the messages."""
        root = self._root(request.salt)
        if not request.is_chat:
            return self._tokenizer.keyed_completion(request.messages[0].text, root, self.block_size).finish()
        return self._tokenizer.keyed_chat(self._body(request), root, self.block_size).finish()

    def _root(self, salt: str) -> bytes:
        return (
            self._roots[""]
            if not salt
            else Namespace(self._namespace.tokenizer_fingerprint, self.block_size, cache_salt=salt).root()
        )

    def _body(self, request: LoggedRequest) -> dict[str, Any]:
        messages = [self._message(one) for one in request.messages]
        if request.tools and self.adds_tools:
            first = messages[0] if request.messages[0].is_system else None
            text = json.dumps(request.tools, ensure_ascii=False)
            if first is None:
                messages.insert(0, {"role": "system", "content": text})
            else:
                first["content"] = f"{text}\n{first['content']}"
            return {"messages": messages}
        return {"messages": messages, "tools": list(request.tools)}

    def _message(self, one: Message) -> dict[str, Any]:
        text = one.text
        if self._adds_calls and "tool_calls" in one.body:
            text = f"{text}{json.dumps(one.body['tool_calls'], ensure_ascii=False)}"
        return {"role": one.role, "content": text, **one.body}

    def _shows(self, request: Mapping[str, Any]) -> bool:
        """Whether the template writes the probe's name."""
        try:
            return PROBE in self._tokenizer.decode(self._tokenizer.chat(request).token_ids)
        except PromptError:
            return False
