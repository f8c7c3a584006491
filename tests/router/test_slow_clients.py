"""Clients that are slow, greedy or many: they are given up in time, and nobody else waits for them."""

import asyncio
import json
import logging
import socket
from contextlib import suppress

import pytest

from router.http import request_reader
from tests.router.fake_engine import REPLY, never_end, stay_silent
from tests.router.test_requests import CHAT, STREAM
from tests.waiting import eventually

PATH = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
WHOLE = json.dumps(CHAT).encode()
KIB = 1024


def head(length, *lines):
    """Of a request with a body of this length."""
    return PATH + b"content-length: %d\r\n" % length + b"".join(lines) + b"\r\n"


ASK = head(len(WHOLE)) + WHOLE
ASK_STREAM = head(len(json.dumps(STREAM))) + json.dumps(STREAM).encode()
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = PATH + b"transfer-encoding: chunked\r\n\r\n"


async def rest(reader):
    """All that comes until the connection ends."""
    got = b""
    with suppress(ConnectionError):
        while part := await asyncio.wait_for(reader.read(65536), 5):
            got += part
    return got


async def status(router, body=CHAT, **options):
    """Of an ordinary request."""
    async with router.post(body, **options) as response:
        await response.read()
        return response.status


def hold_nothing(router):
    """Whether no place and no byte is taken: what was taken was given back once."""
    admission = router.app.admission
    taken = [(party.requests, party.body_bytes, party.arriving_bytes) for party in admission.parties]
    return not (admission.open or admission.body_bytes or any(map(any, taken)))


