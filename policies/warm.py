"""The default: send a request where it makes the least work, for itself and for everybody behind it.

``cost = (queued + uncached + weight x uncached part beyond the opening + REQUEST_TOKENS x running) x pace``

A conversation's own history weighs more than its length says: computing it again delays everybody queued
behind, and evicts what others need. An opening weighs only what it costs: a second copy of it is an
investment that the next ones use, so openings spread as soon as queueing at their holder costs more than
computing them once more. So does what turns out to be hot, a document or an opening that nobody declared.
ARCHITECTURE.md derives the weight, docs/benchmarks.md has the sweeps.
"""

import numpy as np

from policies.baselines import consistent_hash
from policies.choice import load_in_tokens, only_eligible, require_some
from policies.ring import first_on_ring
from policies.types import Costs, Counts, Decision, Request, Snapshot

STICKINESS = 8.0
"""Weight of what is not hot."""
HOT_SHARE = 0.5
"""What so large a part of one replica's fair share of the prompts begins with is worth a copy everywhere."""
ROOM_TOKENS = 6144.0
"""More than so many tokens an engine does not need to have at hand: three of vLLM's steps. Beyond it requests
wait in the router, which can put short ones first."""
TIE_TOKENS = 128.0
"""Candidates whose cost is this close to the best are equal, and the ring chooses among them."""
STAY_TOKENS = 256.0
"""How much more load a conversation's last replica may have where nobody holds more of the prompt."""


def warm(request: Request, snapshot: Snapshot) -> Decision:
    """Least added work, ties by the ring; for caches that cannot be seen, the ring with bounded loads."""
    require_some(int(snapshot.eligible.sum()))
    if not snapshot.caches_seen:
        return consistent_hash(request, snapshot)
    load = load_in_tokens(snapshot) * snapshot.pace
    uncached = request.prompt_tokens - snapshot.cached_tokens
    own_uncached = np.minimum(uncached, request.prompt_tokens - request.opening_tokens)
    heat = snapshot.share * snapshot.eligible.sum() / HOT_SHARE
    weight = STICKINESS * max(0.0, 1 - heat)
    costs = only_eligible(load + (uncached + weight * own_uncached) * snapshot.pace, snapshot)

    held = np.where(snapshot.eligible, snapshot.cached_tokens, 0)
    most = held.max()
    if _stays(snapshot, held, load):
        return Decision(snapshot.home, "warm" if most else "home", costs, ROOM_TOKENS)
    row = first_on_ring(snapshot.replicas, request.conversation_key, costs <= costs.min() + TIE_TOKENS)
    reason = "cold" if not most else "warm" if held[row] == most else "diverted"
    return Decision(row, reason, costs, ROOM_TOKENS)


def _stays(snapshot: Snapshot, held: Counts, load: Costs) -> bool:
    home = snapshot.home
    return bool(
        home >= 0
        and snapshot.eligible[home]
        and held[home] == held.max()
        and load[home] <= load[snapshot.eligible].min() + STAY_TOKENS
    )
