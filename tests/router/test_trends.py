"""What became of requests over time: sums by label, in memory and in Redis."""

import uuid

import pytest

from cluster.protocol.wire import Keys
from cluster.store.store import connect
from router.explain.misses import Reason
from router.history import trends
from router.history.history_store import HistoryStore
from router.history.tallies import FIRST_BIN, NO_LABELS, count_request
from router.history.trends import MAX_BYTES, Trends
from tests.router.finished_requests import NOON, finished

FIRST = int(NOON // 10)


async def read(source, store, step, numbers):
    """Everything there is, by number."""
    return {number: sums async for number, sums in source.read(store, step, numbers)}


async def test_each_request_counts_under_its_labels():
    """By status, with its tokens, misses and time to the first token."""
    source = Trends()
    count_request(source.current, finished(tenant="t", status=200, misses={Reason.COLD: 36}), 23)
    count_request(source.current, finished("", model="", usage=None, status=429), None)
    count_request(source.current, finished(status=200, outcome="cancelled", usage=None), None)
    count_request(source.current, finished(status=200, outcome="broken", cached=None, misses=None), None)
    source.count(FIRST, source.finish())
    assert source.finish() == b""
    [sums] = (await read(source, None, 10, range(FIRST, FIRST + 9))).values()
    assert sums == {
        ("m", "t", "a", ""): {200: 1, 1: 100, 2: 80, 3: 70, 4: 64, 5: 5, 10: 36, FIRST_BIN + 4: 1},
        NO_LABELS: {429: 1},
        ("m", "", "a", ""): {499: 1, 599: 1, 5: 5},
    }


async def test_steps_of_all_routers_add_up_and_are_forgotten_after_an_hour():
    """Two that finished the same step, and one an hour later."""
    source = Trends()
    for number in (FIRST, FIRST, FIRST + 400):
        count_request(source.current, finished(status=200), None)
        source.count(number, source.finish())
    found = await read(source, None, 10, range(FIRST, FIRST + 500))
    assert {number: sums["m", "", "a", ""][200] for number, sums in found.items()} == {FIRST + 400: 1}


@pytest.mark.parametrize("labels", [2, 100, 3000])
def test_a_step_has_a_bound_and_loses_no_request(labels):
    """Where labels are too many, the smallest count together without labels; the largest keep theirs."""
    source = Trends()
    for number in range(labels):
        count_request(source.current, finished(f"replica-{number:05}", prompt=100 + number, status=200), 40)
    encoded = source.finish()
    assert len(encoded) <= MAX_BYTES[10]
    sums = dict(trends._decoder.decode(encoded))
    assert sum(counts[200] for counts in sums.values()) == labels
    assert ("m", "", f"replica-{labels - 1:05}", "") in sums
    assert (NO_LABELS in sums) == (labels == 3000)


async def test_periods_of_another_version_are_left_out():
    """What cannot be read costs its period, and nothing else."""

    class Store:
        async def periods(self, step, numbers):
            yield numbers[0], b"\xc1"
            yield numbers[1], trends._encode({NO_LABELS: {200: 3}}, 300)

    assert await read(Trends(), Store(), 300, range(7, 9)) == {7: {}, 8: {NO_LABELS: {200: 3}}}


@pytest.mark.integration
async def test_what_is_over_is_kept_in_redis_once(shared_redis):
    """Five minutes of steps become a period, twelve periods an hour; another router adds nothing to it, and
    one that starts can read it."""
    redis = connect(shared_redis.url)
    store = HistoryStore(redis, Keys(f"test-{uuid.uuid4().hex}"), "r")
    routers = [Trends(), Trends()]
    for number in range(FIRST, FIRST + 360):
        count_request(routers[0].current, finished(status=200), 40)
        encoded = routers[0].finish()
        for router in routers:
            router.count(number, encoded)
        if number % 30 == 29:
            for router in routers:
                await router.compact(store, (number + 1) * 10 + 21)
    late = Trends()
    for step, per_period in ((300, 30), (3600, 360)):
        first = int(NOON // step)
        found = await read(late, store, step, range(first, first + 3600 // step))
        assert len(found) == 3600 // step
        assert {sums["m", "", "a", ""][200] for sums in found.values()} == {per_period}
    assert await read(late, store, 300, range(5)) == {}
    await redis.aclose()


@pytest.mark.integration
async def test_old_periods_are_dropped(shared_redis):
    """So many of each length stay."""
    redis = connect(shared_redis.url)
    keys = Keys(f"test-{uuid.uuid4().hex}")
    store = HistoryStore(redis, keys, "r")
    for number in range(100, 120):
        await store.add_period(300, number, 7, b"x")
        await store.add_period(300, number, 7, b"later")
    assert [entry async for entry in store.periods(300, range(90, 130))] == [
        (number, b"x") for number in range(113, 120)
    ]
    assert 0 < await redis.ttl(f"{keys.prefix}:trends:300") <= 8 * 24 * 3600
    await redis.aclose()
