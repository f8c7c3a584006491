"""``warm``, and turns of programs wait while there is no room for them in KV memory.

``cost = warm's + (1 + STICKINESS) x evicted``, in tokens; ``evicted`` is what a replica would lose of what
others will soon use again. Where the cheapest replica would lose some, and has others' requests to go on
with, the request waits: its delay costs less than what would have to be computed again, and again.

Where memory suffices for all programs at work, or where conversations do not come back soon, nothing is
evicted that will soon be used, and this is ``warm``. Decision 62 derives it; `loadtest.simulator.ledgers` has
the rules of others.
"""

import numpy as np

from policies.choice import only_eligible
from policies.types import Decision, Request, Snapshot
from policies.warm import STICKINESS, warm


def programs(request: Request, snapshot: Snapshot) -> Decision:
    """Least added work, what is evicted included; or wait for room."""
    decision = warm(request, snapshot)
    outlook = snapshot.outlook
    if outlook is None or outlook.room_tokens[decision.row] >= 0:
        return decision
    evicted = np.maximum(-outlook.room_tokens, 0.0)
    costs = only_eligible(decision.costs + (1 + STICKINESS) * evicted * snapshot.pace, snapshot)
    row = int(costs.argmin())
    if not evicted[row]:
        return Decision(row, "room", costs, decision.room_tokens)
    waits = request.may_wait and outlook.comes_back_soon and bool(snapshot.running[row])
    return Decision(row, "no room", costs, decision.room_tokens, waits)
