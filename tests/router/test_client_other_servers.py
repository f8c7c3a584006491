"""The router under an ASGI server that is not its own, as under Ray Serve's proxy."""

import asyncio
import json

import pytest

from router.settings import RouterSettings
from tests.router.conftest import NO_REDIS, running
from tests.router.fake_engine import DONE, REPLY, event, never_end, stream

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
STREAM = {**CHAT, "stream": True}


@pytest.fixture
async def elsewhere(engines):
    """A router under uvicorn's own connections."""
    settings = RouterSettings(redis_url=NO_REDIS, port=0, policy="round-robin", idle_seconds=0.3)
    async with running(settings, http="httptools") as router:
        router.admit(engines[0].url)
        yield router


async def test_answers_of_both_kinds(elsewhere):
    """A client sees no difference."""
    async with elsewhere.post(CHAT) as response:
        assert (response.status, await response.read()) == (200, REPLY)
    async with elsewhere.post(STREAM) as response:
        assert await response.read() == event("he") + event("llo") + DONE
    async with elsewhere.post({}) as response:
        assert response.status == 400
    await elsewhere.drained()


async def test_stream_that_breaks_ends_with_an_error_event(elsewhere, engines):
    """Also here nothing ends without a word."""
    engines[0].script.append(stream(event("he")))
    async with elsewhere.post(STREAM) as response:
        assert b"upstream_failed" in await response.read()
    await elsewhere.drained()


async def test_client_that_leaves_ends_the_stream(elsewhere, engines):
    """The engine is told, and nothing stays booked."""
    engines[0].script.append(never_end)
    body = json.dumps(STREAM).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", elsewhere.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    await reader.readuntil(b"data: ")
    writer.close()
    await asyncio.wait_for(engines[0].exchanges[0].gone.wait(), 2)
    await elsewhere.drained()
