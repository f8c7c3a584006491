"""Clients that leave, do not read, or do not send: nothing of theirs is left behind."""

import asyncio
import json
import socket

import pytest

from tests.router.fake_engine import DONE, event, never_end, stay_silent, stream
from tests.router.test_requests import CHAT, STREAM, arrived, die_mid_stream, send_raw

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_client_leaves_before_the_first_byte(router, engines, body):
    """The engine is told at once by a closed connection, the booking is gone, nothing is retried."""
    engines[0].script.append(stay_silent)
    _, writer = await send_raw(router, body)
    exchange = await arrived(engines[0])
    assert router.fleet.open_bookings == 1
    writer.close()
    await asyncio.wait_for(exchange.gone.wait(), 2)
    await router.drained()
    assert not engines[1].exchanges
    assert router.fleet.replicas["a"].failed_until == 0


@pytest.mark.parametrize("abruptly", [False, True])
async def test_client_leaves_mid_stream(router, engines, abruptly):
    """A never-ending stream ends upstream when nobody listens any more."""
    engines[0].script.append(never_end)
    reader, writer = await send_raw(router, STREAM)
    await reader.readuntil(b"data: ")
    exchange = await arrived(engines[0])
    assert router.fleet.open_bookings == 1
    if abruptly:
        writer.transport.abort()
    else:
        writer.close()
    await asyncio.wait_for(exchange.gone.wait(), 2)
    await router.drained()


async def test_client_leaves_in_its_own_body(router, engines):
    """Half a request reaches no engine."""
    _, writer = await router.connect(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    )
    await writer.drain()
    writer.close()
    async with router.post(CHAT) as response:
        assert response.status == 200
    assert len(engines[0].exchanges) + len(engines[1].exchanges) == 1
    await router.drained()


async def test_clients_leaving_at_random_times_leave_nothing_behind(router, engines):
    """Forty clients that come and go: all bookings return to zero and the router goes on."""

    async def impatient(number):
        _, writer = await send_raw(router, STREAM if number % 2 else CHAT)
        await asyncio.sleep(number * 0.0015)
        writer.transport.abort()

    for engine in engines:
        engine.script.extend([never_end, stay_silent, stream(event("x"), DONE), die_mid_stream] * 3)
    await asyncio.gather(*map(impatient, range(40)))
    await router.drained()
    for engine in engines:
        engine.script.clear()
    async with router.post(CHAT) as response:
        assert response.status == 200


async def pour(exchange):
    """A script: 240 MB of answer, as fast as it is taken."""
    await exchange.head()
    for _ in range(4000):
        await exchange.chunk(event("x" * 60_000))


def ask_without_reading(client, port):
    """Send a request for a stream on a socket that takes in little."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.connect(("127.0.0.1", port))
    data = json.dumps(STREAM).encode()
    client.sendall(HEAD % len(data) + data)


async def test_client_that_does_not_read_is_not_buffered_for(router, engines):
    """The engine is slowed down to the client's pace: the router holds little more than the kernel does."""
    engines[0].script.append(pour)
    with socket.socket() as client:
        ask_without_reading(client, router.port)
        exchange = await arrived(engines[0])
        before = -1
        while exchange.written != before:
            before = exchange.written
            await asyncio.sleep(0.15)
        assert 0 < exchange.written < 40_000_000
        assert router.fleet.open_bookings == 1
    await asyncio.wait_for(exchange.gone.wait(), 2)
    await router.drained()


async def test_stalled_client_is_given_up(start_router, engines):
    """A client that takes nothing of its answer for too long holds neither engine nor booking."""
    router = await start_router(engines[0], stalled_client_seconds=0.3)
    engines[0].script.append(pour)
    with socket.socket() as client:
        ask_without_reading(client, router.port)
        exchange = await arrived(engines[0])
        await asyncio.wait_for(exchange.gone.wait(), 5)
        await router.drained()


async def test_body_that_trickles_in_is_given_up(start_router):
    """A body that does not arrive in time is answered with 408 and holds no place."""
    router = await start_router(body_seconds=0.2, max_open_requests=1)
    reader, writer = await router.connect(HEAD % 1000 + b"{")
    reply = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in reply
    writer.close()
    await writer.wait_closed()
