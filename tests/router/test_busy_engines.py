"""Engines that are busy, and those that report an error of their own: who is asked next, and whose words the
client gets.
"""

import asyncio
import json

import pytest

from tests.router.fake_engine import DONE, REPLY, stay_silent, stream, whole
from tests.router.test_requests import CHAT, STREAM, assert_error

QUEUE_FULL = {
    "error": {
        "message": "The engine is currently busy and cannot accept new requests. "
        "Please try again later or on a different instance.",
        "type": "Service Unavailable",
        "param": None,
        "code": 503,
    }
}
"""vLLM's words."""
TOO_MANY = {"error": {"message": "slow down", "type": "x", "code": 429}}
DIED = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}


def says(error, **headers):
    """A behaviour: this error, as a whole answer."""
    return whole(json.dumps(error).encode(), error["error"]["code"], **headers)


def streams(error):
    """A behaviour: this error as the first event of a stream, which is how vLLM refuses those."""
    return stream(b": keep-alive\n\n", b"data: " + json.dumps(error).encode() + b"\n\n", DONE)


async def failures(router):
    """Of replicas a and b, as operators see them."""
    return [replica["failures"] for replica in (await router.get("/admin/replicas"))[1]["replicas"]]


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    "busy",
    [
        says(QUEUE_FULL),
        says(TOO_MANY),
        whole(b"", 429),
        whole(b"The request queue is full.", 503),
        whole(b'{"error": "Model is overloaded"}', 503),
        whole(b"no capacity left", 503),
    ],
)
async def test_busy_engine_is_passed_over_and_not_blamed(router, engines, body, busy):
    """Another replica answers, and the busy one gets the next request as before."""
    engines[0].script.append(busy)
    async with router.post(body) as response:
        assert (response.status, response.headers["x-warmroute-replica"]) == (200, "b")
        await response.read()
    assert not any(replica.failed_until for replica in router.fleet.replicas.values())
    await router.drained()
    assert await failures(router) == [0, 0]


@pytest.mark.parametrize("error", [QUEUE_FULL, TOO_MANY])
async def test_busy_engine_may_say_so_at_the_beginning_of_a_stream(router, engines, error):
    """That is no beginning of an answer."""
    engines[0].script.append(streams(error))
    async with router.post(STREAM) as response:
        assert (response.status, response.headers["x-warmroute-replica"]) == (200, "b")
    assert not any(replica.failed_until for replica in router.fleet.replicas.values())
    await router.drained()


@pytest.mark.parametrize(
    "text", [b"", b"<h1>503 Service Temporarily Unavailable</h1>", b'{"error": "scaling"}']
)
async def test_other_503_leaves_the_replica_alone_for_a_moment(router, engines, text):
    """Nothing says that the engine lives."""
    engines[0].script.append(whole(text, 503))
    async with router.post(CHAT) as response:
        assert response.headers["x-warmroute-replica"] == "b"
    assert router.fleet.replicas["a"].failed_until > 0
    await router.drained()


@pytest.mark.parametrize(
    ("body", "behave", "status", "error"),
    [
        (CHAT, says(QUEUE_FULL, retry_after="7"), 503, QUEUE_FULL),
        (STREAM, says(TOO_MANY, retry_after="7"), 429, TOO_MANY),
        (CHAT, says(DIED, retry_after="7"), 500, DIED),
        (STREAM, says(DIED, retry_after="7"), 500, DIED),
    ],
)
async def test_last_engines_own_answer_reaches_the_client(router, engines, body, behave, status, error):
    """Status, body and when to try again, as the engine gave them."""
    for engine in engines:
        engine.script.append(behave)
    async with router.post(body) as response:
        assert (response.status, await response.json()) == (status, error)
        assert response.headers["retry-after"] == "7"
        assert response.headers["content-type"] == "application/json"
    assert [len(engine.exchanges) for engine in engines] == [1, 1]
    assert not any(replica.failed_until for replica in router.fleet.replicas.values())
    await router.drained()
    assert await failures(router) == [0, status == 500]  # that all are busy is no failure of any
    _, answer = await router.get("/admin/requests")
    assert answer["requests"][0]["outcome"] == ("failed" if status == 500 else "refused")


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_refusals_without_words_are_refusals(router, engines, body):
    """Not every server says why."""
    engines[0].script.append(whole(b"", 404))
    async with router.post(body) as response:
        assert (response.status, await response.read()) == (404, b"")
    assert [len(engine.exchanges) for engine in engines] == [1, 0]
    assert await failures(router) == [0, 0]


