"""Programs: what of them counts as kept, for how long, and that the sum is right whatever happens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet import programs as module
from cluster.fleet.fleet import Fleet
from cluster.fleet.pauses import Pauses
from cluster.fleet.programs import MIN_SECONDS, SAMPLE, Programs
from cluster.protocol.wire import Lease, Load, ReplicaState

BLOCK = 16
CAPACITY = 1_000


def keys_of(opening, own, count):
    """Keys of a prompt, all of which are counted: an opening of ten blocks, and blocks of its own."""
    blocks = [*range(1_000 * opening, 1_000 * opening + 10), *range(1_000_000 * own, 1_000_000 * own + count)]
    return np.array(blocks, dtype=np.uint64) * SAMPLE


@pytest.fixture
def model():
    """Two replicas with room for 1,000 blocks each."""
    fleet = Fleet(max_blocks=10_000)
    for name in ("a", "b"):
        lease = Lease(
            replica=name,
            url="",
            state=ReplicaState.READY,
            model="m",
            block_size=BLOCK,
            publishes_events=True,
            capacity_blocks=CAPACITY,
        )
        fleet.admit(lease, 1, Load())
    return fleet.models["m"]


def turn(programs, key, slot, keys, now, seconds=1.0):
    """One turn of a program, from its beginning to its end."""
    programs.begin(key, slot, keys, len(keys) * BLOCK, now)
    programs.end(key, seconds, CAPACITY, now + seconds)


def test_room_is_what_running_programs_leave(model):
    """Shared blocks count once, and a program needs no room where it is kept."""
    programs = Programs()
    programs.begin(1, 0, keys_of(1, 1, 20), 480, 0.0)
    programs.begin(2, 0, keys_of(1, 2, 20), 480, 0.0)
    other = keys_of(1, 3, 30)
    assert programs.outlook(model, 3, other).room_tokens.tolist() == [
        BLOCK * (CAPACITY - SAMPLE * (50 + 30)),
        BLOCK * (CAPACITY - SAMPLE * 30),
    ]
    assert programs.outlook(model, 1, keys_of(1, 1, 20)).room_tokens[0] == BLOCK * (CAPACITY - SAMPLE * 50)


def test_program_has_room_where_it_is_kept(model):
    """However much others keep there."""
    programs = Programs()
    for key in (1, 2, 3):
        programs.begin(key, 0, keys_of(1, key, 30), 640, 0.0)
    assert programs.outlook(model, 1, keys_of(1, 1, 30)).room_tokens[0] == 0.0
    assert programs.outlook(model, 4, keys_of(1, 4, 30)).room_tokens[0] < 0.0


def test_what_comes_back_soon_is_kept_for_as_long_as_a_turn_takes():
    """Programs of an application that came back soon before are kept after a turn, and then let go."""
    programs = Programs()
    for number in range(6):
        turn(programs, 1, 0, keys_of(1, 1, 20 + number), now=10.0 * number, seconds=9.9)
    ended = 59.9
    assert programs.soon == pytest.approx(9.9)
    programs.expire(ended + 9.8)
    assert programs.is_kept(1)
    assert programs.comes_back_soon(1, keys_of(1, 1, 30))
    programs.expire(ended + 10.0)
    assert not programs.is_kept(1)
    programs.check_integrity()


def test_what_does_not_come_back_soon_is_not_kept(model):
    """A person's conversation takes room only while a turn of it is under way."""
    programs = Programs()
    for number in range(6):
        turn(programs, 1, 0, keys_of(1, 1, 20), now=100.0 * number)
        programs.expire(100.0 * number + 50.0)
    turn(programs, 1, 0, keys_of(1, 1, 20), now=1_000.0)
    assert not programs.comes_back_soon(1, keys_of(1, 1, 20))
    assert programs.outlook(model, 2, keys_of(2, 2, 0)).room_tokens[0] == BLOCK * (CAPACITY - SAMPLE * 10)


def test_a_new_program_is_judged_by_those_that_begin_alike():
    """Agents and people may share a fleet: their system prompts tell them apart."""
    programs = Programs()
    for number in range(8):
        agent, person = 2 * number, 2 * number + 1
        now = 100.0 * number
        turn(programs, agent, 0, keys_of(1, agent, 20), now)
        turn(programs, agent, 0, keys_of(1, agent, 22), now + 1.5)
        turn(programs, person, 0, keys_of(2, person, 20), now)
        programs.expire(now + 90.0)
    assert programs.comes_back_soon(100, keys_of(1, 100, 20))
    assert not programs.comes_back_soon(101, keys_of(2, 101, 20))


