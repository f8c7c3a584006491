"""A drained replica gets nothing new, and a replica's blocks can be read anew."""

import pytest

from cluster.fleet.replicas import Replica
from cluster.protocol.wire import Load, ReplicaState
from tests.cluster.fleets import fleet_of, lease
from tests.cluster.test_follower import following, held, writer_of
from tests.cluster.test_follower import lease as published_lease


def eligible(fleet):
    """Ids of the replicas that a policy may choose."""
    model = fleet.models["m"]
    seen = fleet.snapshot(model, [], 100, 0.0).eligible
    return {replica_id for replica_id, may in zip(model.ids, seen, strict=True) if may}


def test_drained_replicas_are_not_eligible():
    """Whether they are there already or come later, and until they are undrained."""
    fleet = fleet_of(lease("a"), lease("b"))
    fleet.drain({"a", "c"})
    fleet.admit(lease("c"), 1, Load())
    assert eligible(fleet) == {"b"}
    assert (fleet.models["m"].num_ready, fleet.models["m"].ready) == (1, True)
    fleet.check_integrity()
    fleet.drain({"b"})
    assert eligible(fleet) == {"a", "c"}
    fleet.drain(())
    assert eligible(fleet) == {"a", "b", "c"}
    fleet.check_integrity()


def test_a_new_epoch_or_state_does_not_end_a_drain():
    """Only the operator does."""
    fleet = fleet_of(lease("a"), lease("b"))
    fleet.drain({"a"})
    fleet.admit(lease("a", state=ReplicaState.STARTING), 2, Load())
    fleet.admit(lease("a"), 2, Load())
    assert eligible(fleet) == {"b"}
    fleet.dismiss("a")
    fleet.admit(lease("a"), 3, Load())
    assert eligible(fleet) == {"b"}


def test_who_waits_for_a_drained_replica_is_sent_elsewhere():
    """At once; a request that was sent keeps its booking."""
    fleet = fleet_of(lease("a"), lease("b"))
    replica: Replica = fleet.replicas["a"]
    sent = fleet.book(replica, range(100), 1600)
    waiting = fleet.book(replica, range(200, 210), 160)
    answers = []
    assert fleet.hold(waiting, 100, 0.0, answers.append)
    fleet.drain({"b"})
    assert answers == []
    fleet.drain({"a", "b"})
    assert answers == [False]
    assert not fleet.takes_requests(replica, 0.0)
    assert replica.running == 2
    for booking in (waiting, sent):
        booking.release(0.0, succeeded=False)
    fleet.check_integrity()


@pytest.mark.integration
@pytest.mark.parametrize("log_length", [1000, 2])
async def test_blocks_are_read_anew(redis, keys, shared_redis, eventually, log_length):
    """From the log where it reaches back, else from the set; whatever the router believed before."""
    writer = writer_of(redis, keys, log_length=log_length)
    await writer.open(published_lease("a"), [])
    for number in range(1, 300):
        await writer.publish([number], [number - 1] if number % 3 == 0 else [])
    truth = {number for number in range(1, 300) if (number + 1) % 3 or number == 299}
    async with following(shared_redis.url, keys) as (fleet, follower):
        await eventually(lambda: held(fleet) == truth)
        fleet.index.store(fleet.replicas["a"].slot, [777])
        fleet.index.remove(fleet.replicas["a"].slot, [1, 4])
        assert held(fleet) != truth
        follower.read_anew("nobody")
        follower.read_anew("a")
        await eventually(lambda: held(fleet) == truth)
        await writer.publish([5000], [])
        await eventually(lambda: held(fleet) == truth | {5000})
