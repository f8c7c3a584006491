"""The fleet: what a decision reads, and bookings that always come back to zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.booking import EXPECTATION_GRACE_SECONDS
from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import odd_replicas
from cluster.protocol.block_keys import block_keys
from cluster.protocol.wire import Booked, Load, ReplicaState
from tests.cluster.fleets import cached, fleet_of, lease


def test_booking_counts_until_it_is_released():
    """A booking adds one request, its prompt and what of it must be computed; release takes all back."""
    fleet = fleet_of(lease())
    replica = fleet.replicas["a"]
    booking = fleet.book(replica, [1], 300, cached_tokens=16)
    assert (fleet.open_bookings, fleet.booked("a")) == (1, Booked(1, 284, 300, 284))
    booking.prefill_done(0.0)
    assert fleet.booked("a") == Booked(1, 0, 300)
    booking.release(0.0, succeeded=True)
    assert (fleet.open_bookings, fleet.booked("a")) == (0, Booked())


def test_booking_is_released_once():
    """Only the first release counts, whatever comes after it."""
    fleet = fleet_of(lease())
    first, second = (fleet.book(fleet.replicas["a"], [1, 2], 100) for _ in range(2))
    for succeeded in (True, False, True):
        first.release(0.0, succeeded)
        first.prefill_done(0.0)
    assert (fleet.open_bookings, fleet.replicas["a"].running, fleet.replicas["a"].queued_tokens) == (
        1,
        1,
        100,
    )
    second.release(0.0, succeeded=False)
    fleet.snapshot(fleet.models["m"], (), 10, EXPECTATION_GRACE_SECONDS)
    assert cached(fleet, [1, 2], 100, EXPECTATION_GRACE_SECONDS) == {"a": 0}
    fleet.check_integrity()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["book", "prefill", "release", "dismiss", "admit", "epoch", "apply"]),
            st.integers(0, 5),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_bookings_are_conserved(steps):
    """Whatever happens to replicas and requests, bookings equal open requests and end at zero."""
    fleet, open_requests, now, epoch = Fleet(), [], 0.0, 1
    for action, number, flag in steps:
        now += 0.3
        replica_id = "abc"[number % 3]
        replica = fleet.replicas.get(replica_id)
        if action == "admit":
            fleet.admit(
                lease(replica_id, state=ReplicaState.READY), replica.epoch if replica else epoch, Load()
            )
        elif action == "epoch":
            epoch += 1
            fleet.admit(lease(replica_id), epoch, Load())
        elif action == "book" and replica:
            open_requests.append(fleet.book(replica, list(range(number)), number * 10))
        elif action == "prefill" and open_requests:
            open_requests[number % len(open_requests)].prefill_done(0.0)
        elif action == "release" and open_requests:
            open_requests.pop(number % len(open_requests)).release(now, flag)
        elif action == "dismiss" and replica:
            fleet.dismiss(replica_id)
        elif action == "apply" and replica:
            fleet.apply(replica, [number], [number + 1], cleared=flag)
        assert fleet.open_bookings == len(open_requests)
        for each in fleet.replicas.values():
            mine = [booking for booking in open_requests if booking.replica is each]
            assert each.running == len(mine)
        fleet.check_integrity()
    for booking in open_requests:
        booking.release(now, succeeded=True)
    assert fleet.open_bookings == 0
    assert all(fleet.booked(replica_id) == Booked() for replica_id in fleet.replicas)
    for model in fleet.models.values():
        fleet.snapshot(model, (), 1, now + EXPECTATION_GRACE_SECONDS)
    if fleet.models:
        assert not fleet.index._expected.starts
    fleet.check_integrity()


def test_integrity_check_finds_a_leak():
    """The debug check can fail."""
    fleet = fleet_of(lease())
    fleet.replicas["a"].running += 1
    with pytest.raises(AssertionError, match="1 requests booked"):
        fleet.check_integrity()


def test_integrity_check_finds_a_row_that_was_not_written():
    """What snapshots show of a replica must be what the replica says."""
    fleet = fleet_of(lease())
    fleet.replicas["a"].load = Load(running=1)
    with pytest.raises(AssertionError, match="a is"):
        fleet.check_integrity()


def test_prompt_just_sent_counts_as_held_there():
    """Before any event comes, a prompt's blocks are expected on the replica it was sent to."""
    fleet = fleet_of(lease("a"), lease("b"))
    booking = fleet.book(fleet.replicas["a"], [1, 2, 3], 48)
    assert cached(fleet, [1, 2, 3, 4], 100) == {"a": 48, "b": 0}
    booking.release(10.0, succeeded=True)
    assert cached(fleet, [1, 2, 3, 4], 100, 10.9) == {"a": 48, "b": 0}
    assert cached(fleet, [1, 2, 3, 4], 100, 11.0) == {"a": 0, "b": 0}


def test_failed_request_leaves_no_expectation():
    """A prompt that a replica did not take is not expected there, not even while others wait their turn."""
    fleet = fleet_of(lease("a"), lease("b"))
    fine = fleet.book(fleet.replicas["b"], [1], 16)
    failed = fleet.book(fleet.replicas["a"], [1], 16)
    fine.release(5.0, succeeded=True)
    failed.release(5.0, succeeded=False)
    assert cached(fleet, [1], 100, 5.0) == {"a": 0, "b": 16}


