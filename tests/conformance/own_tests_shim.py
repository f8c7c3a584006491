"""Stands for ``tests.utils`` of vLLM's source in a run of its server tests: the server is there already.

Copied into that run's folder; imports nothing of ours.
"""

import os
from typing import Any

import openai
import pytest

ROCM_EXTRA_ARGS: list[str] = []
VLLM_PATH = "."


class RemoteOpenAIServer:
    """What these tests start a server with. All of them get the one that is under test."""

    DUMMY_API_KEY = "token-abc123"

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        self.url_root = os.environ["TESTED_URL"]
        self.host, _, port = self.url_root.removeprefix("http://").partition(":")
        self.port = int(port)

    def __enter__(self) -> "RemoteOpenAIServer":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def url_for(self, *parts: str) -> str:
        """The URL of a path."""
        return "/".join([self.url_root, *parts])

    def get_client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's client."""
        return openai.OpenAI(**self._options("v1", options))

    def get_async_client(self, **options: Any) -> openai.AsyncOpenAI:
        """OpenAI's client for asyncio."""
        return openai.AsyncOpenAI(**self._options("v1", options))

    def get_async_client_anthropic(self, **options: Any) -> Any:
        """Anthropic's client for asyncio."""
        from anthropic import AsyncAnthropic

        return AsyncAnthropic(**self._options("", options))

    def _options(self, path: str, options: dict[str, Any]) -> dict[str, Any]:
        url = self.url_for(path).rstrip("/")
        return {"base_url": url, "api_key": self.DUMMY_API_KEY, "max_retries": 0, "timeout": 90.0, **options}


RemoteLaunchRenderServer = RemoteOpenAIServer


def __getattr__(name: str) -> Any:
    """Marks of tests that need other hardware."""
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *_arguments, **_options: pytest.mark.skip(reason=name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that ask no server."""
    asking = [item for item in items if any("server" in n or "client" in n for n in item.fixturenames)]
    config.hook.pytest_deselected(items=[item for item in items if item not in asking])
    items[:] = asking
