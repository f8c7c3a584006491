"""Turns of programs are known to all routers, whatever is lost, repeated or late."""

import numpy as np
import pytest

from cluster.fleet.fleet import Fleet
from cluster.fleet.peers import SILENCE_SECONDS
from cluster.fleet.programs import MIN_SECONDS, SAMPLE
from cluster.fleet.turns import LIMIT_SECONDS
from cluster.protocol.wire import Bookings, Lease, Load, ReplicaState

KEYS = np.arange(1, 200, dtype=np.uint64)
PROGRAM = 7


class Routers:
    """Two routers of one replica; what the first one does reaches the second with `tell`."""

    def __init__(self):
        self.first, self.second = Fleet(max_blocks=10_000), Fleet(max_blocks=10_000)
        lease = Lease(
            replica="r",
            url="",
            state=ReplicaState.READY,
            model="m",
            block_size=16,
            publishes_events=True,
            capacity_blocks=1_000,
        )
        for fleet in (self.first, self.second):
            fleet.admit(lease, 1, Load())

    def book(self, now):
        """A turn at the first router."""
        replica = self.first.replicas["r"]
        return self.first.book(replica, KEYS, 16 * len(KEYS), conversation_key=PROGRAM, program_at=now)

    def tell(self, now, times=1):
        """The first router's message arrives, so often."""
        _, news = self.first.outbox.take("first")
        for _ in range(times):
            self.second.receive(news, now)

    def rooms(self, now):
        """What room each router sees for a prompt that nobody has sent."""
        return [
            fleet.snapshot(fleet.models["m"], KEYS[:0], 0, now, with_room=True).outlook.room_tokens.item()
            for fleet in (self.first, self.second)
        ]


@pytest.fixture
def routers():
    """Nothing has been booked."""
    return Routers()


def test_ledgers_are_equal_from_beginning_to_end(routers):
    """Begun, ended and kept, come back and waiting, gone: each router counts what the other one does."""
    booking = routers.book(0.0)
    routers.tell(0.0, times=2)
    assert routers.rooms(0.0)[0] == routers.rooms(0.0)[1] == 16 * (1_000 - SAMPLE * (len(KEYS) // SAMPLE))
    booking.release(3.0, succeeded=True)
    routers.tell(3.0, times=2)
    assert routers.first.programs.soon == routers.second.programs.soon == 3.0
    assert PROGRAM in routers.second.programs.away
    assert routers.first.turns.wait(PROGRAM, 4.0) == routers.second.turns.wait(PROGRAM, 4.0) == 0.0
    routers.tell(4.0)
    assert not routers.second.programs.away
    assert routers.rooms(4.0) == [16_000.0, 16_000.0]
    for fleet in (routers.first, routers.second):
        fleet.programs.check_integrity()


def test_waiting_is_told_once(routers):
    """A turn that is decided again and again, and waits each time, is no news."""
    routers.book(0.0).release(2.0, succeeded=True)
    for _ in range(3):
        routers.first.turns.wait(PROGRAM, 2.5)
    _, news = routers.first.outbox.take("first")
    assert [turn.replica for turn in news.turns] == ["r", ""]


@pytest.mark.parametrize("lost", ["router", "message"])
def test_turns_without_an_end_do_not_last(routers, lost):
    """Of a router that has fallen silent, or whose message about the end was lost."""
    routers.book(0.0)
    routers.tell(0.0)
    end = SILENCE_SECONDS if lost == "router" else LIMIT_SECONDS
    moments = [0.0, end - 0.1, end] if lost == "router" else np.arange(0.0, end + 1.0)
    for now in moments[:-1]:
        if lost == "message":
            routers.second.receive(Bookings("first", {}), float(now))
        routers.second.forget_until(float(now))
        assert routers.second.programs.is_kept(PROGRAM)
    routers.second.forget_until(float(moments[-1]))
    routers.second.forget_until(float(moments[-1]) + 2 * LIMIT_SECONDS + MIN_SECONDS)
    assert not routers.second.programs.is_kept(PROGRAM)
    routers.second.check_integrity()


def test_turns_on_a_replica_that_is_unknown_here_are_left_out(routers):
    """Its lease has not come yet, or is gone."""
    routers.second.dismiss("r")
    routers.book(0.0)
    routers.tell(0.0)
    assert not len(routers.second.programs)
