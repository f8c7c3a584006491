"""Engines that fail before and after the first byte of an answer: who is asked next, what the client gets."""

import asyncio
import json

import pytest

from router.upstream import client as upstream
from router.upstream import reply as upstream_reply
from tests.router.fake_engine import (
    DONE,
    REPLY,
    FakeEngine,
    die_after_headers,
    die_before_headers,
    die_in_a_whole_reply,
    event,
    stay_silent,
    stream,
    whole,
)
from tests.router.test_requests import (
    CHAT,
    ERROR_500,
    STREAM,
    assert_error,
    die_mid_stream,
    in_pieces,
    silent_mid_stream,
)


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    "failure",
    [
        die_before_headers,
        die_after_headers,
        die_in_a_whole_reply,
        whole(b'{"error": "no"}', 500),
        whole(b"", 503),
        whole(b"", 200),
    ],
    ids=["dies", "dies after headers", "dies in its first bytes", "500", "503", "empty"],
)
async def test_failed_attempt_is_repeated_elsewhere(router, engines, body, failure):
    """As long as nothing has reached the client, the next replica answers and nobody notices."""
    engines[0].script.append(failure)
    async with router.post(body) as response:
        assert response.status == 200
        data = await response.read()
        assert data == (REPLY if body is CHAT else event("he") + event("llo") + DONE)
        assert response.headers["x-warmroute-replica"] == "b"
        assert response.headers["x-warmroute-reason"] == "retry"
    assert [len(engine.exchanges) for engine in engines] == [1, 1]
    assert engines[0].exchanges[0].body == engines[1].exchanges[0].body
    await router.drained()


@pytest.mark.parametrize(
    "pieces",
    [[ERROR_500], [ERROR_500[:9], ERROR_500[9:30], ERROR_500[30:]], [ERROR_500[:-1], b"\n"]],
    ids=["whole", "cut", "cut in its end"],
)
async def test_error_as_first_event_is_repeated_elsewhere(router, engines, pieces):
    """A stream that begins with the engine's own failure has not begun, however its bytes were cut."""
    engines[0].script.append(in_pieces(*pieces, DONE))
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + event("llo") + DONE
        assert response.headers["x-warmroute-replica"] == "b"
    await router.drained()


async def test_stream_that_dies_within_its_first_event_is_repeated(router, engines):
    """Half an event is nothing that a client could use."""

    async def half(exchange):
        await exchange.head()
        await exchange.chunk(event("he")[:15])
        await asyncio.sleep(0.01)
        exchange.abort()

    engines[0].script.append(half)
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + event("llo") + DONE
    await router.drained()


async def test_engine_that_is_not_there_is_left_alone_for_a_moment(router, engines):
    """After a refused connection the next requests do not try it again, until its time is over."""
    await engines[0].stop()
    for _ in range(4):
        async with router.post(CHAT) as response:
            assert (response.status, response.headers["x-warmroute-replica"]) == (200, "b")
    assert router.fleet.replicas["a"].failed_until > 0
    await router.drained()


async def test_all_attempts_failed(router, engines):
    """The client gets the last engine's answer; an engine that said no is not asked again."""
    for engine in engines:
        engine.script.extend([whole(b"out of order", 500)] * 3)
    async with router.post(CHAT) as response:
        assert response.status == 500
        assert response.headers["retry-after"] == "1"
        body = await response.json()
    assert_error(body, "upstream_failed", kind="upstream_error")
    assert "out of order" in body["error"]["message"]
    assert [len(engine.exchanges) for engine in engines] == [1, 1]
    await router.drained()


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_only_replica_is_tried_again(start_router, engines, body):
    """Where there is nobody else, one that failed is better than none, for this request and the next."""
    router = await start_router(engines[0], failed_replica_seconds=60)
    engines[0].script.append(die_before_headers)
    for reason in ("retry", "round-robin"):
        async with router.post(body) as response:
            assert (response.status, response.headers["x-warmroute-reason"]) == (200, reason)
            await response.read()
    assert len(engines[0].exchanges) == 3
    await router.drained()


async def test_answer_too_slow(start_router, engines):
    """Nothing hangs: silence becomes 504."""
    router = await start_router(engines[0], first_byte_seconds=0.5)
    engines[0].script.append(stay_silent)
    async with router.post(STREAM) as response:
        assert response.status == 504
        assert_error(await response.json(), "upstream_timeout", kind="upstream_error")
    await asyncio.wait_for(engines[0].exchanges[0].gone.wait(), 2)
    await router.drained()


async def test_number_of_attempts_is_bounded(start_router, engines):
    """One attempt allowed is one attempt made."""
    router = await start_router(*engines, max_attempts=1)
    for engine in engines:
        engine.script.append(whole(b"no", 500))
    async with router.post(CHAT) as response:
        assert response.status == 500
    assert sum(len(engine.exchanges) for engine in engines) == 1
    await router.drained()


@pytest.mark.parametrize(
    ("failure", "passed"),
    [
        (die_mid_stream, event("he")),
        (silent_mid_stream, event("he")),
        (stream(event("he"), event("llo")), event("he") + event("llo")),
    ],
    ids=["dies", "silent", "ends early"],
)
async def test_stream_that_breaks_ends_with_an_error_event(router, engines, failure, passed):
    """What came is passed on, then an error in the API's format and the usual end; nothing is repeated."""
    engines[0].script.append(failure)
    async with router.post(STREAM) as response:
        data = await response.read()
    assert data.startswith(passed)
    assert data.endswith(b"\n\n" + DONE)
    error = data.removeprefix(passed).removesuffix(DONE)
    assert_error(json.loads(error.removeprefix(b"data: ")), "upstream_failed", kind="upstream_error")
    assert not engines[1].exchanges
    await router.drained()
    assert (await router.get("/admin/replicas"))[1]["replicas"][0]["failures"] == 1


