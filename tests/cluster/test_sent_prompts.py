"""Prompts of which only texts are known: who was sent them, as long as a cache may hold them."""

import pytest

from cluster.fleet import sent_prompts as module
from cluster.protocol.wire import Load
from tests.cluster.fleets import cached, fleet_of, lease

TEXT = [1, 2, 3]


@pytest.fixture
def fleet():
    """Two replicas with blocks of 16 tokens and room for 10 of them."""
    return fleet_of(lease("a", capacity_blocks=10), lease("b", capacity_blocks=10))


def send(fleet, keys=TEXT, conversation=7, replica="a", now=0.0, exact=False, tokens=60, **options):
    """A prompt is sent, computed and answered."""
    booking = fleet.book(
        fleet.replicas[replica], keys, tokens, conversation_key=conversation, exact=exact, **options
    )
    booking.release(now, succeeded=True)
    fleet.check_integrity()


def held(fleet, keys, now=0.0):
    """Tokens per replica, of a prompt that goes on behind these keys."""
    return cached(fleet, keys, 16 * len(keys) + 5, now)


def test_texts_are_remembered_after_their_answer(fleet):
    """Longer than blocks, which the engine's events confirm."""
    send(fleet)
    send(fleet, [7, 8, 9], exact=True, replica="b")
    assert held(fleet, TEXT, now=100.0) == {"a": 48, "b": 0}
    assert held(fleet, [7, 8, 9], now=100.0) == {"a": 0, "b": 0}


def test_old_texts_are_forgotten(fleet):
    """Also on replicas that are sent nothing any more."""
    send(fleet, now=10.0)
    assert held(fleet, TEXT, now=10.0 + module.AGE_SECONDS - 1)["a"] == 48
    assert held(fleet, TEXT, now=10.0 + module.AGE_SECONDS + module.LOOK_SECONDS)["a"] == 0
    assert fleet.sent.num_keys == 0


def test_texts_are_forgotten_when_the_cache_has_filled_anew(fleet):
    """By whatever requests, but only what had to be computed counts, and only on that replica."""
    send(fleet)
    send(fleet, [4, 5], conversation=0, exact=True, replica="b", tokens=1000)
    send(fleet, [4, 5], conversation=0, exact=True, tokens=150)
    send(fleet, [4, 5], conversation=0, exact=True, tokens=1000, cached_tokens=999)
    assert held(fleet, TEXT)["a"] == 48
    send(fleet, [4, 5], conversation=0, exact=True, tokens=9)
    assert held(fleet, TEXT)["a"] == 0


def test_a_turn_takes_the_place_of_the_one_before(fleet):
    """One conversation is kept once, however many turns it has."""
    for length in range(1, 5):
        send(fleet, list(range(length)))
    assert fleet.sent.num_keys == 4
    assert held(fleet, list(range(9)))["a"] == 64


def test_what_fails_is_not_remembered(fleet):
    """Its replica may not have got it."""
    fleet.book(fleet.replicas["a"], TEXT, 60, conversation_key=7, exact=False).release(0.0, succeeded=False)
    assert held(fleet, TEXT)["a"] == 0


def test_memory_is_bounded(fleet, monkeypatch):
    """The oldest are forgotten first."""
    monkeypatch.setattr(module, "MAX_KEYS", 12)
    for number in range(10):
        send(fleet, range(10 * number, 10 * number + 3), conversation=number + 1, tokens=1)
        assert fleet.sent.num_keys <= 12
    assert held(fleet, range(90, 93))["a"] > 0
    assert held(fleet, range(3))["a"] == 0


def test_a_replica_that_goes_or_starts_anew_holds_nothing(fleet):
    """Its cache is empty; a later one in its slot inherits nothing."""
    send(fleet)
    send(fleet, replica="b")
    fleet.dismiss("a")
    fleet.admit(lease("c", capacity_blocks=10), 1, Load())
    fleet.admit(lease("b", capacity_blocks=10), 2, Load())
    fleet.check_integrity()
    assert set(held(fleet, TEXT).values()) == {0}
    send(fleet, replica="c")
    assert held(fleet, TEXT)["c"] == 48


def test_unknown_texts_go_by_the_ring(fleet):
    """Where nobody was sent any of it, all routers choose alike."""
    model = fleet.models["m"]
    seen = [fleet.snapshot(model, TEXT, 60, 0.0, exact=exact).caches_seen for exact in (True, False)]
    send(fleet)
    seen.append(fleet.snapshot(model, TEXT, 60, 0.0, exact=False).caches_seen)
    assert seen == [True, False, True]


def test_the_computing_of_texts_is_not_watched(fleet):
    """No event will show it, even if the guessed length happens to fit."""
    assert fleet.book(fleet.replicas["a"], TEXT, 48).watched
    assert not fleet.book(fleet.replicas["a"], TEXT, 48, conversation_key=7, exact=False).watched
