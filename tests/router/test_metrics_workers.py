"""Metrics of several processes that are one router: any of them answers for all."""

import asyncio
import random
import time
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.fleet.fleet import Fleet
from cluster.process.tasks import cancel_and_wait
from cluster.protocol.wire import Lease, Load, ReplicaState
from router.history.record import RequestRecord
from router.history.tallies import Tallies
from router.http.sse import PromptTokensDetails, Usage
from router.observe.metrics import FORGET_SECONDS, SHOWN_SECONDS, Metrics
from router.observe.snapshots import SnapshotFiles
from tests.waiting import eventually

HEALTHY = SimpleNamespace(degradations=lambda: ())


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """Metrics of a worker, by its number; all share one folder."""
    monkeypatch.setattr(SnapshotFiles, "shared", None)  # so that it is put back

    def start(number, open_bookings=0):
        SnapshotFiles.shared = SnapshotFiles(tmp_path, number)
        return new_metrics(open_bookings)

    return start


def new_metrics(open_bookings=0):
    """Metrics of one process, and its tallies."""
    fleet, tallies = Fleet(), Tallies()
    fleet.open_bookings = open_bookings
    return Metrics(fleet, HEALTHY, tallies), tallies


def finish(worker, outcome="ok", replica="a", *, published=True):
    """Count one request of 100 tokens, 40 of them cached, as that worker's process would; ``published``: the
    others can see it."""
    metrics, tallies = worker
    record = RequestRecord(
        "id", "/v1/completions", model="m", replica=replica, reason="warm", outcome=outcome
    )
    record.usage = Usage(100, 1, PromptTokensDetails(40))
    record.expected_cached_tokens = 30
    metrics.observe(record, ttft=0.1)
    tallies.add(record)
    if published:
        metrics.refresh()


def shown(metrics, name, **labels):
    """The sum of a metric over all other labels."""
    metrics.refresh()
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def totals(metrics):
    """Requests, failures, and prompt, predicted and delivered tokens of each replica."""
    return {
        replica: (
            rates.requests,
            rates.failures,
            rates.prompt_tokens,
            rates.predicted_tokens,
            rates.delivered_tokens,
        )
        for replica, rates in metrics.replica_totals().items()
    }


def test_any_worker_shows_the_sum(worker):
    """Counters, histograms and the sums by replica are of all workers, and the same at each."""
    one, other = worker(1), worker(2)
    for which, replica, count in ((one, "a", 3), (other, "a", 2), (other, "b", 1)):
        for _ in range(count):
            finish(which, replica=replica)
    finish(other, "failed", "b")
    for metrics, _ in (one, other):
        assert shown(metrics, "warmroute_requests_total", outcome="ok") == 6
        assert shown(metrics, "warmroute_time_to_first_token_seconds_count") == 7
        assert shown(metrics, "warmroute_time_to_first_token_seconds_bucket", le="0.1") == 7
        assert totals(metrics) == {"a": (5, 0, 500, 150, 200), "b": (2, 1, 200, 60, 80)}


def test_counters_never_go_down(worker):
    """Whichever worker dies, and whichever takes its place: what was shown once is never taken back."""
    chance = random.Random(5)
    workers = {number: worker(number) for number in (1, 2, 3)}
    for step in range(30):
        number = chance.choice((1, 2, 3))
        if chance.random() < 0.3:
            workers[number] = worker(number)  # nothing of the one before was closed or handed over
        finish(workers[number])
        metrics, _ = workers[chance.choice((1, 2, 3))]
        assert shown(metrics, "warmroute_requests_total") == step + 1


def test_gauges_add_up_or_show_what_all_see(worker, tmp_path):
    """Bookings are the sum over workers, without those of a dead one. What all workers see counts once."""
    (one, _), (other, _) = worker(1, open_bookings=4), worker(2, open_bookings=4)
    assert shown(other, "warmroute_open_bookings") == 4, "the other one has not published yet"
    one.refresh()
    assert shown(other, "warmroute_open_bookings") == 8
    assert shown(other, "warmroute_redis_reachable") == 1
    SnapshotFiles(tmp_path, 1).drop_gauges()
    assert shown(other, "warmroute_open_bookings") == 4


