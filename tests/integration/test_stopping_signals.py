"""Signals to ``warmroute router``, with one process and with several."""

import asyncio
import json
import signal
import subprocess
import time

import aiohttp
import pytest

from tests.integration.system import WARMROUTE, System, eventually, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

LONG = {"model": "tiny", "messages": [{"role": "user", "content": "why"}], "max_tokens": 4000, "stream": True}


async def start(
    system: System, workers: int, unready_seconds: float, grace_seconds: float
) -> tuple[str, "subprocess.Popen[bytes]"]:
    """An engine whose answers take minutes, and a router that is ready."""
    engine, _ = await system.start_engine(0, "--step-ms", "40")
    system.start_agent(engine)
    port = free_port()
    system.afresh = True
    process = system.start(
        "router",
        [
            *(*WARMROUTE, "router", "--redis-url", system.redis.url),
            *("--port", str(port), "--workers", str(workers)),
        ],
        WARMROUTE_UNREADY_SECONDS=str(unready_seconds),
        WARMROUTE_GRACE_SECONDS=str(grace_seconds),
        WARMROUTE_PORT="tcp://10.0.0.1:8000",
    )
    url = f"http://127.0.0.1:{port}"
    await eventually(lambda: system.answers(f"{url}/readyz"), 60, "router ready")
    return url, process


async def open_streams(url: str, number: int) -> "list[asyncio.Task[bytes]]":
    """Streams on connections of their own, each with its first bytes."""
    begun = asyncio.Semaphore(0)

    async def ask() -> bytes:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
            session.post(f"{url}/v1/chat/completions", json=LONG) as response,
        ):
            assert response.status == 200
            first = await response.content.readany()
            begun.release()
            return first + await response.read()

    streams = [asyncio.create_task(ask()) for _ in range(number)]
    for _ in streams:
        await asyncio.wait_for(begun.acquire(), 20)
    return streams


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm(system: System, workers: int) -> None:
    """Unready while it serves on, then closed while streams run on, whose end at the limit is an error event.

    The exit code says that it was the signal, or that all workers have ended as they were asked to.
    """
    url, process = await start(system, workers, unready_seconds=1.5, grace_seconds=1.0)
    streams = await open_streams(url, 6)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    await asyncio.sleep(0.7)
    for _ in range(4):
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/readyz") as response:
                assert response.status == 503
            async with session.post(
                f"{url}/v1/chat/completions", json={**LONG, "max_tokens": 1, "stream": False}
            ) as response:
                assert response.status == 200
    await asyncio.sleep(max(0.0, began + 2.0 - time.monotonic()))
    assert not await system.answers(f"{url}/healthz")
    assert not any(stream.done() for stream in streams)
    for body in await asyncio.gather(*streams):
        *_, error, done, _ = body.split(b"\n\n")
        assert done == b"data: [DONE]"
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "router_stopping"
    code = await asyncio.to_thread(process.wait, 10)
    assert code == (0 if workers > 1 else -signal.SIGTERM), system.log("router")
    assert 2.5 < time.monotonic() - began < 5
    assert "Traceback" not in system.log("router")


@pytest.mark.parametrize(
    ("workers", "second"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)]
)
async def test_second_signal(system: System, workers: int, second: signal.Signals) -> None:
    """It waits neither for load balancers nor for streams."""
    url, process = await start(system, workers, unready_seconds=60, grace_seconds=60)
    streams = await open_streams(url, 2)
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    assert process.poll() is None
    process.send_signal(second)
    assert await asyncio.to_thread(process.wait, 5) != 0
    for stream in streams:
        with pytest.raises(aiohttp.ClientError):
            await stream


async def test_sigterm_to_an_agent(system: System) -> None:
    """Its engine gets no new requests until an agent is there again, and what it is working on goes on to the
    end. The agent ends soon, also where Redis does not answer.
    """
    engine, _ = await system.start_engine(0, "--step-ms", "20")
    agent = system.start_agent(engine)
    url = await system.start_router()
    ask = {**LONG, "max_tokens": 600}
    async with system.session.post(f"{url}/v1/chat/completions", json=ask) as response:
        await response.content.readany()
        agent.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.wait, 10) == 0, system.log("agent")
        async with system.session.post(f"{url}/v1/chat/completions", json=ask) as refused:
            assert refused.status == 503
            assert refused.headers["retry-after"]
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    again = system.start_agent(engine)
    await eventually(lambda: system.answers(f"{url}/readyz"), 30, "the engine is used again")
    system.redis.hang()
    again.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(again.wait, 20) == 0, system.log("agent")
    assert "Traceback" not in system.log("agent")
