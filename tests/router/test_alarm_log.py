"""Alarms: one for each thing that is wrong, since when, and until when."""

from dataclasses import replace

import pytest

from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Lease, Load, ReplicaState
from router.health.alarms import LOST_SECONDS, MAX_PAST, AlarmLog
from router.health.health import Degradation
from tests.router.finished_requests import NOON, Clock


class Symptoms:
    """A router's health, as a test sets it."""

    def __init__(self):
        self.found = []

    def degradations(self):
        """What holds now."""
        return iter(self.found)


@pytest.fixture
def health():
    """What is wrong."""
    return Symptoms()


@pytest.fixture
def fleet():
    """Two replicas."""
    fleet = Fleet()
    for name in "ab":
        lease = Lease(replica=name, url=f"http://{name}", state=ReplicaState.READY, model="m", block_size=16)
        fleet.admit(lease, 1, Load())
    return fleet


@pytest.fixture
def clock():
    """The time."""
    return Clock()


@pytest.fixture
def alarms(health, fleet, clock):
    """The log."""
    return AlarmLog(health, fleet, clock)


def test_one_dead_replica_is_one_alarm(alarms, health):
    """Whatever says so: it does not answer, its lease is not renewed, its agent had an alarm."""
    texts = {"unreachable": "does not answer", "lease": "not renewed", "replica": "no KV events"}
    health.found = [Degradation(kind, f"replica a: {text}", "a") for kind, text in reversed(texts.items())]
    health.found.append(Degradation("lease", "replica b: not renewed", "b"))
    first, second = alarms.look()
    assert (first.kind, first.serious, first.replica) == ("unreachable", True, "a")
    assert first.text == "replica a: does not answer; no KV events; not renewed"
    assert (second.kind, second.serious, second.replica) == ("lease", False, "b")


def test_alarms_have_a_beginning_and_an_end(alarms, health, clock):
    """A changing text is the same alarm; one that comes again begins anew."""
    slow = Degradation("redis_slow", "Redis is slow: it takes 0.3 s to answer")
    for text in (slow.text, "Redis is slow: it takes 2.0 s to answer"):
        health.found = [replace(slow, text=text)]
        [alarm] = alarms.look()
        assert (alarm.since, alarm.text, alarm.until) == (NOON, text, None)
        clock.now += 60
    health.found = []
    assert alarms.look() == []
    [past] = alarms.past
    assert (past.since, past.until) == (NOON, NOON + 120)
    health.found = [slow]
    assert alarms.look()[0].since == NOON + 120
    assert len(alarms.past) == 1


def test_models_are_told_apart(alarms, health):
    """Two models whose tokens differ are two alarms."""
    health.found = [Degradation("tokenizer", f"model {name}: differs", model=name) for name in "mn"]
    assert [alarm.model for alarm in alarms.look()] == ["m", "n"]


def test_a_replica_that_died_stays_an_alarm(alarms, fleet, clock):
    """Until it comes back, or ten minutes have passed; one that said good-bye is none."""
    alarms.look()
    replica = fleet.replicas["a"]
    replica.lost = True
    for name in "ab":
        fleet.dismiss(name)
    [alarm] = alarms.look()
    assert (alarm.kind, alarm.replica, alarm.serious) == ("lost", "a", True)
    clock.now += LOST_SECONDS
    assert alarms.look() == [alarm]
    clock.now += 1
    assert alarms.look() == []


def test_a_replica_that_is_back_is_no_alarm(alarms, fleet):
    """From its new lease on."""
    alarms.look()
    lease = fleet.replicas["a"].lease
    fleet.replicas["a"].lost = True
    fleet.dismiss("a")
    assert len(alarms.look()) == 1
    fleet.admit(lease, 2, Load())
    assert alarms.look() == []


def test_the_past_is_bounded(alarms, health):
    """The oldest alarms are forgotten."""
    for number in range(MAX_PAST + 5):
        health.found = [Degradation("steering", "x", model=str(number))]
        alarms.look()
    assert len(alarms.past) == MAX_PAST
    assert alarms.past[0].model == str(MAX_PAST + 3)