async def test_counters_are_published_without_being_asked(worker, monkeypatch):
    """Each worker publishes what it has counted, while it runs and when it ends."""
    monkeypatch.setattr("router.observe.metrics.REFRESH_SECONDS", 0.001)
    one, (other, _) = worker(1), worker(2)
    task = asyncio.ensure_future(one[0].run())
    finish(one, published=False)
    await eventually(lambda: shown(other, "warmroute_requests_total") == 1)
    monkeypatch.setattr("router.observe.metrics.REFRESH_SECONDS", 60)
    await asyncio.sleep(0.01)
    finish(one, published=False)
    assert shown(other, "warmroute_requests_total") == 1
    await cancel_and_wait(task)
    assert shown(other, "warmroute_requests_total") == 2


def test_one_that_is_killed_takes_little_with_it(worker):
    """What it had not published is missing; nothing else, and its successor goes on from there."""
    one, other = worker(1), worker(2)
    finish(one)
    finish(one, published=False)
    finish(worker(1))
    assert shown(other[0], "warmroute_requests_total") == 2


async def test_gauges_are_published_without_being_asked(worker, monkeypatch):
    """Each worker keeps its gauges fresh for those that are asked."""
    monkeypatch.setattr("router.observe.metrics.REFRESH_SECONDS", 0.001)
    (one, _), (other, _) = worker(1, open_bookings=4), worker(2, open_bookings=4)
    task = asyncio.ensure_future(one.run())
    await eventually(lambda: shown(other, "warmroute_open_bookings") == 8)
    await cancel_and_wait(task)


def test_a_router_alone_keeps_its_numbers():
    """One process shows the same without any files."""
    metrics, tallies = new_metrics()
    finish((metrics, tallies), "broken")
    assert shown(metrics, "warmroute_requests_total", outcome="broken") == 1
    assert totals(metrics) == {"a": (1, 1, 100, 30, 40)}


@pytest.mark.parametrize("numbers", [(0,), (1, 2)], ids=["alone", "workers"])
def test_replicas_that_left_are_forgotten(worker, numbers, monkeypatch):
    """An hour after it has left nobody shows a replica, and a minute later nobody keeps it, also where a
    worker has started again meanwhile; so labels do not grow with every start of a replica."""
    now = time.monotonic()
    monkeypatch.setattr("router.observe.metrics.time", SimpleNamespace(monotonic=lambda: now))

    def start(number):
        metrics, tallies = worker(number) if number else new_metrics()
        lease = Lease(replica="here", url="http://x", state=ReplicaState.READY, model="m")
        metrics._fleet.admit(lease, 1, Load())
        return metrics, tallies

    def pass_time(seconds):
        nonlocal now
        now += seconds
        for metrics, _ in workers:
            metrics.forget_departed(now)
            metrics.refresh()

    workers = [start(number) for number in numbers]
    for each in workers:
        finish(each, replica="gone")
        finish(each, replica="here")
        each[1].finish()
    pass_time(0)
    pass_time(SHOWN_SECONDS / 2)
    if numbers[0]:
        workers[0] = start(numbers[0])
    pass_time(SHOWN_SECONDS / 2 - 1)
    for metrics, _ in workers:
        assert shown(metrics, "warmroute_replica_requests_total", replica="gone") == len(workers)
    pass_time(2)
    for metrics, _ in workers:
        assert shown(metrics, "warmroute_replica_requests_total", replica="gone") == 0
        assert shown(metrics, "warmroute_prompt_tokens_total", replica="here") == 100 * len(workers)
        assert shown(metrics, "warmroute_requests_total") == 2 * len(workers), "a request is not counted"
    pass_time(FORGET_SECONDS)
    for metrics, tallies in workers:
        assert tallies.replicas() == {"here"}
        assert totals(metrics).keys() == {"here"}