def test_a_turn_that_waits_has_come_back():
    """Programs that wait for room are not taken for those that stay away."""
    programs = Programs()
    for key in range(5):
        turn(programs, key, 0, keys_of(1, key, 20), 0.0)
        assert programs.wait(key, 1.5) == 0.0
    assert programs.wait(9, 1.5) == 1.5
    programs.expire(100.0)
    assert programs.comes_back_soon(9, keys_of(1, 9, 20))
    programs.check_integrity()


def test_nothing_is_expected_of_a_program_whose_like_was_not_seen():
    """A person's first turn is not made to wait because agents come back soon; one's own return counts."""
    programs = Programs()
    for key in range(9):
        turn(programs, key, 0, keys_of(1, key, 20), 0.0)
        turn(programs, key, 0, keys_of(1, key, 22), 1.5)
    assert not programs.comes_back_soon(20, keys_of(2, 20, 20))
    turn(programs, 20, 0, keys_of(2, 20, 20), 3.0)
    turn(programs, 20, 0, keys_of(2, 20, 22), 4.5)
    assert programs.comes_back_soon(20, keys_of(2, 20, 24))


def test_what_a_lost_replica_kept_is_gone(model):
    """A replica that starts anew has all its room."""
    programs = Programs()
    programs.begin(1, 0, keys_of(1, 1, 20), 480, 0.0)
    programs.dismiss(0)
    programs.check_integrity()
    assert programs.outlook(model, 2, keys_of(2, 2, 0)).room_tokens[0] == BLOCK * (CAPACITY - SAMPLE * 10)
    programs.end(1, 1.0, CAPACITY, 1.0)
    programs.check_integrity()


def test_who_began_last_gives_way_where_more_is_kept_than_fits():
    """At the end of its turn; those that began before it stay."""
    programs = Programs()
    for key in range(90, 96):
        turn(programs, key, 1, keys_of(1, key, 5), 0.0)
        turn(programs, key, 1, keys_of(1, key, 5), 1.5)
    for key in (1, 2, 3):
        programs.begin(key, 0, keys_of(1, key, 20), 480, 100.0 + key)
    for key in (3, 1, 2):
        programs.end(key, 1.0, 55 * SAMPLE, 110.0)
    assert [key for key in (1, 2, 3) if programs.is_kept(key)] == [1, 2]
    programs.check_integrity()


def test_programs_are_bounded(monkeypatch):
    """Beyond the bound the one not continued for longest is forgotten, with what was kept of it."""
    monkeypatch.setattr(module, "MAX_PROGRAMS", 3)
    programs = Programs()
    for key in range(10):
        programs.begin(key, 0, keys_of(1, key, 20), 480, float(key))
    assert len(programs) == 3
    programs.check_integrity()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["begin", "end", "wait", "expire", "dismiss"]),
            st.integers(0, 5),
            st.integers(0, 2),
            st.integers(0, 40),
        ),
        max_size=60,
    )
)
def test_what_is_kept_is_the_sum_of_what_programs_keep(steps):
    """Whatever begins, ends, stays away and is lost, in whatever order, also several turns at once."""
    programs, now = Programs(), 0.0
    for what, key, slot, number in steps:
        now += number / 10
        if what == "begin":
            programs.begin(key, slot, keys_of(key % 2, key, number), 16 * number, now)
        elif what == "end":
            programs.end(key, number / 10, 30 * SAMPLE, now)
        elif what == "wait":
            programs.wait(key, now)
        elif what == "expire":
            programs.expire(now)
        else:
            programs.dismiss(slot)
        programs.check_integrity()
    programs.expire(now + 1e6)
    programs.check_integrity()


def test_the_program_that_began_first_is_woken_first():
    """One at a time; those that wait no longer are passed over."""
    pauses, woken = Pauses(), []
    entered = [pauses.enter(began, lambda began=began: woken.append(began)) for began in (3.0, 1.0, 2.0)]
    entered[1].over = True
    assert len(pauses) == 2
    pauses.wake()
    assert woken == [2.0]
    pauses.wake()
    pauses.wake()
    assert woken == [2.0, 3.0]


def test_who_goes_makes_way_for_the_next_and_who_stays_does_not():
    """Waking goes on while requests are sent, and ends with the first that has to wait again."""
    pauses, sent = Pauses(), []

    def decide(began):
        if len(sent) < 2:
            sent.append(began)
            pauses.wake()
        else:
            pauses.enter(began, lambda: decide(began))

    for began in (1.0, 2.0, 3.0, 4.0):
        pauses.enter(began, lambda began=began: decide(began))
    pauses.wake()
    assert sent == [1.0, 2.0]
    assert len(pauses) == 2


def test_shortest_time_is_bounded():
    """Before anything is known, and for turns without an answer."""
    assert Programs().soon == MIN_SECONDS
