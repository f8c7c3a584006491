"""What of a booked prompt still queues, as far as the engine's events show it."""

import pytest

from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Booked, Load
from tests.cluster.fleets import cached, fleet_of, lease


@pytest.fixture
def fleet():
    """One replica that is ready, with blocks of 16 tokens."""
    return fleet_of(lease())


@pytest.fixture
def replica(fleet):
    """That replica."""
    return fleet.replicas["a"]


def store(fleet, *keys):
    """The engine announces blocks."""
    fleet.apply(fleet.replicas["a"], keys, (), cleared=False)
    fleet.check_integrity()


def test_computed_blocks_no_longer_queue(fleet, replica):
    """Each confirmed block counts once; of a stream the rest queues until its first token."""
    booking = fleet.book(replica, [1, 2, 3], 60, cached_tokens=16)
    for keys, queued in (([7], 44), ([2], 28), ([2], 28), ([3], 12), ([3], 12)):
        store(fleet, *keys)
        assert (booking.queued_tokens, fleet.booked("a").queued_tokens) == (queued, queued)
    booking.prefill_done(0.0)
    assert fleet.booked("a") == Booked(1, 0, 60, 0)


def test_whole_answer_queues_until_its_last_block_is_computed(fleet, replica):
    """Nobody sees the first token of an answer that is not streamed: its full blocks must do."""
    booking = fleet.book(replica, [1, 2, 3], 60, cached_tokens=16, streamed=False)
    assert fleet.booked("a") == Booked(1, 32, 60, 32)
    store(fleet, 2, 3)
    assert fleet.booked("a") == Booked(1, 0, 60, 0)
    booking.release(0.0, succeeded=True)
    assert fleet.booked("a") == Booked()


def test_blocks_evicted_later_stay_computed(fleet, replica):
    """What the engine has computed for a request it does not compute again."""
    booking = fleet.book(replica, [1, 2, 3], 48)
    store(fleet, 1, 2)
    fleet.apply(replica, [9], [1, 2], cleared=True)
    assert booking.queued_tokens == 16


def test_lost_event_does_not_stop_the_rest(fleet, replica):
    """An engine computes a prompt from its beginning: when the last block is there, all are."""
    booking = fleet.book(replica, [1, 2, 3, 4], 64, streamed=False)
    store(fleet, 1, 3)
    assert booking.queued_tokens == 48
    store(fleet, 4)
    assert booking.queued_tokens == 0
    assert not replica.prefilling


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("keys", "prompt_tokens"), [([], 160), ([1, 2], 160)], ids=["no keys", "keys of the first of several"]
)
def test_engine_work_that_nobody_sees_end_does_not_count(fleet, replica, streamed, keys, prompt_tokens):
    """Without events a first token ends a prompt's work. Of a whole answer not even that is seen: it would
    make others wait until the answer has been generated.
    """
    booking = fleet.book(replica, keys, prompt_tokens, streamed=streamed)
    assert fleet.booked("a") == Booked(1, 160, 160, 160 * streamed)
    store(fleet, 1, 2)
    assert fleet.booked("a").queued_tokens == 160
    booking.release(0.0, succeeded=True)
    assert fleet.booked("a") == Booked()


def test_full_index_cannot_watch():
    """It refuses new blocks, so that they would never be seen to be computed."""
    fleet = Fleet(max_blocks=2)
    replica = fleet.admit(lease(), 1, Load())
    assert fleet.book(replica, [5, 6], 32).watched
    store(fleet, 1, 2)
    assert not fleet.book(replica, [5, 6], 32).watched
    fleet.apply(replica, (), [1], cleared=False)
    assert fleet.book(replica, [5, 6], 32).watched


def test_block_sizes_that_differ_never_make_work_negative(fleet):
    """Cached tokens in blocks of the model's usual size may be more blocks than the prompt has keys."""
    odd = fleet.admit(lease("b", block_size=4), 1, Load())
    fleet.book(odd, [1, 2, 3], 48, cached_tokens=32, streamed=False)
    assert fleet.booked("b") == Booked(1, 16, 48, 0)
    fleet.check_integrity()


def test_what_is_computed_while_a_request_waits_counts_when_it_goes(fleet, replica):
    """Two with the same prompt: when the second goes, the first has done most of its work."""
    first = fleet.book(replica, range(10), 170)
    second = fleet.book(replica, range(10), 170)
    assert fleet.hold(second, 50, 0.0, lambda room: None)
    store(fleet, *range(6))
    assert (second.held, second.queued_tokens, replica.engine_tokens) == (True, 170, 74)
    first.prefill_done(0.0)
    assert (second.held, second.queued_tokens, replica.engine_tokens) == (False, 74, 74)
    fleet.check_integrity()


def test_new_incarnation_computes_what_the_old_one_had(fleet, replica):
    """Nothing is expected any more of prompts sent before, and their blocks are counted as they come."""
    booking = fleet.book(replica, [1, 2, 3], 48, cached_tokens=16)
    store(fleet, 1, 2)
    fleet.admit(lease(), 2, Load())
    assert cached(fleet, [1, 2, 3], 100) == {"a": 0}
    store(fleet, 1, 2, 3)
    assert booking.queued_tokens == 0
    booking.release(0.0, succeeded=False)
    assert fleet.booked("a") == Booked()


def test_only_prompts_being_computed_are_looked_at(fleet, replica):
    """Neither those that wait nor those that are done cost anything when events come."""
    watched = fleet.book(replica, [1, 2], 32, streamed=False)
    fleet.book(replica, [], 32)
    waiting = fleet.book(replica, [3, 4], 32)
    assert fleet.hold(waiting, 1, 0.0, lambda room: None)
    assert list(replica.prefilling) == [watched]
    store(fleet, 1, 2)
    assert not replica.prefilling
