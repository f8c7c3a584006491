"""The client of engines, against engines that answer byte by byte."""

import asyncio

import pytest

from router.errors import AttemptFailedError
from router.settings import RouterSettings
from router.upstream.client import Upstream
from router.upstream.engine_connection import MAX_HEAD_BYTES
from tests.router.fake_engine import REPLY, whole
from tests.waiting import eventually

PATH = "/v1/chat/completions"


@pytest.fixture
async def upstream():
    """A client with short limits."""
    client = Upstream(RouterSettings(first_byte_seconds=2.0, idle_seconds=2.0))
    yield client
    assert client.open_requests == 0
    await client.close()


def raw(*pieces, abort=True):
    """A behaviour: these bytes, each in a segment of its own, then the end of the connection."""

    async def behave(exchange):
        for piece in pieces:
            await exchange.raw(piece)
            await asyncio.sleep(0.005)
        if abort:
            exchange.writer.close()
            await exchange.gone.wait()

    return behave


async def ask(upstream, engine, **headers):
    """Status and body of an answer."""
    reply = await upstream.send(engine.url, PATH, b"{}", headers, streamed=False)
    try:
        return reply.status, reply.first
    finally:
        reply.close()


async def test_connection_is_used_again(upstream, engines):
    """The second request goes over the first one's connection."""
    ports = []

    async def remember(exchange):
        ports.append(exchange.writer.get_extra_info("peername")[1])
        await exchange.whole(REPLY)

    engines[0].script.extend([remember, remember])
    for _ in range(2):
        assert await ask(upstream, engines[0]) == (200, REPLY)
    assert ports[0] == ports[1]


async def test_connection_that_closes_as_it_is_used_is_replaced(upstream, engines):
    """That says nothing about the engine: the request is sent once more, on a new connection."""
    assert (await ask(upstream, engines[0]))[0] == 200
    engines[0].script.append(raw())
    assert await ask(upstream, engines[0]) == (200, REPLY)
    assert len(engines[0].exchanges) == 3


async def test_new_connection_that_closes_is_a_failure(upstream, engines):
    """An engine that takes a request and says nothing has failed."""
    engines[0].script.append(raw())
    with pytest.raises(AttemptFailedError) as failure:
        await ask(upstream, engines[0])
    assert failure.value.replica_down
    assert len(engines[0].exchanges) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\n\r\nhello"],
        [b"HTTP/1.0 200 OK\r\ncontent-type: a/b\r\n\r\nhel", b"lo"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"],
        [b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"],
        [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nl",
            b"lo\r\n0\r\nx: y\r\n\r\n",
        ],
        [bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"],
    ],
    ids=["until close", "1.0", "continue", "early hints", "chunks", "byte by byte"],
)
async def test_bodies_of_all_kinds(upstream, engines, pieces):
    """However its end is marked, a body comes whole."""
    engines[0].script.append(raw(*pieces))
    assert await ask(upstream, engines[0]) == (200, b"hello")


@pytest.mark.parametrize(
    "pieces",
    [
        [b"SSH-2.0-OpenSSH\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"],
        [b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1)],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 4000],
        [b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello"],
    ],
    ids=["not HTTP", "two lengths", "two contents", "endless head", "endless interim", "upgrade"],
)
async def test_answers_that_are_not_sound(upstream, engines, pieces):
    """They count as failed attempts, and nothing of them is passed on."""
    engines[0].script.append(raw(*pieces))
    with pytest.raises(AttemptFailedError):
        await ask(upstream, engines[0])


async def test_body_that_is_cut_is_broken(upstream, engines):
    """A connection that closes is no end of a body that has a length."""
    engines[0].script.append(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello"))
    with pytest.raises(AttemptFailedError):
        await ask(upstream, engines[0])


async def test_surplus_is_not_the_next_answer(upstream, engines):
    """Bytes after an answer are dropped with their connection; the next request gets its own answer."""
    surplus = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    engines[0].script.append(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello" + surplus, abort=False))
    assert await ask(upstream, engines[0]) == (200, b"hello")
    assert await ask(upstream, engines[0]) == (200, REPLY)

    async def late(exchange):
        await exchange.whole(b"hello")
        await exchange.raw(surplus)

    engines[0].script.append(late)
    assert await ask(upstream, engines[0]) == (200, b"hello")
    await eventually(lambda: engines[0].exchanges[-1].written > len(surplus))
    await asyncio.sleep(0.02)
    assert await ask(upstream, engines[0]) == (200, REPLY)


async def test_headers_cannot_be_smuggled_in(upstream, engines):
    """A value that would end its line reaches no engine."""
    for value in ("a\r\nx: y", "a\nb", "a\0b"):
        with pytest.raises(ValueError, match="would end its line"):
            await ask(upstream, engines[0], traceparent=value)
    assert not engines[0].exchanges


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://a b/", "http://x:port", "http://u:p@x", "x", ""]
)
async def test_url_that_leads_nowhere(upstream, url):
    """A lease with such an address is a failed attempt, not an error of the router."""
    with pytest.raises(AttemptFailedError):
        await upstream.send(url, PATH, b"{}", {}, streamed=False)


async def test_path_prefix_of_an_engine(upstream, engines):
    """An engine may stand behind a path."""
    engines[0].script.append(whole(REPLY))
    reply = await upstream.send(engines[0].url + "/behind/", PATH, b"{}", {}, streamed=False)
    reply.close()
    assert reply.status == 404  # the fake engine serves nothing there, but understood the request
