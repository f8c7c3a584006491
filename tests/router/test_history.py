"""The last hour of one router."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol.wire import Keys
from cluster.store.store import connect
from router.history import buckets
from router.history.history import FinishedBucket, History
from router.history.history_store import HistoryStore
from router.history.latencies import NUM_COUNTS
from router.history.savings import Savings
from router.history.tallies import NUM_COLUMNS
from tests.router.conftest import NO_REDIS
from tests.router.finished_requests import NOON, Clock, finished


def new_history(clock):
    """A history that nobody shares."""
    return History(Savings(HistoryStore(connect(NO_REDIS), Keys("test"), "r")), clock)


@pytest.fixture
def clock():
    """The time, a full hour to begin with."""
    return Clock()


@pytest.fixture
def history(clock):
    """A history."""
    return new_history(clock)


def bucket_of(number, replicas=("a",), requests=1, ttfts=None, columns=NUM_COLUMNS, trends=b""):
    """A bucket of another router, encoded."""
    rows = [[requests] + [0] * (columns - 1) for _ in replicas]
    return msgspec.msgpack.encode(FinishedBucket(number, list(replicas), rows, ttfts or {}, trends))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 9, 10, 57, 300, 1700, 4000]), st.sampled_from("abc"), st.integers(0, 9)
        ),
        max_size=25,
    ),
    st.sampled_from([0, 3, 10, 290, 3590, 3600]),
)
def test_windows_are_those_of_a_plain_model(requests, at_last):
    """5 minutes, an hour and any other time hold exactly the requests of so many buckets, of each replica and
    of all; so do buckets one by one."""
    clock = Clock()
    history = new_history(clock)
    counted = []
    for pause, replica, prompt in requests:
        clock.now += pause
        history.add(finished(replica, prompt, 0), None, clock.now)
        counted.append((clock.now // 10, replica, prompt))
    clock.now += at_last
    for seconds in (60, 300, 3600):
        held = [(name, prompt) for at, name, prompt in counted if at > clock.now // 10 - seconds // 10]
        for replica in "abc":
            rates = history.rates(replica, seconds)
            own = [prompt for name, prompt in held if name == replica]
            assert (rates.requests, rates.prompt_tokens) == (len(own), sum(own))
        fleet = history.fleet_rates(seconds)
        assert (fleet.requests, fleet.prompt_tokens) == (len(held), sum(prompt for _, prompt in held))


def test_requests_without_a_replica_are_no_history(history, clock):
    """What was refused before a replica was chosen is not the replicas' doing."""
    history.add(finished(""), None, clock.now)
    assert history.fleet_rates(300).requests == 0


def test_warm_is_half_of_the_prompt(history, clock):
    """Streams that went well count: warm from half of the prompt on, by model and together."""
    for cached, ttft in ((50, 0.1), (49, 1.0), (None, 5.0)):
        history.add(finished(cached=cached), ttft, clock.now)
    history.add(finished(outcome="broken"), 7.0, clock.now)
    history.add(finished(stream=False), None, clock.now)
    history.add(finished(model="n"), 0.2, clock.now)
    for _ in range(2):  # in the bucket that is not over, and in one that is
        both = history.ttft("m")
        assert (both.warm.count, both.cold.count) == (1, 1)
        assert both.warm.p99 == pytest.approx(0.1, rel=0.011)
        assert both.cold.p50 == pytest.approx(1.0, rel=0.011)
        assert (history.ttft(None).warm.count, history.ttft(None).cold.count) == (2, 1)
        assert history.models() == ["m", "n"]
        clock.now += 10
    clock.now += 3600
    assert history.ttft(None).warm.count == 0
    assert history.models() == []


def test_completed_bucket_waits_for_the_others(history, clock):
    """Five seconds after its end, when the other routers have published theirs."""
    clock.now += 14
    assert history.completed() == NOON // 10 - 1
    clock.now += 1
    assert history.completed() == NOON // 10


def test_per_second_is_up_to_now(history, clock):
    """What this router counts shows at once, what others publish once their bucket is over; nothing twice."""
    clock.now += 60
    for _ in range(120):
        history.add(finished(), None, clock.now)
    assert history.per_second(60)[0] == pytest.approx(120 / 51)
    clock.now += 15
    history.merge(bucket_of(int(NOON // 10) + 6, requests=30), -1)
    requests, tokens = history.per_second(60)
    assert requests == pytest.approx(120 / 55 + 30 / 60)
    assert tokens == pytest.approx(120 * 100 / 55)
    clock.now += 60
    assert history.per_second(60) == (0.0, 0.0)


def test_another_routers_clock_may_differ(history, clock):
    """What is published of the future counts now; what is over an hour old does not count."""
    now = int(NOON // 10)
    history.merge(bucket_of(now + 50), -1)
    history.merge(bucket_of(now - 359), -1)
    history.merge(bucket_of(now - 360), -1)
    assert history.rates("a", 60).requests == 1
    assert history.rates("a", 3600).requests == 2
    clock.now += 3590
    assert history.rates("a", 3600).requests == 1


@pytest.mark.parametrize(
    "bucket",
    [
        b"",
        b"\x93",
        msgspec.msgpack.encode({"number": 1}),
        bucket_of(170_000_640, columns=NUM_COLUMNS - 1),
        bucket_of(170_000_640, requests=-1),
        bucket_of(170_000_640, requests=2**60),
        bucket_of(170_000_640, ttfts={"m": [1] * (NUM_COUNTS - 1)}),
        bucket_of(170_000_640, ttfts={"m": [2**40] * NUM_COUNTS}),
        bucket_of(170_000_640, trends=b"\x92"),
    ],
)
def test_what_another_version_tells_is_refused_whole(history, bucket):
    """Nothing of it counts."""
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's and ours say what is wrong in many ways
        history.merge(bucket, -1)
    assert history.fleet_rates(3600).requests == 0
    assert history.ttft(None).warm.count == 0


def test_replicas_that_left_are_forgotten_after_an_hour(history, clock):
    """Until then they are shown; then their room is free for others, and empty."""
    for number in range(buckets.MAX_REPLICAS):
        history.add(finished(f"old-{number}"), None, clock.now)
    clock.now += 3590
    assert history.rates("old-7", 3600).requests == 1
    clock.now += 60
    history.add(finished("new"), None, clock.now)
    clock.now += 15
    assert history.rates("old-7", 3600).requests == 0
    assert history.rates("new", 3600).requests == 1


def test_replicas_beyond_the_bound_count_for_the_fleet(history, clock):
    """Their requests are in the sums of all, and under no other replica's name."""
    number = int(clock.now // 10)
    history.merge(bucket_of(number, [f"r{number}" for number in range(buckets.MAX_REPLICAS + 3)]), -1)
    clock.now += 10
    assert history.fleet_rates(3600).requests == buckets.MAX_REPLICAS + 3
    clock.now += 5
    shown = [history.rates(f"r{number}", 3600).requests for number in range(buckets.MAX_REPLICAS + 3)]
    assert (shown.count(1), shown.count(0)) == (buckets.MAX_REPLICAS, 3)


def test_room_for_more_replicas_keeps_what_was_counted(history, clock):
    """The arrays grow while counts stay where they were."""
    for count in (1, 60, 200, 700):
        clock.now += 10
        for number in range(count):
            history.add(finished(f"r{number}"), None, clock.now)
    clock.now += 10
    assert history.rates("r0", 3600).requests == 4
    assert history.rates("r59", 300).requests == 3
    assert history.rates("r699", 60).requests == 1
    assert history.fleet_rates(3600).requests == 961
