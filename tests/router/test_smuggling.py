"""Bytes that another HTTP parser might read otherwise: the router must not guess what they mean."""

import asyncio
import json
from contextlib import suppress

import pytest

from router.http.request_reader import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED, SLICE_BYTES
from tests.router.fake_engine import DONE, REPLY, event, stream
from tests.waiting import eventually

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}).encode()
STREAM = json.dumps({**json.loads(BODY), "stream": True}).encode()
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
"""What Java's client sends with every request over plain HTTP."""
AS_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def request(*lines, body=BODY, target=b"/v1/chat/completions"):
    """A request with exactly these header lines."""
    return b"POST " + target + b" HTTP/1.1\r\nhost: x\r\n" + b"".join(lines) + b"\r\n" + body


async def talk(router, data, until=None):
    """Send bytes; what comes back until the connection closes, or until ``until`` has come."""
    reader, writer = await router.connect(data)
    got = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(5):
            while until is None or until not in got:
                part = await reader.read(65536)
                if not part:
                    break
                got += part
    writer.close()
    return got


@pytest.mark.parametrize(
    "data",
    [
        request(LENGTH, CHUNKED, body=AS_CHUNK),
        request(CHUNKED, LENGTH, body=AS_CHUNK),
        request(LENGTH, b"content-length: 3\r\n"),
        request(b"content-length: %d, %d\r\n" % (len(BODY), len(BODY))),
        request(b"content-length: +%d\r\n" % len(BODY)),
        request(b"content-length: -1\r\n"),
        request(b"content-length: 99999999999999999999\r\n"),
        request(b"content-length : %d\r\n" % len(BODY)),
        request(b"x: 1\r\n folded\r\n", LENGTH),
        request(b"x: 1\n", LENGTH),
        request(b"x: a\0b\r\n", LENGTH),
        request(b"x: a\rb\r\n", LENGTH),
        request(b"transfer-encoding: xchunked\r\n", body=AS_CHUNK),
        request(b"transfer-encoding: chunked, identity\r\n", body=AS_CHUNK),
        request(CHUNKED, body=b"fffffffffffffffff\r\n" + BODY),
        request(CHUNKED, body=b"-1\r\n" + BODY),
        request(CHUNKED, body=b"5\r\n" + BODY),
        request(CHUNKED, body=b"%x\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
        request(LENGTH).replace(b"host: x\r\n", b""),
        request(LENGTH, b"host: y\r\n"),
        request(LENGTH, b"Host: x\r\n"),
        request(LENGTH, b"host: x\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/3.7\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        # An offer of another protocol hides nothing.
        request(LENGTH, CHUNKED, H2C, body=AS_CHUNK),
        request(LENGTH, b"content-length: 3\r\n", H2C),
        request(b"transfer-encoding: gzip\r\n", H2C, body=AS_CHUNK),
        request(b"transfer-encoding: chunked, identity\r\n", H2C, body=AS_CHUNK),
        request(CHUNKED, H2C, body=b"5\r\n" + BODY),
        request(LENGTH, H2C).replace(b"host: x\r\n", b""),
        request(LENGTH, H2C, b"host: y\r\n"),
    ],
)
async def test_what_is_ambiguous_is_refused(router, engines, data):
    """No engine hears of it, the client is told, and the connection ends."""
    got = await talk(router, data)
    assert got.startswith(b"HTTP/1.1 400")
    assert got.count(b"HTTP/1.1 ") == 1
    assert not engines[0].exchanges
    assert not engines[1].exchanges
    await router.drained()


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 400_000,
        b"POST /" + b"a" * 400_000,
        b"POST / HTTP/1.1\r\n" + b"x: y\r\n" * 70_000,
        request(CHUNKED, body=b"1;" + b"a" * 400_000),
        request(CHUNKED, body=b"1\r\n{\r\n0\r\n" + b"x: y\r\n" * 70_000),
        request(CHUNKED, body=b"1\r\n{\r\n0\r\nx: " + b"y" * 400_000),
    ],
    ids=["header", "target", "headers", "chunk extension", "trailers", "trailer"],
)
async def test_what_is_no_body_is_bounded(router, engines, data):
    """Heads, chunk extensions and trailers that do not end are refused, whoever sends them."""
    assert len(data) > MAX_HEAD_BYTES
    got = await talk(router, data)
    assert got.startswith(b"HTTP/1.1 400") or not got  # reset: the client was still sending
    assert not engines[0].exchanges
    await router.drained()


