"""What vLLM makes of a request: its own code, in this process, without an engine."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi.encoders import jsonable_encoder

from cluster.prompts.chat_rendering import ChatOptions


class VllmRenderer:
    """The renderer of a server with these options. Importing vLLM takes half a minute on a busy machine."""

    def __init__(self, model: Path, options: ChatOptions) -> None:
        logging.disable(logging.WARNING)
        from vllm.config import ModelConfig, ParallelConfig
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.renderers import renderer_from_config
        from vllm.renderers.online_renderer import OnlineRenderer

        self._chat, self._completion, self._error = ChatCompletionRequest, CompletionRequest, ErrorResponse
        config: Any = ModelConfig(model=str(model), dtype="bfloat16")
        parts: Any = SimpleNamespace(model_config=config, parallel_config=ParallelConfig())
        self._renderer = OnlineRenderer(
            config,
            renderer_from_config(parts),
            request_logger=None,
            chat_template=options.chat_template.read_text() if options.chat_template else None,
            chat_template_content_format=options.chat_template_content_format,
            enable_auto_tools=True,
            tool_parser="hermes",
            exclude_tools_when_tool_choice_none=options.exclude_tools_when_tool_choice_none,
            default_chat_template_kwargs=dict(options.default_chat_template_kwargs),
        )

    async def __call__(self, body: Mapping[str, Any]) -> list[list[int]] | None:
        """The token ids of all prompts of a request; None when it is refused."""
        body = jsonable_encoder(body)  # a copy: vLLM changes what it is given
        try:
            if "messages" in body:
                rendered: Any = await self._renderer.render_chat(self._chat.model_validate(body))
                prompts = rendered if isinstance(rendered, self._error) else rendered[1]
            else:
                prompts = await self._renderer.render_completion(self._completion.model_validate(body))
        except Exception:  # whatever it is, a server answers it with 400 or 500
            return None
        return (
            None if isinstance(prompts, self._error) else [list(one["prompt_token_ids"]) for one in prompts]
        )
