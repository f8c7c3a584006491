"""Policies that know nothing of caches: for comparison, and for models whose cache cannot be seen."""

import numpy as np

from policies.ring import first_with_room
from policies.types import Costs, Decision, NoReplicaError, Request, Snapshot

REQUEST_TOKENS = 64
"""What one running request weighs against queued prompt tokens: about half an engine step on a GPU."""


def load_in_tokens(snapshot: Snapshot) -> Costs:
    """Prefill work queued on each replica plus what its batch weighs, in tokens."""
    return (snapshot.queued_tokens + REQUEST_TOKENS * snapshot.running).astype(np.float64)


def round_robin(request: Request, snapshot: Snapshot) -> Decision:
    """Each replica in turn."""
    rows = np.flatnonzero(snapshot.eligible)
    require_some(rows.size)
    row = int(rows[snapshot.number % rows.size])
    return Decision(row, "round-robin", only_eligible(np.zeros(len(snapshot.replicas)), snapshot))


def least_load(request: Request, snapshot: Snapshot) -> Decision:
    """The replica with the least work; ties go by the ring."""
    require_some(int(snapshot.eligible.sum()))
    costs = only_eligible(load_in_tokens(snapshot), snapshot)
    row = first_with_room(
        snapshot.replicas, request.conversation_key, costs == costs.min(), costs, request.prompt_tokens
    )
    return Decision(row, "least-load", costs)


def consistent_hash(request: Request, snapshot: Snapshot) -> Decision:
    """The conversation's place on the ring, walked past replicas whose load is over the bound."""
    require_some(int(snapshot.eligible.sum()))
    costs = only_eligible(load_in_tokens(snapshot), snapshot)
    row = first_with_room(
        snapshot.replicas, request.conversation_key, snapshot.eligible, costs, request.prompt_tokens
    )
    return Decision(row, "ring", costs)


def only_eligible(costs: Costs, snapshot: Snapshot) -> Costs:
    """The same costs, infinite where a replica cannot be chosen."""
    return np.where(snapshot.eligible, costs, np.inf)


def require_some(num_eligible: int) -> None:
    """Raise `NoReplicaError` when there is nothing to choose from."""
    if not num_eligible:
        raise NoReplicaError
