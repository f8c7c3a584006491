"""Metrics of several processes that are one router: any of them answers for all."""

import asyncio
import random

import pytest
from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.parser import text_string_to_metric_families

from cluster.fleet.fleet import Fleet
from cluster.process.tasks import cancel_and_wait
from router.history.record import RequestRecord
from router.http.sse import PromptTokensDetails, Usage
from router.observe.metrics import FILES, Metrics, share_with_other_processes
from router.observe.replica_totals import ReplicaTotals
from tests.waiting import eventually


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """Metrics of a worker, by its number, and how its process keeps values; all share one folder."""
    monkeypatch.setenv(FILES, "")  # so that it is put back
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)

    def start(number, open_bookings=0):
        share_with_other_processes(tmp_path, number)
        fleet = Fleet()
        fleet.open_bookings = open_bookings
        return Metrics(fleet), values.ValueClass

    return start


def finish(worker, outcome="ok", replica="a", *, told=True):
    """Count one request of 100 tokens, 40 of them cached, as that worker's process would; ``told``: the
    others can see it."""
    metrics, values.ValueClass = worker
    record = RequestRecord(
        "id", "/v1/completions", model="m", replica=replica, reason="warm", outcome=outcome
    )
    record.usage = Usage(100, 1, PromptTokensDetails(40))
    record.expected_cached_tokens = 30
    metrics.observe(record, ttft=0.1)
    if told:
        metrics.fold()


def shown(metrics, name, **labels):
    """The sum of a metric over all other labels."""
    metrics.refresh()
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


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
        assert metrics.replica_totals() == {
            "a": ReplicaTotals(5, 0, 500, 150, 200),
            "b": ReplicaTotals(2, 1, 200, 60, 80),
        }


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
    assert shown(other, "warmroute_open_bookings") == 4, "the other one has not told yet"
    one.refresh()
    assert shown(other, "warmroute_open_bookings") == 8
    assert shown(other, "warmroute_redis_reachable") == 1
    mark_process_dead(1, str(tmp_path))
    assert shown(other, "warmroute_open_bookings") == 4


async def test_counters_are_told_without_being_asked(worker, monkeypatch):
    """Each worker tells the others what it has counted, while it runs and when it ends."""
    monkeypatch.setattr("router.observe.metrics.REFRESH_SECONDS", 0.001)
    one, (other, _) = worker(1), worker(2)
    task = asyncio.ensure_future(one[0].run())
    finish(one, told=False)
    await eventually(lambda: shown(other, "warmroute_requests_total") == 1)
    monkeypatch.setattr("router.observe.metrics.REFRESH_SECONDS", 60)
    await asyncio.sleep(0.01)
    finish(one, told=False)
    assert shown(other, "warmroute_requests_total") == 1
    await cancel_and_wait(task)
    assert shown(other, "warmroute_requests_total") == 2


def test_one_that_is_killed_takes_little_with_it(worker):
    """What it had not told is missing; nothing else, and its successor goes on from there."""
    one, other = worker(1), worker(2)
    finish(one)
    finish(one, told=False)
    finish(worker(1))
    assert shown(other[0], "warmroute_requests_total") == 2


async def test_gauges_are_told_without_being_asked(worker, monkeypatch):
    """Each worker keeps its gauges fresh for those that are asked."""
    monkeypatch.setattr("router.observe.metrics.REFRESH_SECONDS", 0.001)
    (one, _), (other, _) = worker(1, open_bookings=4), worker(2, open_bookings=4)
    task = asyncio.ensure_future(one.run())
    await eventually(lambda: shown(other, "warmroute_open_bookings") == 8)
    await cancel_and_wait(task)


def test_a_router_alone_keeps_its_numbers(monkeypatch):
    """One process shows the same without any files."""
    monkeypatch.delenv(FILES, raising=False)
    metrics = Metrics(Fleet())
    finish((metrics, values.ValueClass), "broken")
    assert shown(metrics, "warmroute_requests_total", outcome="broken") == 1
    assert metrics.replica_totals() == {"a": ReplicaTotals(1, 1, 100, 30, 40)}
