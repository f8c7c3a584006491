"""Comments in streams, with which engines keep connections open while a request waits, and nginx."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from tests.router.fake_engine import DONE, event, stream
from tests.router.test_requests import CHAT, ERROR_500, STREAM

COMMENT = b": keep-alive\n\n"
"""vLLM's, with ``--sse-keep-alive-interval``."""


async def comment_and_die(exchange):
    """Say that the request waits, then die."""
    await exchange.head()
    for _ in range(3):
        await exchange.chunk(COMMENT)
        await asyncio.sleep(0.01)
    exchange.abort()


async def comment_for_ever(exchange):
    """Say that the request waits, and nothing else."""
    await exchange.head()
    while not exchange.gone.is_set():
        await exchange.chunk(COMMENT)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "failure", [comment_and_die, stream(COMMENT, COMMENT), stream(COMMENT, ERROR_500, DONE, pause=0.01)]
)
async def test_engine_that_fails_after_comments_is_replaced(router, engines, failure):
    """They are not the beginning of an answer."""
    engines[0].script.append(failure)
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + event("llo") + DONE
        assert response.headers["x-warmroute-replica"] == "b"
    await router.drained()


async def test_comments_are_no_first_token(router, engines):
    """The prompt still queues while they come; the time to the first token ends with the first event."""
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def wait(exchange):
        await exchange.head()
        await exchange.chunk(COMMENT)
        waits.set()
        await go_on.wait()
        await exchange.chunk(COMMENT[:5])
        await exchange.chunk(COMMENT[5:] + event("he")[:9])
        await exchange.chunk(event("he")[9:] + COMMENT)
        await exchange.chunk(COMMENT)
        await exchange.chunk(DONE)
        await exchange.end()

    engines[0].script.append(wait)
    with capture_logs() as logs:
        asked = asyncio.ensure_future(router.post(STREAM).__aenter__())
        await waits.wait()
        await asyncio.sleep(0.1)
        replica = router.fleet.replicas["a"]
        assert replica.queued_tokens > 0
        assert not asked.done()
        go_on.set()
        response = await asked
        assert await response.read() == event("he") + COMMENT + COMMENT + DONE
        await router.drained()
    [line] = [line for line in logs if line["event"] == "request_finished"]
    assert line["outcome"] == "ok"
    assert line["ttft_ms"] > 90


async def test_comments_do_not_extend_the_wait_for_the_first_token(start_router, engines):
    """The limit of a stream's first byte is that of its first event."""
    router = await start_router(engines[0], first_byte_seconds=0.5, idle_seconds=5.0)
    engines[0].script.append(comment_for_ever)
    began = time.monotonic()
    async with router.post(STREAM) as response:
        assert response.status == 504
        message = (await response.json())["error"]["message"]
    assert "no answer within 0.5 s (WARMROUTE_FIRST_BYTE_SECONDS)" in message
    assert time.monotonic() - began < 3
    await router.drained()


async def test_limit_of_the_first_event_ends_with_it(start_router, engines):
    """What follows may take as long as it likes, while it is not silent."""
    router = await start_router(engines[0], first_byte_seconds=0.3, idle_seconds=5.0)
    engines[0].script.append(stream(event("he"), *[COMMENT] * 6, event("llo"), DONE, pause=0.1))
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + COMMENT * 6 + event("llo") + DONE
    await router.drained()


async def test_proxies_are_asked_to_pass_events_on(router):
    """Of a stream; a whole answer says nothing of the kind."""
    async with router.post(STREAM) as response:
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-cache"
    async with router.post(CHAT) as response:
        assert not {"x-accel-buffering", "cache-control"} & set(response.headers)
    await router.drained()
