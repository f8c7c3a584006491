"""What a simulated engine accepts and answers: the JSON of vLLM's HTTP API (0.32), for chats and texts.

Requests are checked field by field and tokenised. Fields that a simulation cannot act on (sampling
parameters, log probabilities) are ignored.
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import PromptError
from cluster.prompts.tokenizer import PromptTokenizer

DEFAULT_MAX_TOKENS = 16
MAX_CHOICES = 128
TRUE = (1, "1", "on", "t", "true", "y", "yes")
FALSE = (0, "0", "off", "f", "false", "n", "no")
MAX_TOKEN_ID = 2**31 - 1

Json = dict[str, Any]


class ApiError(Exception):
    """A request that is answered with vLLM's error format."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True, slots=True)
class Generation:
    """A checked completion request, chat or text."""

    is_chat: bool
    model: str
    prompts: Sequence[list[int]]
    num_choices: int
    max_tokens: int
    stream: bool
    include_usage: bool
    cache_salt: str | None
    call: Json | None = None
    """The tool to be called in place of an answer in words."""
    finish_reason: str = "length"
    answer: str | None = None
    """What to answer, in place of common words."""


def parse_chat(body: Json, tokenizer: PromptTokenizer, model: str, max_model_len: int) -> Generation:
    """Check and tokenise a chat completion request. Raises `ApiError`."""
    prompt = _forwarded_tokens(body) or chat_tokens(body, tokenizer)
    limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return _generation(body, True, model, [prompt], limit, max_model_len)


def parse_completion(body: Json, tokenizer: PromptTokenizer, model: str, max_model_len: int) -> Generation:
    """Check and tokenise a text completion request. Raises `ApiError`."""
    special = _typed(body, "add_special_tokens", bool, True)
    prompts = [_prompt_tokens(tokenizer, prompt, special) for prompt in _prompt_list(body.get("prompt"))]
    return _generation(body, False, model, prompts, "max_tokens", max_model_len)


def chat_tokens(body: Json, tokenizer: PromptTokenizer) -> list[int]:
    """Render and tokenise ``messages``. Raises `ApiError`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages must be a non-empty list", "messages")
    for message in messages:
        _check_message(message)
    _check_objects(body, "tools")
    for name in ("chat_template_kwargs", "kv_transfer_params"):
        _typed(body, name, dict, None)
    try:
        return list(tokenizer.chat(body).token_ids)
    except PromptError as error:
        raise ApiError(str(error), "messages") from error


def text_tokens(body: Json, tokenizer: PromptTokenizer) -> list[int]:
    """Tokenise the text ``prompt`` of a ``/tokenize`` request. Raises `ApiError`."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise ApiError("either messages or a prompt string is needed", "prompt")
    return _prompt_tokens(tokenizer, prompt, _typed(body, "add_special_tokens", bool, True))