async def test_engines_own_error_event_mid_stream_passes(router, engines):
    """The engine's words reach the client, and the request counts as failed."""
    engines[0].script.append(stream(event("he"), ERROR_500, DONE))
    async with router.post(STREAM) as response:
        assert await response.read() == event("he") + ERROR_500 + DONE
    await router.drained()
    assert (await router.get("/admin/replicas"))[1]["replicas"][0]["failures"] == 1


async def half_a_reply(exchange):
    """Begin a whole reply, and say nothing more."""
    await exchange.raw(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
    await exchange.gone.wait()


async def not_http(exchange):
    """Say something else."""
    await exchange.raw(b"SSH-2.0-OpenSSH\r\n")


LARGE = b"x" * 5000


@pytest.fixture
async def three(start_router, engines, monkeypatch):
    """A router with three replicas, asked in the order of their engines, and these engines."""
    monkeypatch.setattr(upstream, "HEALTH_SECONDS", 0.05)
    monkeypatch.setattr(upstream, "ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(upstream_reply, "MAX_REPLY_BYTES", 4096)
    third = FakeEngine()
    await third.start()
    all_three = [*engines, third]
    router = await start_router(*all_three, first_byte_seconds=0.2, answer_seconds=0.3, idle_seconds=0.15)
    await router.settled()
    yield router, all_three
    await third.stop()


@pytest.mark.parametrize(
    ("failure", "alive", "body", "seen", "status"),
    [
        # Who has not worked on it, or hangs with everything, says nothing about the request.
        (whole(b"busy", 429), True, CHAT, 3, 429),
        (whole(b"busy", 503), True, STREAM, 3, 503),
        (whole(b"starting", 503), True, CHAT, 3, 503),
        (stay_silent, False, STREAM, 3, 504),
        (half_a_reply, False, CHAT, 3, 504),
        # What an engine may have died of is not done to all of them.
        (die_before_headers, True, CHAT, 2, 502),
        (die_before_headers, True, STREAM, 2, 502),
        (die_after_headers, True, STREAM, 2, 502),
        (die_in_a_whole_reply, True, CHAT, 2, 502),
        (not_http, True, CHAT, 2, 502),
        (whole(b"out of order", 500), True, CHAT, 2, 500),
        (whole(b"nobody there", 502), True, CHAT, 2, 502),
        (whole(b"", 200), True, CHAT, 2, 502),
        (in_pieces(ERROR_500, DONE), True, STREAM, 2, 500),
        # What fails for a reason of its own would do so everywhere.
        (stay_silent, True, CHAT, 1, 504),
        (stay_silent, False, CHAT, 1, 504),
        (stay_silent, True, STREAM, 1, 504),
        (half_a_reply, True, CHAT, 1, 504),
        (whole(b"waited", 504), False, CHAT, 1, 504),
        (in_pieces(LARGE[:3000], LARGE[3000:]), True, CHAT, 1, 502),
        (whole(b"no", 400), True, CHAT, 1, 400),
    ],
)
async def test_failure_decides_how_many_replicas_get_the_request(three, failure, alive, body, seen, status):
    """However many replicas there are; the client is told at once, and nothing is held against an engine that
    lives.
    """
    router, engines = three
    for engine in engines:
        engine.script.extend([failure] * 3)
        engine.health = whole(b"") if alive else stay_silent
    async with router.post(body) as response:
        assert response.status == status
        assert ("retry-after" in response.headers) is (seen > 1)
        assert json.loads(await response.read())["error"]["message"] if status >= 500 else True
    assert sorted(len(engine.exchanges) for engine in engines) == [0] * (3 - seen) + [1] * seen
    if seen == 1:
        assert not any(replica.failed_until for replica in router.fleet.replicas.values())
    await router.drained()


async def test_engines_that_cannot_be_reached_never_had_the_request(three):
    """Refused connections do not count: the request is still tried wherever it may be."""
    router, engines = three
    for engine in engines[:2]:
        await engine.stop()
    async with router.post(CHAT) as response:
        assert (response.status, response.headers["x-warmroute-replica"]) == (200, "c")
    await router.drained()


async def test_request_that_kills_engines_over_used_connections(three):
    """A used connection that dies and an engine that is gone then count as death, too."""
    router, engines = three
    for _ in engines:
        async with router.post({**CHAT, "max_tokens": 1}) as response:
            assert response.status == 200

    def die_for_good(engine):
        async def behave(exchange):
            engine._server.close()
            exchange.abort()

        return behave

    for engine in engines:
        engine.script.append(die_for_good(engine))
    async with router.post(CHAT) as response:
        assert response.status == 502
    assert [len(engine.exchanges) for engine in engines] == [2, 2, 1]
    await router.drained()


async def test_used_connection_that_dies_before_a_silent_one_is_silence(three):
    """What the first connection did is not said of the second one."""
    router, engines = three
    for _ in engines:
        async with router.post({**CHAT, "max_tokens": 1}) as response:
            assert response.status == 200
    engines[0].script.extend([die_before_headers, stay_silent])
    async with router.post(CHAT) as response:
        assert response.status == 504
        assert (
            "no answer within 0.3 s (WARMROUTE_ANSWER_SECONDS)" in (await response.json())["error"]["message"]
        )
    await router.drained()
