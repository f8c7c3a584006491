"""A fleet whose engines take prompts of different lengths, as their ``--max-model-len`` says."""

import pytest

from tests.integration.system import System, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


async def test_requests_go_where_they_fit(system: System) -> None:
    """What the small engine would refuse goes to the large one; only what both would refuse is refused."""
    small, _ = await system.start_engine(0, "--max-model-len", "256")
    large, _ = await system.start_engine(0, "--max-model-len", "2048")
    system.start_agent(small, large)
    router = await system.start_router("--policy", "round-robin")
    names: dict[str, str] = {}

    async def both_are_ready() -> bool:
        replicas = await system.replicas(router)
        names.update({replica["replica"]: url for url, replica in replicas.items()})
        return [replica["state"] for replica in replicas.values()] == ["ready"] * 2

    await eventually(both_are_ready, 20, "both replicas are ready")

    async def ask(tokens: int, **fields: object) -> tuple[int, str]:
        async with system.session.post(
            f"{router}/v1/completions", json={"model": "tiny", "prompt": [7] * tokens, **fields}
        ) as response:
            text = await response.text()
            return response.status, names.get(response.headers.get("x-warmroute-replica", ""), text)

    short = [await ask(10, max_tokens=256) for _ in range(4)]
    assert sorted(short) == sorted([(200, small), (200, large)] * 2)
    assert {await ask(255, max_tokens=4) for _ in range(4)} == {(200, small), (200, large)}
    assert {await ask(256, max_tokens=1) for _ in range(4)} == {(200, large)}
    assert {await ask(10, max_tokens=257) for _ in range(4)} == {(200, large)}
    status, text = await ask(2048)
    assert status == 400
    assert "2048 tokens" in text
    assert {await ask(10, max_tokens=2049)} == {(400, large)}, "its own refusal, passed on"