def test_new_epoch_owns_nothing():
    """A new incarnation starts without blocks and without expectations; open bookings still count."""
    fleet = fleet_of(lease("a"))
    replica = fleet.replicas["a"]
    fleet.apply(replica, [1, 2], (), cleared=False)
    booking = fleet.book(replica, [1, 2, 3], 48)
    fleet.admit(lease("a"), 2, Load())
    assert cached(fleet, [1, 2, 3], 100) == {"a": 0}
    assert replica.running == 1
    fleet.apply(replica, [1], (), cleared=False)
    booking.release(0.0, succeeded=False)
    assert cached(fleet, [1, 2, 3], 100) == {"a": 16}
    assert replica.running == 0
    fleet.check_integrity()


def test_dismissed_replica_is_gone_while_its_requests_end():
    """What is left of a replica after it left is only its open bookings."""
    fleet = fleet_of(lease("a"), lease("b"))
    fleet.apply(fleet.replicas["a"], [1], (), cleared=False)
    booking = fleet.book(fleet.replicas["a"], [1], 16)
    fleet.dismiss("a")
    assert cached(fleet, [1], 100) == {"b": 0}
    assert fleet.open_bookings == 1
    fleet.admit(lease("a"), 5, Load())
    booking.release(0.0, succeeded=True)
    assert (fleet.open_bookings, fleet.replicas["a"].running) == (0, 0)
    assert cached(fleet, [1], 100) == {"a": 0, "b": 0}


def test_model_without_replicas_is_unknown():
    """A model goes with the last replica that serves it."""
    fleet = fleet_of(lease("a"))
    fleet.dismiss("a")
    assert fleet.models == {}


def test_batch_applies_clear_then_removals_then_stores():
    """A key in all three parts is held afterwards."""
    fleet = fleet_of(lease("a"))
    replica = fleet.replicas["a"]
    fleet.apply(replica, [1, 2], (), cleared=False)
    fleet.apply(replica, [3, 4], [3, 9], cleared=True)
    assert fleet.index.owned(replica.slot) == {3, 4}


def test_models_are_known_by_name_alias_and_adapter():
    """All names of a model lead to its replicas; an adapter has a namespace of its own."""
    fleet = fleet_of(lease("b", aliases=("m", "alias"), adapters=("lora", "lora")), lease("a"))
    assert set(fleet.models) == {"m", "alias", "lora"}
    assert fleet.models["m"].ids == ("a", "b")
    assert fleet.models["alias"].ids == ("b",)
    assert fleet.models["lora"].ids == ("b",)
    assert (fleet.models["m"].lora, fleet.models["lora"].lora) == ("", "lora")
    assert fleet.models["alias"].namespace == fleet.models["m"].namespace
    assert fleet.models["lora"].namespace.lora == "lora"


@pytest.mark.parametrize("others", [("b", "a"), ("b",), ("c", "b", "a")])
def test_order_and_number_of_names_do_not_matter(others):
    """Engines of one model with its names in another order, or fewer of them, hold the same blocks: what one
    stored is found at it whichever name a client uses, and their adapters keep blocks of their own.
    """
    first, *aliases = others
    fleet = fleet_of(
        lease("r1", model="a", aliases=("b",), adapters=("lora",)),
        lease("r2", model=first, aliases=tuple(aliases), adapters=("lora",)),
    )
    assert odd_replicas(fleet.models.values()) == []
    assert len({model.namespace for name, model in fleet.models.items() if name != "lora"}) == 1
    assert fleet.models["lora"].namespace.lora == "lora"
    keys = block_keys(fleet.models["b"].namespace.root(), range(32), 16)
    stored = block_keys(fleet.replicas["r2"].lease.namespace().root(), range(32), 16)
    fleet.apply(fleet.replicas["r2"], stored, (), cleared=False)
    for name in {"a", *others} & fleet.models.keys():
        assert cached(fleet, keys, 33, model=name).get("r2", 32) == 32


def test_namespace_is_that_of_most_replicas():
    """One replica with another tokenizer does not change the keys; those without events have no say."""
    fleet = fleet_of(
        lease("a", tokenizer_fingerprint="other"),
        lease("b", tokenizer_fingerprint="good"),
        lease("c", tokenizer_fingerprint="good"),
        *(lease(name, tokenizer_fingerprint="silent", publishes_events=False) for name in "defg"),
    )
    assert fleet.models["m"].namespace.tokenizer_fingerprint == "good"


@pytest.mark.parametrize("changes", [{"publishes_events": False}, {"block_size": 0}])
def test_model_whose_cache_cannot_be_seen_has_no_namespace(changes):
    """Without events or block size nothing is ever expected to be cached."""
    fleet = fleet_of(lease("a", **changes))
    model = fleet.models["m"]
    assert model.namespace is None
    assert cached(fleet, [1, 2], 100) == {"a": 0}


def test_context_limit_is_the_largest_known():
    """It is what clients are told; 0 says nothing."""
    fleet = fleet_of(
        lease("a", max_model_len=0), lease("b", max_model_len=4096), lease("c", max_model_len=2048)
    )
    assert fleet.models["m"].max_model_len == 4096
    assert fleet_of(lease()).models["m"].max_model_len == 0
