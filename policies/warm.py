"""The default: send a request where it makes the least work, for itself and for everybody behind it.

``cost = (queued + uncached + STICKINESS x uncached part of the conversation itself + REQUEST_TOKENS x
running) x pace``

A conversation's own history weighs more than its length says: computing it again delays everybody queued
behind, and evicts what others need (replay of the Mooncake trace: weights from 16 to 64 differ by under
3%). An opening that conversations share weighs only what it costs: a second copy of it is an investment
that the next ones use, so hot openings spread as soon as queueing at their holder costs more than computing
them once more.
"""

import numpy as np

from policies.choice import load_in_tokens, only_eligible, require_some
from policies.ring import first_on_ring, first_with_room
from policies.types import Costs, Counts, Decision, Mask, Request, Snapshot

STICKINESS = 16.0
ROOM_TOKENS = 6144.0
"""More than so many tokens an engine does not need to have at hand: three of vLLM's steps. Beyond it requests
wait in the router, which can put short ones first."""
TIE_TOKENS = 16.0
"""Candidates whose cost is this close to the best are equal, and the ring chooses among them."""
STAY_TOKENS = 2048.0
"""How much more load a conversation's last replica may have than the least loaded: vLLM's prefill per
step."""


def warm(request: Request, snapshot: Snapshot) -> Decision:
    """Least added work; the ring with bounded loads for what nobody holds, and for ties."""
    require_some(int(snapshot.eligible.sum()))
    load = load_in_tokens(snapshot) * snapshot.pace
    uncached = request.prompt_tokens - snapshot.cached_tokens
    own_uncached = np.minimum(uncached, request.prompt_tokens - request.opening_tokens)
    costs = only_eligible(load + (uncached + STICKINESS * own_uncached) * snapshot.pace, snapshot)

    held = np.where(snapshot.eligible, snapshot.cached_tokens, 0)
    most = held.max()
    if _stays(snapshot, held, load):
        return Decision(snapshot.home, "warm" if most else "home", costs, ROOM_TOKENS)
    if not most:
        row = first_with_room(
            snapshot.replicas, request.conversation_key, snapshot.eligible, load, request.prompt_tokens
        )
        return Decision(row, "cold", costs, ROOM_TOKENS)
    row = first_on_ring(snapshot.replicas, request.conversation_key, _ties(costs))
    return Decision(row, "warm" if held[row] == most else "diverted", costs, ROOM_TOKENS)


def _stays(snapshot: Snapshot, held: Counts, load: Costs) -> bool:
    home = snapshot.home
    return bool(
        home >= 0
        and snapshot.eligible[home]
        and held[home] == held.max()
        and load[home] <= load[snapshot.eligible].min() + STAY_TOKENS
    )


def _ties(costs: Costs) -> Mask:
    ties: Mask = costs <= costs.min() + TIE_TOKENS
    return ties
