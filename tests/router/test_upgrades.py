"""Offers to change the protocol: none is accepted, and nothing of what comes with them is lost."""

import asyncio

import pytest

from tests.router.fake_engine import REPLY
from tests.router.test_smuggling import AS_CHUNK, BODY, CHUNKED, H2C, LENGTH, request, talk

WEBSOCKET = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
OFFERS = [H2C, WEBSOCKET, b"connection: upgrade\r\nupgrade: h2c, websocket\r\nUpgrade: other/2\r\n"]
NEXT = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSE = b"connection: close\r\n"


def plain(*lines, offer, close=False):
    """A request without a body."""
    connection = CLOSE if close else b""
    return b"GET /readyz HTTP/1.1\r\nhost: x\r\n" + offer + connection + b"".join(lines) + b"\r\n"


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("framing", [(LENGTH, BODY), (CHUNKED, AS_CHUNK)], ids=["length", "chunked"])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
async def test_offer_is_ignored(router, engines, offer, framing, piece):
    """The body arrives whole, and the connection goes on with a pipelined request and another offer."""
    line, body = framing
    first = request(line, offer, body=body)
    data = first + NEXT + first + plain(offer=offer) + request(line, CLOSE, body=body)
    reader, writer = await router.connect()
    for start in range(0, len(data), piece):
        writer.write(data[start : start + piece])
        await asyncio.sleep(0)
    got = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert got.count(b"HTTP/1.1 ") == 5
    assert got.count(REPLY) == 3
    assert got.endswith(REPLY)
    bodies = [exchange.body for engine in engines for exchange in engine.exchanges]
    assert bodies == [BODY] * 3
    await router.drained()


@pytest.mark.parametrize("framing", [(LENGTH, BODY), (CHUNKED, AS_CHUNK)], ids=["length", "chunked"])
async def test_cut_at_every_byte(router, engines, framing):
    """Wherever two reads part, the request is the same."""
    line, body = framing
    data = request(line, H2C, CLOSE.replace(b"close", b"x"), body=body)
    reader, writer = await router.connect()
    for cut in range(1, len(data)):
        writer.write(data[:cut])
        await asyncio.sleep(0.0005)
        writer.write(data[cut:])
        assert (await reader.readuntil(REPLY)).startswith(b"HTTP/1.1 200")
    writer.close()
    assert {exchange.body for engine in engines for exchange in engine.exchanges} == {BODY}


async def test_wish_to_close_is_kept(router):
    """An offer beside ``close`` ends the connection after the answer."""
    offer = b"connection: upgrade, close\r\nupgrade: h2c\r\n"
    got = await talk(router, request(LENGTH, offer) + NEXT)
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.endswith(REPLY)


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize(
    "target", [b"x:1", b"127.0.0.1:80", b"/v1/chat/completions", b"http://x/v1/chat/completions", b"*"]
)
async def test_router_is_no_proxy(router, engines, target, version):
    """CONNECT is refused in every form, and what follows it is not read."""
    data = b"CONNECT " + target + b" " + version + b"\r\nhost: x\r\n" + LENGTH + b"\r\n"
    got = await talk(router, data + request(LENGTH))
    assert got.startswith(b"HTTP/1.1 400")
    assert got.count(b"HTTP/1.1 ") == 1
    assert not engines[0].exchanges