async def test_only_replica_is_busy(start_router, engines):
    """It is asked once, and the next request finds it as before."""
    router = await start_router(engines[0])
    engines[0].script.append(says(QUEUE_FULL))
    async with router.post(STREAM) as response:
        assert (response.status, await response.json()) == (503, QUEUE_FULL)
    async with router.post(STREAM) as response:
        assert (response.status, response.headers["x-warmroute-reason"]) == (200, "round-robin")
        await response.read()
    assert len(engines[0].exchanges) == 2
    await router.drained()


async def test_busy_ones_do_not_count_as_died(start_router, engines):
    """An error is repeated on one other replica, however many were busy before."""
    router = await start_router(*engines)
    router.admit(engines[1].url, "c")
    engines[0].script.append(says(QUEUE_FULL))
    engines[1].script.extend([says(DIED), says(DIED)])
    async with router.post(CHAT) as response:
        assert (response.status, await response.json()) == (500, DIED)
    assert [len(engine.exchanges) for engine in engines] == [1, 2]
    await router.drained()


@pytest.mark.parametrize(("error", "status"), [(QUEUE_FULL, 503), (TOO_MANY, 429), (DIED, 500)])
async def test_error_that_stands_in_a_stream_becomes_an_answers_status(router, engines, error, status):
    """While nothing of a stream has reached the client, it can still be told what HTTP can tell."""
    for engine in engines:
        engine.script.append(streams(error))
    async with router.post(STREAM) as response:
        assert (response.status, await response.json()) == (status, error)
        assert response.headers["retry-after"] == "1"
    await router.drained()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "rate_limit_error"), (500, "upstream_error"), (503, "service_unavailable")],
)
@pytest.mark.parametrize("text", [b"at capacity", b'{"error": "at capacity"}', b"[1, 2]", b'{"error": {}}'])
async def test_answer_in_another_format_is_quoted_in_the_apis(router, engines, status, kind, text):
    """Clients parse one format."""
    for engine in engines:
        engine.script.append(whole(text, status))
    async with router.post(CHAT) as response:
        assert response.status == status
        body = await response.json()
    assert_error(body, "upstream_failed", kind=kind)
    assert f"engine answered {status} {text.decode()}" in body["error"]["message"]
    await router.drained()


@pytest.mark.parametrize("rest", [b"y" * 200_000, b""])
async def test_error_of_any_length_is_an_error(router, engines, rest):
    """One that is too long to be kept, or breaks off, still counts for what its status says."""

    async def fail(exchange):
        head = b"HTTP/1.1 500 X\r\ncontent-length: 200001\r\n\r\nx"
        await exchange.raw(head + rest)
        exchange.writer.close()
        await exchange.gone.wait()

    for engine in engines:
        engine.script.append(fail)
    async with router.post(CHAT) as response:
        assert response.status == 500
        assert "engine answered 500 x" in (await response.json())["error"]["message"]
    await router.drained()


async def test_whole_answer_has_a_limit_of_its_own(start_router, engines):
    """A generation takes longer than a first byte; it is computed once."""
    router = await start_router(*engines, first_byte_seconds=0.1, idle_seconds=0.1, answer_seconds=5.0)

    async def think(exchange):
        await asyncio.sleep(0.5)
        await exchange.whole(REPLY)

    engines[0].script.append(think)
    async with router.post(CHAT) as response:
        assert (response.status, await response.read()) == (200, REPLY)
    assert [len(engine.exchanges) for engine in engines] == [1, 0]
    await router.drained()


async def drip(exchange):
    """Send a whole answer so slowly that it has no end."""
    await exchange.head(content_type="application/json")
    while not exchange.gone.is_set():
        await exchange.chunk(b" ")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("behave", [stay_silent, drip])
@pytest.mark.parametrize("health", [whole(b""), stay_silent])
async def test_answer_beyond_its_limit_is_not_computed_again(start_router, engines, behave, health):
    """Whatever a busy engine says of its health: it has worked on it all this time."""
    router = await start_router(*engines, answer_seconds=0.4)
    for engine in engines:
        engine.otherwise, engine.health = behave, health
    async with router.post(CHAT) as response:
        assert response.status == 504
        body = await response.json()
    assert_error(body, "upstream_timeout", kind="upstream_error")
    assert "no answer within 0.4 s (WARMROUTE_ANSWER_SECONDS)" in body["error"]["message"]
    assert sum(len(engine.exchanges) for engine in engines) == 1
    assert not any(replica.failed_until for replica in router.fleet.replicas.values())
    await router.drained()


async def test_engine_that_dies_at_work_is_replaced(start_router, engines):
    """Within the limit a death is no answer."""
    router = await start_router(*engines, answer_seconds=5.0)

    async def work_and_die(exchange):
        await asyncio.sleep(0.1)
        exchange.abort()

    engines[0].script.append(work_and_die)
    async with router.post(CHAT) as response:
        assert (response.status, response.headers["x-warmroute-replica"]) == (200, "b")
    await router.drained()
