"""The steps that policies share: what a replica costs, and the choice of the cheapest one."""

import numpy as np

from policies.ring import first_on_ring
from policies.types import Costs, Counts, Decision, Mask, NoReplicaError, Request, Snapshot

REQUEST_TOKENS = 64
"""What one running request weighs against queued prompt tokens: about half an engine step on a GPU."""


def load_in_tokens(snapshot: Snapshot) -> Costs:
    """Prefill work queued on each replica plus what its batch weighs, in tokens."""
    return (snapshot.queued_tokens + REQUEST_TOKENS * snapshot.running).astype(np.float64)


def uncached_tokens(request: Request, snapshot: Snapshot) -> Counts:
    """Tokens of this prompt that each replica would have to compute."""
    return request.prompt_tokens - snapshot.cached_tokens


def choose(
    request: Request,
    snapshot: Snapshot,
    reason: str,
    costs: Costs | Counts,
    *then: Costs | Counts,
    among: Mask | None = None,
) -> Decision:
    """The cheapest replica, of all eligible ones or only ``among`` some of them.

    Ties go by the lowest of what comes ``then``, and at last by the ring, where other routers draw lots.
    """
    candidates = snapshot.eligible if among is None else among
    require_some(int(candidates.sum()))
    for order in (costs, *then):
        candidates = candidates & (order == order[candidates].min())
    row = first_on_ring(snapshot.replicas, request.conversation_key, candidates)
    return Decision(row, reason, only_eligible(costs, snapshot))


def only_eligible(costs: Costs | Counts, snapshot: Snapshot) -> Costs:
    """The same costs, infinite where a replica cannot be chosen."""
    return np.where(snapshot.eligible, costs, np.inf)


def require_some(num_eligible: int) -> None:
    """Raise `NoReplicaError` when there is nothing to choose from."""
    if not num_eligible:
        raise NoReplicaError
