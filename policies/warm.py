"""The default: send a request where it makes the least work, for itself and for everybody behind it.

``cost = queued + REQUEST_TOKENS x running + uncached + price x lost``, in tokens at the replica's pace;
``lost`` is what somebody holds of the prompt beyond its opening and this replica does not.

A conversation's own history has a high price: computing it again delays everybody queued behind, and evicts
what others need. What many prompts begin with has none, on the contrary: a further copy of it is an
investment that the next ones use. In between the price falls with how hot it is. ARCHITECTURE.md derives it,
docs/benchmarks.md has the sweeps.
"""

import numpy as np

from policies.baselines import consistent_hash
from policies.choice import load_in_tokens, only_eligible, require_some
from policies.ring import first_on_ring
from policies.types import Decision, Request, Snapshot

STICKINESS = 8.0
"""Price of a lost token that nobody else has in common."""
HOT_SHARE = 0.25
"""What prompts have in common is hot when so large a part of a replica's fair share of them goes on there."""
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
    require_some(num_eligible)
    if not snapshot.caches_seen:
        return consistent_hash(request, snapshot)
    load = only_eligible(load_in_tokens(snapshot) * snapshot.pace, snapshot)
    held = np.where(snapshot.eligible, snapshot.cached_tokens, 0)
    most = held.item(held.argmax())  # for a few replicas several times quicker than held.max()
    opening = request.opening_tokens if most > request.opening_tokens else 0
    lost = most - np.maximum(held, opening)
    uncached = request.prompt_tokens - snapshot.cached_tokens
    price = _price(snapshot.share * num_eligible)
    costs = load + (uncached + price * lost) * snapshot.pace
    home = snapshot.home
    stays = home >= 0 and snapshot.eligible.item(home) and held.item(home) == most
    if stays and load.item(home) <= load.item(load.argmin()) + STAY_TOKENS:
        return Decision(home, "warm" if most else "home", costs, ROOM_TOKENS)
    ties = costs <= costs.item(costs.argmin()) + TIE_TOKENS
    row = first_on_ring(snapshot.replicas, request.conversation_key, ties)
    reason = "cold" if not most else "warm" if held.item(row) == most else "diverted"
    return Decision(row, reason, costs, ROOM_TOKENS)


def _price(part: float) -> float:
    """Of a lost token, beyond computing it: from `STICKINESS` down to -1 for what everybody uses. ``part`` is
    the share of what the prompts have in common, relative to a replica's fair share.
    """
    heat = part / HOT_SHARE
    return STICKINESS * (1 - heat) if heat < 1 else 1 / heat - 1
