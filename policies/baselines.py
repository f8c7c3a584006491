"""Policies that know nothing of caches: for comparison, and for models whose cache cannot be seen."""

from hashlib import blake2b

import numpy as np

from policies.choice import choose, load_in_tokens, only_eligible, require_some
from policies.ring import first_with_room
from policies.types import Decision, Request, Snapshot


def round_robin(request: Request, snapshot: Snapshot) -> Decision:
    """Each replica in turn."""
    rows = np.flatnonzero(snapshot.eligible)
    require_some(rows.size)
    row = int(rows[snapshot.number % rows.size])
    return Decision(row, "round-robin", only_eligible(np.zeros(len(snapshot.replicas)), snapshot))


def least_load(request: Request, snapshot: Snapshot) -> Decision:
    """The replica with the least work; ties go by the ring."""
    return choose(request, snapshot, "least-load", load_in_tokens(snapshot))


def power_of_two(request: Request, snapshot: Snapshot) -> Decision:
    """The less loaded of two replicas, drawn by a hash of the conversation and the decision's number.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """
    rows = np.flatnonzero(snapshot.eligible)
    require_some(rows.size)
    seed = f"{request.conversation_key:016x}{snapshot.number}".encode()
    draw = int.from_bytes(blake2b(seed, digest_size=8).digest())
    first = draw % rows.size
    second = (first + 1 + draw // rows.size % max(rows.size - 1, 1)) % rows.size
    drawn = np.zeros_like(snapshot.eligible)
    drawn[rows[[first, second]]] = True
    return choose(request, snapshot, "power-of-two", load_in_tokens(snapshot), among=drawn)


def consistent_hash(request: Request, snapshot: Snapshot) -> Decision:
    """The conversation's place on the ring, walked past replicas whose load is over the bound.

    Source, and the bound of 1.25: `policies.ring`.
    """
    require_some(int(snapshot.eligible.sum()))
    costs = only_eligible(load_in_tokens(snapshot), snapshot)
    row = first_with_room(
        snapshot.replicas, request.conversation_key, snapshot.eligible, costs, request.prompt_tokens
    )
    return Decision(row, "ring", costs)