def _generation(
    body: Json, is_chat: bool, model: str, prompts: list[list[int]], limit: str, max_model_len: int
) -> Generation:
    stream = _flag(body, "stream")
    options = _typed(body, "stream_options", dict, None)
    if options is not None and not stream:
        raise ApiError("Stream options can only be defined when `stream=True`.", "stream_options")
    salt = _typed(body, "cache_salt", str, None)
    if salt == "":
        raise ApiError("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    num_choices = _integer(body, "n", 1, MAX_CHOICES)
    if num_choices * len(prompts) > MAX_CHOICES:
        raise ApiError(f"at most {MAX_CHOICES} answers per request", "n")
    return Generation(
        is_chat=is_chat,
        model=model,
        prompts=prompts,
        num_choices=num_choices,
        max_tokens=_token_limit(body, limit, max(map(len, prompts)), max_model_len),
        stream=stream,
        include_usage=_flag(options or {}, "include_usage"),
        cache_salt=salt,
    )


def _token_limit(body: Json, name: str, num_prompt_tokens: int, max_model_len: int) -> int:
    wanted = _integer(body, name, DEFAULT_MAX_TOKENS, None)
    if wanted > max_model_len:
        raise ApiError(f"{name}={wanted} cannot be greater than max_model_len={max_model_len}.", name)
    if num_prompt_tokens >= max_model_len:
        raise ApiError(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
            f"{num_prompt_tokens} input tokens, which leaves no room for output tokens. "
            "Please reduce the length of the input prompt.",
            "input_tokens",
        )
    return min(wanted, max_model_len - num_prompt_tokens)


def _check_message(message: Any) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ApiError("each message must be an object with a role", "messages")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise ApiError("content must be a string or a list of parts", "messages")
    _check_objects(message, "tool_calls")
    for call in message.get("tool_calls") or ():
        _typed(call, "function", dict, None)


def _check_objects(owner: Json, name: str) -> None:
    for item in _typed(owner, name, list, None) or ():
        if not isinstance(item, dict) or not isinstance(item.get("function", {}), dict | None):
            raise ApiError(f"{name} must be a list of objects", name)


def _forwarded_tokens(body: Json) -> list[int] | None:
    """Token ids that a router sent along, so that the engine need not tokenise again."""
    forwarded = (_typed(body, "kv_transfer_params", dict, None) or {}).get("prompt_token_ids")
    return checked_ids(forwarded) if forwarded else None


def _prompt_list(prompt: Any) -> list[Any]:
    """A text prompt, a list of token ids, or a list of several of either."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
        return [prompt]
    if isinstance(prompt, list) and 0 < len(prompt) <= MAX_CHOICES:
        return prompt
    raise ApiError("prompt must be a string, a list of token ids, or a list of these", "prompt")


def _prompt_tokens(tokenizer: PromptTokenizer, prompt: Any, special: Any) -> list[int]:
    if isinstance(prompt, str) and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ApiError("prompt holds half of a surrogate pair", "prompt")
    tokens = (
        tokenizer.completion(prompt, special).token_ids if isinstance(prompt, str) else checked_ids(prompt)
    )
    if not tokens:
        raise ApiError("The decoder prompt cannot be empty", "prompt")
    return list(tokens)


def checked_ids(tokens: Any) -> list[int]:
    """Token ids as a client has sent them. Raises `ApiError`."""
    if not isinstance(tokens, list) or not all(
        type(token) is int and 0 <= token <= MAX_TOKEN_ID for token in tokens
    ):
        raise ApiError("token ids must be a list of non-negative integers", "prompt")
    return tokens


def _integer(body: Json, name: str, default: int, most: int | None) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or value < 1 or (most is not None and value > most):
        raise ApiError(
            f"{name} must be an integer of at least 1" + (f" and at most {most}" if most else ""), name
        )
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    """A truth value as pydantic reads it."""
    value = body.get(name)
    text = value.lower() if isinstance(value, str) else value
    if text not in TRUE and text not in FALSE and text is not None:
        raise ApiError(f"{name} must be of type bool", name)
    return text in TRUE


def _typed(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise ApiError(f"{name} must be of type {kind.__name__}", name)
    return value


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one reply."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    created_cache_tokens: int

    def as_json(self, is_chat: bool) -> Json:
        """The ``usage`` object; text completions do not tell what they added to the cache."""
        details = {"cached_tokens": self.cached_tokens}
        if is_chat:
            details["created_cache_tokens"] = self.created_cache_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": details,
        }


class ReplyShapes:
    """Builds the JSON objects of one reply: chunks of a stream, or the whole."""

    def __init__(self, generation: Generation) -> None:
        self._is_chat = generation.is_chat
        self._finish_reason = generation.finish_reason
        self._calls = [{"index": 0, **generation.call}] if generation.call else []
        self._head: Json = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": int(time.time()),
            "model": generation.model,
        }
        self.text_chunk: Callable[[int, str, bool], Json] = (
            self._chat_text_chunk if self._is_chat else self._completion_text_chunk
        )

    def role_chunk(self, index: int) -> Json:
        """The first chunk of a chat choice."""
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return {**self._head, "choices": [choice], "prompt_token_ids": None, "prompt_text": None}

    def usage_chunk(self, usage: Usage) -> Json:
        """The last chunk, for clients that asked for it."""
        return {**self._head, "choices": [], "usage": usage.as_json(self._is_chat)}

    def whole(self, texts: Sequence[str], usage: Usage) -> Json:
        """A reply that is not streamed."""
        return {
            **self._head,
            "object": "chat.completion" if self._is_chat else "text_completion",
            "choices": [self._whole_choice(index, text) for index, text in enumerate(texts)],
            "service_tier": None,
            "system_fingerprint": None,
            "usage": usage.as_json(self._is_chat),
            "kv_transfer_params": None,
        }

    def _chat_text_chunk(self, index: int, text: str, is_last: bool) -> Json:
        delta: Json = {"content": "" if self._calls else text}
        if is_last and self._calls:
            delta["tool_calls"] = self._calls
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": None,
            "token_ids": None,
        }
        if is_last:
            choice |= {"finish_reason": self._finish_reason, "stop_reason": None}
        return {**self._head, "choices": [choice]}

    def _completion_text_chunk(self, index: int, text: str, is_last: bool) -> Json:
        choice = {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": self._finish_reason if is_last else None,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": None,
        }
        return {**self._head, "choices": [choice]}

    def _whole_choice(self, index: int, text: str) -> Json:
        answer: Json = {"text": text}
        if self._is_chat:
            message: Json = {"role": "assistant", "content": text}
            if self._calls:
                message |= {"content": None, "tool_calls": self._calls}
            answer = {"message": message}
        ending = {
            "logprobs": None,
            "finish_reason": self._finish_reason,
            "stop_reason": None,
            "token_ids": None,
        }
        return {"index": index, **answer, **ending}
