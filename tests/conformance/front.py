"""A router in front of one engine, without Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from router.settings import RouterSettings
from tests.conformance.vllm_engine import CONTEXT
from tests.router.conftest import NO_REDIS, Router, running


@asynccontextmanager
async def router_before(url: str, directory: Path, *names: str, **options: Any) -> AsyncIterator[Router]:
    """For the engine at this URL, which serves the model in the directory as ``m`` and by other names."""
    tokenizers = dict.fromkeys(("m", *names), directory)
    settings = RouterSettings(redis_url=NO_REDIS, port=0, tokenizers=tokenizers, grace_seconds=0, **options)
    async with running(settings) as router:
        lease = {"max_model_len": CONTEXT, "publishes_events": False, "model_directory": str(directory)}
        router.admit(url, aliases=names, **lease)
        await router.settled()
        yield router
