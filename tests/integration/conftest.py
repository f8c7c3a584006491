"""Fixtures of tests with real processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.integration.system import System


@pytest.fixture
async def system(tmp_path: Path, tiny_model: Path) -> AsyncIterator[System]:
    """Nothing but a Redis at first; everything a test starts with it ends with the test."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        system = System(tmp_path, tiny_model, session)
        try:
            system.redis.start()
            yield system
        finally:
            system.stop()
