"""The default: send a request where it makes the least work, for itself and for everybody behind it.

``cost = queued + REQUEST_TOKENS x running + uncached + price x lost``, in tokens at the replica's pace;
``lost`` is what somebody holds of the prompt beyond its opening and this replica does not.

A conversation's own history has a high price: computing it again delays everybody queued behind, the more the
busier the fleet is, and evicts what others need. What many prompts begin with has none, on the contrary: a
further copy of it is an investment that the next ones use, where nobody waits meanwhile. In between the price
falls with its popularity, which is the share of what the prompts have in common, relative to a replica's fair
share. Decisions 8, 61 and 63 derive it, docs/benchmarks.md has the sweeps.
"""

import numpy as np

from policies.baselines import consistent_hash
from policies.choice import REQUEST_TOKENS
from policies.compiled import COSTS, COUNTS, MASK, kernel
from policies.ring import first_on_ring
from policies.types import Costs, Counts, Decision, Mask, NoReplicaError, Request, Snapshot

STICKINESS = 8.0
"""Price of a lost token that nobody else has in common, in a busy fleet."""
CALM_STICKINESS = 3.0
"""The same where nothing is queued."""
QUEUED_TOKENS = 1000.0
"""Tokens queued on each replica, in the mean, that raise this price by one."""
DELAY = 4.0
"""What a token queued on a replica itself weighs, of those, where a copy is an investment."""
POPULAR_SHARE = 0.25
"""What prompts have in common is popular when so large a part of a replica's fair share goes on there."""
ROOM_TOKENS = 6144.0
"""More than so many tokens an engine does not need to have at hand: three of vLLM's steps. Beyond it requests
wait in the router, which can put short ones first."""
TIE_TOKENS = 128.0
"""Candidates whose cost is this close to the best are equal, and the ring chooses among them."""
STAY_TOKENS = 256.0
"""How much more load a conversation's last replica may have where nobody holds more of the prompt."""


def warm(request: Request, snapshot: Snapshot) -> Decision:
    """Least added work, ties by the ring; for caches that cannot be seen, the ring with bounded loads."""
    num_eligible = int(np.count_nonzero(snapshot.eligible))
    if not num_eligible:
        raise NoReplicaError
    if not snapshot.caches_seen:
        return consistent_hash(request, snapshot)
    costs, load = np.empty((2, len(snapshot.replicas)))
    most, least, least_load = _weigh(
        request.prompt_tokens,
        request.opening_tokens,
        snapshot.share * num_eligible / POPULAR_SHARE,
        STICKINESS,
        CALM_STICKINESS,
        QUEUED_TOKENS,
        DELAY,
        REQUEST_TOKENS,
        snapshot.eligible,
        snapshot.cached_tokens,
        snapshot.queued_tokens,
        snapshot.running,
        snapshot.pace,
        costs,
        load,
    )
    last_replica = snapshot.last_replica
    stays = (
        last_replica >= 0
        and snapshot.eligible.item(last_replica)
        and snapshot.cached_tokens.item(last_replica) == most
    )
    if stays and load.item(last_replica) <= least_load + STAY_TOKENS:
        return Decision(last_replica, "warm" if most else "last replica", costs, ROOM_TOKENS)
    row = first_on_ring(snapshot.replicas, request.conversation_key, costs <= least + TIE_TOKENS)
    reason = "cold" if not most else "warm" if snapshot.cached_tokens.item(row) == most else "diverted"
    return Decision(row, reason, costs, ROOM_TOKENS)


@kernel(
    f"Tuple((int64, float64, float64))(int64, int64, {'float64, ' * 5} int64, {MASK}, "
    f"{COUNTS}, {COUNTS}, {COUNTS}, {COSTS}, float64[::1], float64[::1])"
)
def _weigh(
    prompt_tokens: int,
    opening_tokens: int,
    popularity: float,
    stickiness: float,
    calm_stickiness: float,
    queued_tokens: float,
    delay: float,
    request_tokens: int,
    eligible: Mask,
    cached: Counts,
    queued: Counts,
    running: Counts,
    pace: Costs,
    costs: Costs,
    load: Costs,
) -> tuple[int, float, float]:
    """Write what each replica costs and its load; both are infinite for one that is not eligible.

    Returns the most tokens that an eligible one holds, the lowest cost and the lowest load. Constants are
    arguments, since compiled code would keep the values that they once had.
    """
    most, least, least_load = 0, np.inf, np.inf
    num_eligible, all_queued = 0, 0
    for row in range(len(costs)):
        if eligible[row]:
            most = max(most, cached[row])
            num_eligible += 1
            all_queued += queued[row]
    waiting = all_queued / num_eligible / queued_tokens
    if popularity < 1:
        price = min(stickiness, calm_stickiness + waiting) * (1 - popularity)
        delay = 0.0
    else:  # what everybody uses: a copy is an investment, and delays those who wait there
        price = 1 / popularity - 1
    opening = opening_tokens if most > opening_tokens else 0
    for row in range(len(costs)):
        costs[row] = load[row] = np.inf
        if eligible[row]:
            lost = most - max(cached[row], opening)
            load[row] = (queued[row] + request_tokens * running[row]) * pace[row]
            row_price = price + min(delay * queued[row] / queued_tokens, waiting)
            costs[row] = load[row] + (prompt_tokens - cached[row] + row_price * lost) * pace[row]
            least, least_load = min(least, costs[row]), min(least_load, load[row])
    return most, least, least_load
