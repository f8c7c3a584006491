"""What is remembered of finished requests."""

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Keys, Lease, Load, ReplicaState
from cluster.store.store import connect
from policies.catalog import POLICIES
from router.explain.conversations import Conversations
from router.explain.explainer import Explainer
from router.history.history import History
from router.history.history_store import HistoryStore
from router.history.record import RequestRecord
from router.history.savings import Savings
from router.http.sse import PromptTokensDetails, Usage
from router.observe.accounting import Accounts
from router.observe.explanations import Explanations
from router.observe.metrics import Metrics
from router.steer.arm_totals import ArmColumn, ArmTotals
from router.steer.experiment import Assignment

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def fleet():
    """A fleet with one ready replica and one that drains."""
    fleet = Fleet()
    for name, state in (("a", ReplicaState.READY), ("b", ReplicaState.DRAINING)):
        fleet.admit(Lease(replica=name, url="http://x", state=state, model="m"), 1, Load())
    return fleet


@pytest.fixture
def history():
    """A history that nobody shares."""
    return History(Savings(HistoryStore(connect(NO_REDIS), Keys("test"), "router")))


@pytest.fixture
def metrics(fleet, history):
    """Metrics over that fleet."""
    return Metrics(fleet, SimpleNamespace(degradations=lambda: ()), history.tallies)


@pytest.fixture
def accounts(fleet, metrics, history):
    """Accounts that feed them."""
    redis, keys = connect(NO_REDIS), Keys("test")
    return Accounts(Explainer(fleet, Conversations()), metrics, Explanations(redis, keys, "router"), history)


def record(replica="a", outcome="ok", **changes):
    """A finished request."""
    values = {"model": "m", "reason": "warm", "attempts": 1, "expected_cached_tokens": 32}
    usage = Usage(100, 5, PromptTokensDetails(48))
    return RequestRecord(
        request_id="x", path="/", replica=replica, outcome=outcome, **{**values, "usage": usage, **changes}
    )


def samples(metrics):
    """Every sample of the exposition by its name with labels."""
    metrics.refresh()
    lines = metrics.exposition().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def test_sums_per_replica(accounts, metrics):
    """Predicted and delivered tokens, requests and failures add up."""
    for each in (record(), record(outcome="broken"), record(outcome="cancelled", usage=None)):
        accounts.finish(each)
    metrics.refresh()
    totals = metrics.replica_totals()["a"]
    assert (totals.requests, totals.failures) == (3, 1)
    assert (totals.prompt_tokens, totals.predicted_tokens, totals.delivered_tokens) == (200, 64, 96)
    assert totals.delivered == pytest.approx(0.48)


def test_engine_that_does_not_say_what_was_cached(accounts, metrics):
    """Its hit rate is unknown, and not zero."""
    accounts.finish(record(usage=Usage(100, 5, None)))
    metrics.refresh()
    totals = metrics.replica_totals()["a"]
    assert (totals.requests, totals.prompt_tokens, totals.delivered) == (1, 0, None)


def test_request_that_reached_no_replica_counts_for_none(accounts, metrics):
    """A refused request has an outcome and no replica."""
    accounts.finish(record(replica="", outcome="refused", usage=None))
    name = 'warmroute_requests_total{arm="",model="m",outcome="refused",path="/",policy=""}'
    assert samples(metrics)[name] == 1
    assert metrics.replica_totals() == {}


def test_metrics_say_what_records_say(accounts, metrics):
    """Counters by replica, retries, and times."""
    assignment = Assignment("warm", POLICIES["warm"], "control")
    first = record(attempts=3, decision_seconds=0.0002, held_seconds=0.1, assignment=assignment, stream=True)
    first.first_byte = first.started + 0.2
    accounts.finish(first)
    found = samples(metrics)
    assert found['warmroute_requests_total{arm="control",model="m",outcome="ok",path="/",policy="warm"}'] == 1
    assert found['warmroute_replica_requests_total{reason="warm",replica="a"}'] == 1
    by_replica = '{arm="control",policy="warm",replica="a"}'
    assert found["warmroute_prompt_tokens_total" + by_replica] == 100
    assert found["warmroute_predicted_cached_tokens_total" + by_replica] == 32
    assert found["warmroute_delivered_cached_tokens_total" + by_replica] == 48
    assert found["warmroute_retries_total"] == 2
    ttft = 'warmroute_time_to_first_token_seconds_sum{arm="control",model="m",policy="warm"}'
    assert found[ttft] == pytest.approx(0.2)
    assert found["warmroute_decision_seconds_count"] == 1
    held = 'warmroute_held_seconds_sum{arm="control",model="m",policy="warm"}'
    assert found[held] == pytest.approx(0.1)


def test_answer_that_is_not_streamed_has_no_first_token(accounts, metrics):
    """Its duration is no time to a first token, in metrics or anywhere else."""
    whole = record(stream=False)
    whole.first_byte = whole.started + 9
    accounts.finish(whole)
    assert not any(value and "time_to_first_token" in name for name, value in samples(metrics).items())


def test_experiment_counts_what_records_say(accounts):
    """Tokens where the engine said them, failures, and the time to the first token of streams alone."""
    totals = ArmTotals()
    taking_part = {"assignment": Assignment("warm", POLICIES["warm"], "control", totals, 5)}
    streamed, whole = record(stream=True, **taking_part), record(**taking_part)
    for each in (streamed, whole):
        each.first_byte = each.started + 0.2
    broken = record(outcome="broken", usage=None, **taking_part)
    cancelled = record(outcome="cancelled", usage=None, **taking_part)
    for each in (streamed, whole, broken, cancelled, record()):
        accounts.finish(each)
    assert totals.sums[5].tolist() == pytest.approx([4, 1, 1, 200, 64, 96, 1, 0.2])
    assert totals.total(ArmColumn.REQUESTS) == 4, "something was counted in another group"


def test_log_names_policy_and_arm(accounts):
    """A request that never came to a decision has neither."""
    with capture_logs() as logs:
        accounts.finish(record(assignment=Assignment("warm", POLICIES["warm"], "control")))
        accounts.finish(record(replica="", outcome="refused", usage=None))
    assert [(line["policy"], line["arm"]) for line in logs] == [("warm", "control"), (None, None)]


def test_log_says_how_long_a_request_waited(accounts):
    """In milliseconds, and 0 for one that did not."""
    with capture_logs() as logs:
        accounts.finish(record(held_seconds=0.25))
        accounts.finish(record())
    assert [line["held_ms"] for line in logs] == [250.0, 0.0]


def test_gauges_read_the_fleet(fleet, metrics):
    """Bookings, blocks, readiness and Redis are read when they are asked for."""
    fleet.book(fleet.replicas["a"], (), 1)
    fleet.apply(fleet.replicas["a"], [1, 2], (), cleared=False)
    fleet.store_reachable = False
    fleet.waiting_requests = 3
    found = samples(metrics)
    assert (found["warmroute_open_bookings"], found["warmroute_waiting_requests"]) == (1, 3)
    assert found["warmroute_index_blocks"] == 2
    assert found["warmroute_ready_replicas"] == 1
    assert found["warmroute_redis_reachable"] == 0
