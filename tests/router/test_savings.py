"""Hourly sums of what caches saved: nothing is lost and nothing counts twice, whatever becomes of a write."""

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import StoreUnavailableError
from cluster.fleet.replicas import STEP_TOKENS, Pace
from cluster.protocol.wire import Keys
from router.history import savings as savings_module
from router.history.history_store import MAX_ADDED, HistoryStore
from router.history.savings import HELD_HOURS, Savings
from router.history.tallies import Tally
from tests.router.finished_requests import NOON, finished


class Writes(HistoryStore):
    """A store whose writes go as planned: "ok", "lost" before they arrive, or "unknown": done, but nobody
    hears of it."""

    def __init__(self, redis, router_id, plan=()):
        super().__init__(redis, Keys("test"), router_id)
        self.redis = redis  # whoever uses its commands holds the client
        self.plan = list(plan)

    async def add_savings(self, hour, sequence, expected, sums):
        """One write."""
        outcome = self.plan.pop(0) if self.plan else "ok"
        if outcome == "lost":
            raise StoreUnavailableError("cut off")
        answer = await super().add_savings(hour, sequence, expected, sums)
        if outcome == "unknown":
            raise StoreUnavailableError("timeout")
        return answer


@pytest.fixture
def server():
    """A Redis in this process; `connected` is whether it answers."""
    return fakeredis.FakeServer(version=(7,))


@pytest.fixture
def start(server):
    """Makes the savings of one more router."""
    return lambda router_id="r", plan=(): new_savings(server, router_id, plan)


def new_savings(server, router_id, plan):
    """Savings whose writes go as planned."""
    return Savings(Writes(fakeredis.FakeAsyncRedis(server=server), router_id, plan))


def save(savings, at=NOON, replica="a", model="m", requests=1):
    """Count requests, each of 100 tokens with 64 from the cache at a millisecond each."""
    tally = Tally()
    for _ in range(requests):
        tally.add(finished(replica))
    savings.add(at, replica, model, tally.row())


async def published(savings):
    """Publish, and return whether it went well."""
    try:
        await savings.publish()
    except StoreUnavailableError:
        return False
    return True


async def requests_of(savings, hours=1, now=NOON):
    """Requests of each replica in each of the last hours."""
    return [{row.replica: row.requests for row in rows} for rows in await savings.report(hours, now)]


async def test_routers_add_up(start):
    """Any router answers for all, by hour, replica and model, also with what it has not published."""
    one, other = start("one"), start("other")
    save(one)
    save(one, replica="b", model="n")
    save(other, requests=2)
    save(other, at=NOON - 3600)
    await one.publish()
    await other.publish()
    save(one, requests=5)
    [before], rows = await one.report(2, NOON + 1800)
    assert (before.hour, before.replica, before.model, before.requests) == (NOON - 3600, "a", "m", 1)
    assert [(row.replica, row.model, row.requests) for row in rows] == [("a", "m", 8), ("b", "n", 1)]
    assert (rows[0].hour, rows[0].prompt_tokens, rows[0].saved_tokens) == (NOON, 800, 512)
    assert rows[0].saved_seconds == pytest.approx(0.512)
    assert await requests_of(other) == [{"a": 3, "b": 1}]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.sampled_from(["ok", "lost", "unknown"])),
        max_size=14,
    )
)
async def test_nothing_is_lost_or_doubled(steps):
    """After any mix of writes that arrive, that do not, and whose outcome is unknown, the router's own answer
    is right at every moment, and Redis is once a write goes well."""
    server = fakeredis.FakeServer(version=(7,))
    savings, reader = new_savings(server, "r", []), new_savings(server, "reader", [])
    counted = {}
    for requests, replica, outcome in steps:
        if requests:
            save(savings, replica=replica, requests=requests)
            counted[replica] = counted.get(replica, 0) + requests
        savings._store.plan = [outcome]
        await published(savings)
        assert await requests_of(savings) == [counted]
    savings._store.plan = []
    assert await published(savings)
    assert await requests_of(reader) == [counted]


async def test_without_redis_own_numbers_are_shown_and_told_later(start, server):
    """An outage loses nothing; the report asks Redis once, not for every hour."""
    savings, reader = start(), start("reader")
    server.connected = False
    save(savings)
    save(savings, at=NOON - 3600, requests=2)
    assert not await published(savings)
    assert await requests_of(savings, hours=3) == [{}, {"a": 2}, {"a": 1}]
    server.connected = True
    assert await published(savings)
    assert await requests_of(reader, hours=2) == [{"a": 2}, {"a": 1}]


async def test_redis_that_lost_everything_gets_it_again(start, server):
    """All that this router counted in hours it still holds."""
    savings, reader = start(), start("reader")
    save(savings, requests=3)
    await savings.publish()
    await fakeredis.FakeAsyncRedis(server=server).flushall()
    assert await requests_of(savings) == [{"a": 3}]
    save(savings)
    await savings.publish()
    assert await requests_of(reader) == [{"a": 4}]
    assert await requests_of(savings) == [{"a": 4}]


async def test_late_repetition_does_nothing(start):
    """A write that hung somewhere, and arrives when later ones have been made, is not counted."""
    savings = start()
    for requests in (1, 2):
        save(savings, requests=requests)
        await savings.publish()
    hour = int(NOON // 3600)
    assert await savings._store.add_savings(hour, 1, 0, {("a", "m"): (1, 100, 64, 64_000)}) == 2
    assert await requests_of(savings) == [{"a": 3}]


async def test_many_replicas_are_told_in_parts(start):
    """No single call holds Redis up; every part arrives."""
    savings, reader = start(plan=["ok", "lost"]), start("reader")
    for number in range(MAX_ADDED + 3):
        save(savings, replica=f"r{number}")
    assert not await published(savings)
    assert len((await requests_of(reader))[0]) == MAX_ADDED
    assert await published(savings)
    assert len((await requests_of(reader))[0]) == MAX_ADDED + 3


async def test_bounds(start, monkeypatch):
    """A day of hours is held, and so many pairs in each; those beyond count without a name."""
    monkeypatch.setattr(savings_module, "MAX_PAIRS", 2)
    savings = start()
    for name in "abcd":
        save(savings, replica=name)
    assert await requests_of(savings) == [{"": 2, "a": 1, "b": 1}]
    for hour in range(1, HELD_HOURS + 1):
        save(savings, at=NOON + 3600 * hour)
    assert len(savings._hours) == HELD_HOURS
    assert await requests_of(savings) == [{}]


def test_pace_is_seconds_of_work():
    """What is not measured saves nothing; after that a replica's own pace counts."""
    pace = Pace()
    assert pace.seconds_per_token == 0.0
    pace.observe(queued_tokens=1000 - int(STEP_TOKENS), running=0, seconds=0.5, now=0.0)
    assert pace.seconds_per_token == pytest.approx(0.5 / 1000)


async def test_sums_end_after_eight_days(start):
    """Redis forgets them by itself."""
    savings = start()
    save(savings)
    await savings.publish()
    seconds = await savings._store.redis.ttl(f"test:savings:{int(NOON // 3600)}")
    assert 8 * 86400 - 5 < seconds <= 8 * 86400