async def test_pipelined_requests_are_answered_in_turn(router, engines):
    """Three requests in one segment get three answers, in their order, also where the first one is slow."""
    engines[0].script.append(stream(event("slow"), DONE, pause=0.02))
    data = request(b"content-length: %d\r\n" % len(STREAM), body=STREAM)
    got = await talk(
        router,
        data + request(LENGTH) + b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    assert got.count(b"HTTP/1.1 200") == 3
    first, second, third = got.split(b"HTTP/1.1 200")[1:]
    assert event("slow") in first
    assert first.endswith(b"0\r\n\r\n")
    assert second.endswith(REPLY)
    assert b"degraded" in third
    await router.drained()


async def test_pipelining_client_that_leaves(router, engines):
    """The request that runs is cancelled, although another one came after it."""

    async def silent(exchange):
        await exchange.gone.wait()

    engines[0].script.append(silent)
    _, writer = await router.connect(request(LENGTH))
    await eventually(lambda: bool(engines[0].exchanges))
    writer.write(request(LENGTH))
    await asyncio.sleep(0.02)
    writer.transport.abort()
    await asyncio.wait_for(engines[0].exchanges[0].gone.wait(), 2)
    await router.drained()
    assert not engines[1].exchanges


async def test_surplus_after_a_body_ends_the_connection(router, engines):
    """A body longer than declared is no second request, and the first one is still answered."""
    got = await talk(router, request(LENGTH, body=BODY + b'{"more": 1}'))
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(REPLY)
    assert b"connection: close" in got
    assert len(engines[0].exchanges) == 1
    await router.drained()


async def test_chunked_upload(router, engines):
    """Chunks with extensions and trailers become one body with a length; trailers are no headers."""
    pieces = b"".join(b"3;a=b\r\n%b\r\n" % BODY[start : start + 3] for start in range(0, len(BODY) - 2, 3))
    rest = BODY[len(BODY) - len(BODY) % 3 :]
    pieces += b"%x\r\n%b\r\n" % (len(rest), rest) if rest else b""
    body = pieces + b"0\r\nx-request-id: trailer\r\n\r\n"
    got = await talk(router, request(CHUNKED, b"connection: close\r\n", body=body))
    assert got.endswith(REPLY)
    assert b"trailer" not in got
    [exchange] = engines[0].exchanges
    assert exchange.body == BODY
    assert exchange.headers["content-length"] == str(len(BODY))
    assert "transfer-encoding" not in exchange.headers


@pytest.mark.parametrize("offer", [b"", H2C])
async def test_expect_100_continue(router, offer):
    """A client that waits for leave to send its body gets it, and then its answer."""
    reader, writer = await router.connect(request(LENGTH, offer, b"expect: 100-continue\r\n", body=b""))
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await asyncio.wait_for(reader.readuntil(REPLY), 5)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_target_with_a_host_is_the_same_path(router, engines):
    """Proxies are sent targets in this form; the host in it goes nowhere."""
    got = await talk(router, request(LENGTH, target=b"http://elsewhere/v1/chat/completions"), until=REPLY)
    assert got.startswith(b"HTTP/1.1 200")
    assert engines[0].exchanges[0].path == "/v1/chat/completions"
    assert "elsewhere" not in engines[0].exchanges[0].headers["host"]


async def test_many_small_requests_are_read_a_few_at_a_time(router):
    """However many come in one read: the rest of it waits for answers, and others have their turn."""
    data = b"GET /v1/models HTTP/1.1\r\nhost:\r\n\r\n" * 400
    longest = 0

    async def watch():
        nonlocal longest
        while True:
            for connection in router.server.server_state.connections:
                longest = max(longest, len(connection.pipeline))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    got = await talk(router, data + b"GET /healthz HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n")
    watching.cancel()
    assert got.count(b"HTTP/1.1 200") == 401
    assert 0 < longest < MAX_PIPELINED + SLICE_BYTES // 30


@pytest.mark.parametrize("size", [1, 2, 4000, 60_000, 300_000])
async def test_long_bodies_in_chunks_of_any_size(router, engines, size):
    """What one read brings is parsed in slices; the body is the same."""
    body = json.dumps({**json.loads(BODY), "padding": "x" * min(20_000 * size, 300_000)}).encode()
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    data = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"
    got = await talk(router, request(CHUNKED, body=data) + request(LENGTH, b"connection: close\r\n"))
    assert got.count(REPLY) == 2
    assert engines[0].exchanges[0].body == body


async def test_too_many_headers(router):
    """Their number is bounded as well as their bytes."""
    data = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * (2 * MAX_HEADERS) + b"\r\n"
    assert (await talk(router, data)).startswith(b"HTTP/1.1 400")


async def test_malformed_body_behind_a_request_that_is_answered(router, engines):
    """The first answer stays whole: nothing is written into it."""
    engines[0].script.append(stream(event("slow"), DONE, pause=0.05))
    data = request(b"content-length: %d\r\n" % len(STREAM), body=STREAM)
    got = await talk(router, data + request(CHUNKED, body=b"xyz\r\n"))
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.endswith(b"0\r\n\r\n")
    assert not engines[1].exchanges


async def test_old_client_gets_an_answer_without_chunks(router):
    """HTTP/1.0 knows no chunked bodies: the end of the connection is the end of the stream. Nor Host."""
    data = request(b"content-length: %d\r\n" % len(STREAM), body=STREAM).replace(b"HTTP/1.1", b"HTTP/1.0")
    data = data.replace(b"host: x\r\n", b"")
    got = await talk(router, data)
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == event("he") + event("llo") + DONE
