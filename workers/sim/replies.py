"""What a simulated engine answers with: vLLM's JSON objects (0.32), for streams and for whole replies."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.sim.requests import Generation, Json


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
        choice = {
            "index": index,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": None,
            "token_ids": None,
        }
        if is_last:
            choice |= {"finish_reason": "length", "stop_reason": None}
        return {**self._head, "choices": [choice]}

    def _completion_text_chunk(self, index: int, text: str, is_last: bool) -> Json:
        choice = {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": "length" if is_last else None,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": None,
        }
        return {**self._head, "choices": [choice]}

    def _whole_choice(self, index: int, text: str) -> Json:
        answer: Json = (
            {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        )
        ending = {"logprobs": None, "finish_reason": "length", "stop_reason": None, "token_ids": None}
        return {"index": index, **answer, **ending}
