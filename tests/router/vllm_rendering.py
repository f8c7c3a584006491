"""What vLLM itself renders for a request, in this process and without an engine; and templates to try."""

import json
import shutil
from pathlib import Path

STRICT_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>tools\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}\
{{ '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}
{%- if message.content is string %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '<call>' }}{{ call | tojson }}{{ '</call>' }}
{%- endfor %}
{%- if message.tool_call_id %}{{ '[' + message.tool_call_id + ']' }}{% endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}
"""
"""Prints all that a message can hold, wants the system message in front, knows how to disable thinking."""
LENIENT_TEMPLATE = STRICT_TEMPLATE.replace("{{ raise_exception('system comes first') }}", "").replace(
    "enable_thinking is defined and not enable_thinking", "reasoning_effort is defined"
)
"""Takes system messages anywhere, and does not tell efforts apart."""


def model_with(template: str, model: Path, directory: Path) -> Path:
    """A copy of a model's small files with another chat template."""
    directory.mkdir()
    for file in model.iterdir():
        if file.is_file() and file.stat().st_size < 20_000_000 and file.name != "chat_template.jinja":
            shutil.copy(file, directory)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return directory


class VllmRendering:
    """vLLM's renderer for one model directory, and its conversions of both APIs."""

    def __init__(self, directory: Path) -> None:
        from vllm import AsyncEngineArgs
        from vllm.config import VllmConfig
        from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
        from vllm.renderers import renderer_from_config
        from vllm.renderers.online_renderer import OnlineRenderer

        arguments = AsyncEngineArgs(model=str(directory), enforce_eager=True, max_model_len=8192)
        config = VllmConfig(model_config=arguments.create_model_config())
        self._online = OnlineRenderer(
            model_config=config.model_config,
            renderer=renderer_from_config(config),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            enable_auto_tools=True,
            tool_parser="hermes",
        )
        self._serving = AnthropicServingMessages.__new__(AnthropicServingMessages)
        self._serving.online_renderer = self._online
        self._serving.model_config = config.model_config
        self.merges_system = AnthropicServingMessages._should_merge_inline_system(self._online)
        self._effort = None

    async def effort_without_thinking(self) -> str:
        """How vLLM disables thinking with this template."""
        if self._effort is None:
            self._effort = await self._serving._probe_disabled_thinking_effort()
        return self._effort

    async def messages(self, body: dict) -> list[int] | None:
        """The tokens of a Messages request; None where vLLM refuses it."""
        from pydantic import ValidationError
        from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.exceptions import VLLMValidationError

        try:
            chat = self._serving.to_chat_completion_request(
                AnthropicMessagesRequest.model_validate(json.loads(json.dumps(body))),
                merge_inline_system=self.merges_system,
                disabled_thinking_effort=await self.effort_without_thinking(),
            )
            result = await self._online.render_chat(chat)
        except (ValidationError, VLLMValidationError, ValueError, AttributeError):
            return None
        return None if isinstance(result, ErrorResponse) else list(result[1][0]["prompt_token_ids"])

    async def responses(self, body: dict) -> list[int] | None:
        """The tokens of a Responses request; None where vLLM refuses it."""
        from pydantic import ValidationError
        from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.exceptions import VLLMValidationError

        try:
            request = ResponsesRequest.model_validate(json.loads(json.dumps(body)))
            result = await self._online.render_responses(request)
        except (ValidationError, VLLMValidationError, ValueError, AttributeError):
            return None
        return None if isinstance(result, ErrorResponse) else list(result.engine_input["prompt_token_ids"])