@pytest.fixture
def hurried(monkeypatch):
    """Short deadlines."""
    monkeypatch.setattr(request_reader, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(request_reader, "BODY_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(request_reader, "BODY_BYTES_PER_SECOND", 10_000)


@pytest.fixture
async def hurried_router(start_router, engines, hurried):
    """A router with short deadlines; at the end it holds nothing."""
    router = await start_router(engines[0], body_seconds=2.0, stalled_client_seconds=0.4)
    yield router
    await router.drained()
    await eventually(lambda: hold_nothing(router))


@pytest.mark.parametrize(
    ("before", "data", "answer"),
    [
        (b"", b"", b""),
        (b"", b"\r\n", b"HTTP/1.1 408"),
        (b"", b"POST /v1/chat", b"HTTP/1.1 408"),
        (b"", PATH + b"x: y\r\n", b"HTTP/1.1 408"),
        (GET, b"\r\n", b"HTTP/1.1 408"),
        (GET, PATH, b"HTTP/1.1 408"),
        (ASK, PATH, b"HTTP/1.1 408"),
    ],
    ids=["silent", "blank line", "target", "headers", "later blank line", "later head", "head after a body"],
)
async def test_head_that_does_not_end_is_given_up(start_router, engines, hurried, before, data, answer):
    """Of the first request or of a later one; whoever has sent nothing hears nothing."""
    router = await start_router(engines[0], body_seconds=0.2)
    reader, writer = await router.connect(before)
    if before:
        first = await reader.readuntil(b"\r\n\r\n")
        first += await reader.readexactly(int(first.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.write(data)
    got = await rest(reader)
    assert got[:12] == answer
    if answer:
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
        assert b"connection: close" in got
    writer.close()


async def test_head_that_trickles_is_given_up(start_router, hurried):
    """More bytes do not buy more time."""
    router = await start_router(body_seconds=0.2)
    reader, writer = await router.connect(PATH)

    async def trickle():
        while True:
            writer.write(b"x: y\r\n")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    assert (await rest(reader)).startswith(b"HTTP/1.1 408")
    trickling.cancel()
    writer.close()


async def test_half_a_head_behind_a_request_does_not_harm_that(start_router, engines, hurried):
    """The first is answered, then the connection ends."""
    router = await start_router(engines[0], body_seconds=0.2)

    async def slowly(exchange):
        await asyncio.sleep(0.6)
        await exchange.whole(REPLY)

    engines[0].script.append(slowly)
    reader, writer = await router.connect(ASK + PATH)
    got = await rest(reader)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(REPLY)
    writer.close()


@pytest.mark.parametrize("start", [head(9000) + b"{", CHUNKED + b"1\r\n{\r\n", CHUNKED + b"23"])
async def test_body_that_does_not_come_is_given_up(hurried_router, engines, start):
    """After the grace, and long before the time that a body may take at all."""
    reader, writer = await hurried_router.connect(start)
    got = await asyncio.wait_for(reader.readuntil(b"}}"), 1.5)
    assert got.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in got
    writer.close()
    assert not engines[0].exchanges


@pytest.mark.parametrize(("bytes_per_step", "answer"), [(50, 408), (3000, 200)])
async def test_body_must_keep_a_rate(hurried_router, bytes_per_step, answer):
    """A slow one is given up though it goes on; a long one at a fair rate is not."""
    text = json.dumps({**CHAT, "padding": "x" * 20 * bytes_per_step}).encode()
    reader, writer = await hurried_router.connect(head(len(text)))

    async def send():
        for start in range(0, len(text), bytes_per_step):
            writer.write(text[start : start + bytes_per_step])
            await asyncio.sleep(0.05)

    sending = asyncio.create_task(send())
    assert int((await asyncio.wait_for(reader.readline(), 5)).split()[1]) == answer
    sending.cancel()
    writer.close()


async def test_late_body_that_nobody_reads_ends_the_connection(start_router, hurried):
    """Where the answer needs no body it is given, and the rest is not awaited for ever."""
    router = await start_router(body_seconds=0.5)
    reader, writer = await router.connect(GET.replace(b"\r\n\r\n", b"\r\ncontent-length: 50\r\n\r\n{"))
    assert (await rest(reader)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_idle_connection_is_closed_after_a_while(start_router, engines):
    """Also when nothing but the start of its next request would have kept it."""
    router = await start_router(engines[0], body_seconds=0.5)
    router.server.config.timeout_keep_alive = 0.3
    reader, writer = await router.connect(ASK)
    await reader.readuntil(REPLY)
    await asyncio.sleep(0.1)
    writer.write(ASK)
    await reader.readuntil(REPLY)
    assert await rest(reader) == b""
    writer.close()


async def test_client_that_waits_for_leave_after_its_answer(start_router):
    """A refused request whose body was not sent ends the connection: its next bytes are no body."""
    router = await start_router(max_body_bytes=1024, api_keys={"a": "key"})
    expect = b"expect: 100-continue\r\n"
    key = b"authorization: Bearer key\r\n"
    admin = head(100, expect).replace(b"/v1/chat/completions", b"/admin/policy")
    for data in (head(100, expect), head(5000, expect, key), admin):
        reader, writer = await router.connect(data)
        got = await rest(reader)
        assert got.startswith(b"HTTP/1.1 4")
        assert b"100 Continue" not in got
        writer.close()


async def test_half_sent_bodies_take_no_place(start_router, engines):
    """A place is taken when a body is complete; so many may arrive at once, and others are answered."""
    router = await start_router(engines[0], max_open_requests=2)
    writers = [(await router.connect(head(100) + b"{"))[1] for _ in range(20)]
    await eventually(lambda: router.app.admission.body_bytes == 20)
    assert await status(router) == 200
    for writer in writers:
        writer.close()
    await eventually(lambda: hold_nothing(router))


async def test_bodies_are_bounded_in_bytes(start_router, engines):
    """Those of one address that arrive have half of the room; beyond it others are refused with 429."""
    router = await start_router(engines[0], max_body_bytes=64 * KIB, max_body_bytes_in_flight=128 * KIB)
    admission = router.app.admission
    _, holder = await router.connect(head(60 * KIB) + b" " * 50 * KIB)
    await eventually(lambda: admission.body_bytes == 50 * KIB)
    assert await status(router) == 200
    for data in (head(20 * KIB), CHUNKED + b"5000\r\n" + b" " * 20 * KIB):
        reader, writer = await router.connect(data)
        got = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
        assert got.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1\r\n" in got
        assert b"rate_limit_exceeded" in got
        writer.close()
    await eventually(lambda: admission.body_bytes == 50 * KIB)
    holder.close()
    await eventually(lambda: hold_nothing(router))
    assert await status(router, {**CHAT, "padding": "x" * 50 * KIB}) == 200
    await eventually(lambda: hold_nothing(router))


async def test_pipelined_bodies_count_too(start_router, engines):
    """Also those that nobody has looked at yet."""
    router = await start_router(engines[0], max_body_bytes=64 * KIB, max_body_bytes_in_flight=128 * KIB)
    engines[0].script.append(stay_silent)
    _, writer = await router.connect(ASK + head(60 * KIB) + b" " * 60 * KIB)
    await eventually(lambda: router.app.admission.body_bytes == 60 * KIB + len(WHOLE))
    assert await status(router, {**CHAT, "padding": "x" * 10 * KIB}) == 429
    writer.close()
    await eventually(lambda: hold_nothing(router))


@pytest.mark.parametrize("kind", ["head", "read ahead"])
async def test_what_is_no_body_yet_counts_too(start_router, engines, kind):
    """Long heads that do not end, and what was read behind requests that wait for their turn."""
    router = await start_router(engines[0], max_body_bytes=64 * KIB, max_body_bytes_in_flight=128 * KIB)
    go_on = asyncio.Event()

    async def answer_later(exchange):
        await go_on.wait()
        await exchange.whole(REPLY)

    engines[0].script.extend([answer_later] * 2)
    data = PATH + b"x: " + b"y" * 30 * KIB if kind == "head" else ASK + GET * 850
    writers = [(await router.connect(data))[1] for _ in range(2)]
    await eventually(lambda: router.app.admission.body_bytes > 50 * KIB)
    reader, writer = await router.connect(PATH + b"x: " + b"y" * 30 * KIB)
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 429")
    writer.close()
    for each in writers:
        each.close()
    go_on.set()  # who has pipelined so much is not seen leaving until the first answer
    await router.drained()
    await eventually(lambda: hold_nothing(router))


async def test_one_tenant_does_not_take_all(start_router, engines):
    """Three quarters of places and bytes at most, so that another one is served."""
    router = await start_router(
        api_keys={"alice": "a", "bob": "b"},
        max_open_requests=4,
        max_body_bytes=64 * KIB,
        max_body_bytes_in_flight=128 * KIB,
    )
    router.admit(engines[0].url)
    for padding, busy in ((0, 3), (40 * KIB, 2)):
        engines[0].script.extend([stay_silent] * busy)
        body = {**CHAT, "padding": "x" * padding}
        alice, bob = ({"headers": {"authorization": f"Bearer {key}"}} for key in "ab")
        waiting = [asyncio.create_task(status(router, body, **alice)) for _ in range(busy)]
        await eventually(lambda busy=busy: router.app.admission.open == busy)
        assert await status(router, body, **alice) == 429
        assert await status(router, body, **bob) == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await eventually(lambda: hold_nothing(router))
        await router.drained()


@pytest.mark.parametrize("data", [b"", GET, PATH, head(1000) + b"{"], ids=["new", "idle", "head", "body"])
async def test_many_connections_shut_nobody_out(start_router, engines, monkeypatch, data):
    """Beyond the limit a new connection takes the place of one that waits for its client."""
    monkeypatch.setattr("router.api.generate.max_connections", lambda: 8)
    router = await start_router(engines[0])
    engines[0].script.append(stay_silent)
    busy_reader, busy = await router.connect(ASK)
    await eventually(lambda: bool(engines[0].exchanges))
    others = []
    for _ in range(40):
        others.append(await router.connect(data))
        if data == GET:
            await others[-1][0].readuntil(b"\r\n\r\n")
    for _ in range(5):
        reader, writer = await router.connect(ASK)
        assert (await asyncio.wait_for(reader.readuntil(REPLY), 5)).startswith(b"HTTP/1.1 200")
        writer.close()
    assert len(router.server.server_state.connections) <= 9  # one that ends is among them
    assert not busy_reader.at_eof()
    for _, writer in (*others, (None, busy)):
        writer.close()
    await router.drained()
    await eventually(lambda: hold_nothing(router) and not router.server.server_state.connections)


async def test_no_room_for_one_more_connection(start_router, engines, monkeypatch):
    """Where all are being answered, a new one is told so, and may come again."""
    monkeypatch.setattr("router.api.generate.max_connections", lambda: 3)
    router = await start_router(api_keys={"a": "key"}, max_open_requests=100)
    router.app.admission.max_requests_of_one = 100
    router.admit(engines[0].url)
    engines[0].script.extend([never_end] * 3)
    data = ASK_STREAM.replace(b"host: x\r\n", b"host: x\r\nauthorization: Bearer key\r\n")
    busy = [await router.connect(data) for _ in range(3)]
    for reader, _ in busy:
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    reader, writer = await router.connect()
    got = await rest(reader)
    assert got.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1\r\n" in got
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
    writer.close()
    busy.pop()[1].close()
    await eventually(lambda: len(router.server.server_state.connections) == 2)
    reader, writer = await router.connect(GET)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    for _, each in busy:
        each.close()
    await router.drained()


async def test_client_that_reads_no_answer_is_cut_wherever_it_asks(start_router, engines):
    """Not only streams: what is written for it stays in memory, and its connection open."""
    router = await start_router(stalled_client_seconds=0.3)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", router.port))
        document = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
        await loop.sock_sendall(client, document * 200)
        await eventually(lambda: not router.server.server_state.connections, 10)


def assert_quiet(caplog):
    """No traceback, and no error."""
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


async def leave(writer):
    """Close politely."""
    writer.close()


async def reset(writer):
    """Be gone at once."""
    writer.transport.abort()


@pytest.mark.parametrize("go", [leave, reset])
@pytest.mark.parametrize(
    "data",
    [
        PATH,
        head(100) + b"{",
        CHUNKED + b"1\r\n{\r\n",
        ASK,
        ASK_STREAM,
        ASK_STREAM.replace(b"HTTP/1.1", b"HTTP/1.0"),
        ASK_STREAM + ASK,
        ASK_STREAM + head(100) + b"{",
        ASK_STREAM + PATH,
        GET.replace(b"\r\n\r\n", b"\r\ncontent-length: 50\r\n\r\n{"),
        head(100).replace(b"POST /v1/chat/completions", b"PUT /admin/policy").replace(b": x", b": localhost"),
    ],
    ids=range(11),
)
async def test_leaving_is_no_error_of_ours(hurried_router, engines, caplog, data, go):
    """A client that leaves, wherever it is, puts no traceback into the log."""
    engines[0].script.append(never_end if b'"stream"' in data else stay_silent)
    _, writer = await hurried_router.connect(data)
    await asyncio.sleep(0.05)
    await go(writer)
    await hurried_router.drained()
    await eventually(lambda: not hurried_router.server.server_state.tasks)
    assert_quiet(caplog)


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_leaving_is_no_error_whenever_it_happens(router, engines, caplog, body):
    """Many who are gone at once while their engine writes: writing to them fails before we are told."""

    async def flood(exchange):
        await exchange.head()
        while not exchange.gone.is_set():
            await exchange.raw(b"5\r\ndata:\r\n2\r\n\n\n\r\n" * 20)
            await asyncio.sleep(0)

    data = json.dumps(body).encode()
    for engine in engines:
        engine.script.extend([flood] * 30 if body == STREAM else [])

    async def impatient(number):
        _, writer = await router.connect(head(len(data)) + data)
        await asyncio.sleep(number * 0.002)
        writer.transport.abort()

    await asyncio.gather(*map(impatient, range(60)))
    await router.drained()
    await eventually(lambda: not router.server.server_state.tasks)
    assert_quiet(caplog)


async def pour(exchange):
    """A script: as much answer as is taken."""
    await exchange.head()
    while not exchange.gone.is_set():
        await exchange.chunk(b"data: " + b"x" * 60_000 + b"\n\n")


async def large(exchange):
    """A script: an answer that is more than sockets take."""
    await exchange.whole(b'{"x": "' + b"x" * 30_000_000 + b'"}')


@pytest.mark.parametrize(
    ("script", "data"),
    [(pour, ASK_STREAM), (pour, ASK_STREAM.replace(b"HTTP/1.1", b"HTTP/1.0")), (large, ASK)],
    ids=["stream", "old client", "whole"],
)
async def test_stalling_is_no_error_of_ours(hurried_router, engines, caplog, script, data):
    """Nor does one that reads nothing of its answer: it is given up without a traceback."""
    engines[0].script.append(script)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.connect(("127.0.0.1", hurried_router.port))
        client.sendall(data)
        await eventually(lambda: bool(engines[0].exchanges))
        await eventually(lambda: not hurried_router.server.server_state.tasks, 10)
    await hurried_router.drained()
    assert_quiet(caplog)
