"""Tenants of real routers in front of a simulated engine: what one has computed the others do not see."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apart import Apart
from tests.integration.system import System, eventually

pytestmark = pytest.mark.integration

PROMPT = "A prompt that is long enough to fill a good number of blocks. " * 20
KEYS = "alice=key-a,alice=key-a2,bob=key-b"


async def ask(system: System, router: str, key: str, **fields: Any) -> tuple[int, int]:
    """Tokens of the prompt that the router expected in the engine's cache, and that were there."""
    body = {
        "model": "tiny",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": PROMPT}],
        **fields,
    }
    async with system.session.post(
        f"{router}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    ) as response:
        assert response.status == 200, await response.text()
        usage = (await response.json())["usage"]
        details = usage.get("prompt_tokens_details") or {}
        return int(response.headers["x-warmroute-expected-cached-tokens"]), details.get("cached_tokens") or 0


async def settle(system: System, router: str, blocks: int) -> None:
    """Wait until the router knows so many blocks."""

    async def known() -> bool:
        return (await system.get(f"{router}/admin/replicas"))["index_blocks"] >= blocks

    await eventually(known, 10, "blocks known")
    await asyncio.sleep(0.2)


async def test_a_tenants_prompt_is_unseen_by_others(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected and delivered are as for a prompt that nobody has sent, for bob; as for a seen one, with
    alice's other key, and for bob at a router that lets both share. The agent's keys are the router's.
    """
    url, _ = await system.start_engine()
    system.start_agent(url)
    monkeypatch.setenv("WARMROUTE_API_KEYS", KEYS)
    router = await system.start_router()
    assert await ask(system, router, "key-a") == (0, 0)
    await settle(system, router, 1)
    expected, delivered = await ask(system, router, "key-a2")
    assert expected == delivered > 200
    assert await ask(system, router, "key-b") == (0, 0)
    assert await ask(system, router, "key-a", cache_salt="other") == (0, 0)
    monkeypatch.setenv("WARMROUTE_SHARE_CACHE", "alice+bob")
    sharing = await system.start_router()
    await settle(system, sharing, 1)
    assert await ask(system, sharing, "key-b") == (expected, delivered)
    checked = system.check(router, sharing)
    assert checked.returncode == 0, checked.stdout


async def test_nothing_is_found_that_must_not_be(system: System, tmp_path: Path) -> None:
    """By keys of other tenants, roles, environments and scopes, after resets and lifetimes; a revoked key is
    refused. Real engines: test_serve.py."""
    url, _ = await system.start_engine()
    system.start_agent(url)
    apart = Apart(system, "tiny", tmp_path)
    await apart.start()
    for _ in range(2):
        assert await apart.round() == [0] * 10
    await apart.revoked_is_refused()
