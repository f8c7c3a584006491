"""Rules of other routers that follow the cache first, and look at load only past a threshold.

Each has its project's defaults. Three things are better here than there: all rules see the tokens that an
engine really holds, where most projects guess from texts sent before; they see all routers' load at once;
and where their code takes the first of equals or draws lots, the ring decides. Reasons: ``warm`` follows the
cache, ``diverted`` leaves it because of load, ``cold`` found too little to follow.
"""

import numpy as np

from policies.choice import choose, load_in_tokens, require_some, uncached_tokens
from policies.types import Counts, Decision, Request, Snapshot


def longest_prefix(request: Request, snapshot: Snapshot) -> Decision:
    """Most cached tokens, ties to the least load.

    Source: vllm-project/production-stack, ``PrefixAwareRouter`` in
    ``src/vllm_router/routers/routing_logic.py``; it draws lots where several match equally.
    """
    reason = "warm" if snapshot.cached_tokens[snapshot.eligible].any() else "cold"
    return choose(request, snapshot, reason, uncached_tokens(request, snapshot), load_in_tokens(snapshot))


BALANCE_ABS_THRESHOLD = 64
BALANCE_REL_THRESHOLD = 1.5
CACHE_THRESHOLD = 0.3


def vllm_router_cache_aware(request: Request, snapshot: Snapshot) -> Decision:
    """Fewest requests while they are unbalanced, else the longest match if it is long enough.

    Unbalanced: ``most - fewest > balance_abs_threshold`` (64) and ``most > balance_rel_threshold`` (1.5)
    ``x fewest``. Long enough: more than ``cache_threshold`` (0.3) of the prompt. Else fewest requests.
    Source: vllm-project/router, ``src/policies/cache_aware.rs``; the defaults of its command line,
    ``py_src/vllm_router/router_args.py``.
    """
    require_some(int(snapshot.eligible.sum()))
    if _unbalanced(snapshot.running[snapshot.eligible]):
        return choose(request, snapshot, "diverted", snapshot.running)
    if snapshot.cached_tokens[snapshot.eligible].max() <= CACHE_THRESHOLD * request.prompt_tokens:
        return choose(request, snapshot, "cold", snapshot.running)
    return choose(request, snapshot, "warm", uncached_tokens(request, snapshot), snapshot.running)


def smg_cache_aware(request: Request, snapshot: Snapshot) -> Decision:
    """Fewest requests while they are unbalanced, else the longest match, however short.

    Unbalanced as for `vllm_router_cache_aware`, with the same defaults (64, 1.5). With KV events SMG knows
    no ``cache_threshold``: any match counts, ties go to fewest requests. (Its last tie-break, the smallest
    tree, is the ring here. Without events its rule is vllm-router's.)
    Source: lightseekorg/smg, ``model_gateway/src/policies/cache_aware.rs`` (event-driven), defaults in
    ``docs/concepts/routing/cache-aware.md``.
    """
    require_some(int(snapshot.eligible.sum()))
    if _unbalanced(snapshot.running[snapshot.eligible]):
        return choose(request, snapshot, "diverted", snapshot.running)
    reason = "warm" if snapshot.cached_tokens[snapshot.eligible].any() else "cold"
    return choose(request, snapshot, reason, uncached_tokens(request, snapshot), snapshot.running)


def _unbalanced(running: Counts) -> bool:
    most, fewest = running.max(), running.min()
    return bool(most - fewest > BALANCE_ABS_THRESHOLD and most > BALANCE_REL_THRESHOLD * fewest)


IMBALANCE_FACTOR = 2.0
IMBALANCE_MIN_GAP = 8
STANDARD_DEVIATION_FACTOR = 1


def aibrix_prefix_cache(request: Request, snapshot: Snapshot) -> Decision:
    """The longest match among replicas that are not busier than usual, else fewest requests.

    Not busier than usual: at most mean + 1 standard deviation of requests. When the busiest has at least 8
    requests (``load_imbalance_min_gap``) more than the idlest and, of three replicas or more, over 2
    (``load_imbalance_factor``) times the others' mean + 1, only the idlest count.
    Source: vllm-project/aibrix, ``pkg/plugins/gateway/algorithms/prefix_cache.go``.
    """
    require_some(int(snapshot.eligible.sum()))
    running = snapshot.running[snapshot.eligible]
    most, fewest, size = int(running.max()), int(running.min()), running.size
    others = (int(running.sum()) - most) / max(size - 1, 1)
    skewed = most - fewest >= IMBALANCE_MIN_GAP and (size < 3 or most > IMBALANCE_FACTOR * (others + 1))
    deviation = float(np.std(running, ddof=1)) if size > 1 else 0.0
    bound = fewest if skewed else float(running.mean()) + STANDARD_DEVIATION_FACTOR * deviation
    matched = snapshot.eligible & (snapshot.cached_tokens > 0)
    calm = matched & (snapshot.running <= bound)
    if not calm.any():
        return choose(request, snapshot, "diverted" if matched.any() else "cold", snapshot.running)
    uncached = uncached_tokens(request, snapshot)
    return choose(request, snapshot, "warm", uncached, snapshot.running, among=calm)


MATCH_RATE_THRESHOLD = 0.1


def ray_serve_prefix_aware(request: Request, snapshot: Snapshot) -> Decision:
    """The longest match if it is a tenth of the prompt, whatever the load; else fewest requests.

    Ties go to fewest requests. Its ``imbalanced_threshold``, above which load alone would decide, is infinite
    by default. Without a match it takes the replica whose tree is smallest, which nobody else keeps.
    Source: ray-project/ray 2.60, ``PrefixCacheAffinityRouter`` in
    ``python/ray/llm/_internal/serve/routing_policies/prefix_aware/prefix_aware_router.py``.
    """
    require_some(int(snapshot.eligible.sum()))
    if snapshot.cached_tokens[snapshot.eligible].max() < MATCH_RATE_THRESHOLD * request.prompt_tokens:
        return choose(request, snapshot, "cold", snapshot.running)
    return choose(request, snapshot, "warm", uncached_tokens(request, snapshot), snapshot.running)


KV_AWARE_THRESHOLD = 2000


def production_stack_kv_aware(request: Request, snapshot: Snapshot) -> Decision:
    """The longest match if it leaves at most 2,000 tokens, else the conversation's place on the ring.

    The ring is without a bound on load. Source: vllm-project/production-stack, ``KvawareRouter`` in
    ``src/vllm_router/routers/routing_logic.py``, ``kv_aware_threshold`` 2000. There the first of several
    holders is taken; here the one with the longest match, ties to the least load.
    """
    require_some(int(snapshot.eligible.sum()))
    uncached = uncached_tokens(request, snapshot)
    most = int(snapshot.cached_tokens[snapshot.eligible].max())
    if most and most >= request.prompt_tokens - KV_AWARE_THRESHOLD:
        return choose(request, snapshot, "warm", uncached, load_in_tokens(snapshot))
    return choose(request, snapshot, "cold", np.zeros_like(uncached))


AFFINITY_THRESHOLD = 0.80
MAX_PENALTY_TOKENS = 18.0 * 15_928
"""``maxTTFTPenaltyMs`` (18,000) at ``peakPrefillThroughput`` (15,928 tokens/s)."""


def llm_d(request: Request, snapshot: Snapshot) -> Decision:
    """Least queued and uncached tokens among the replicas that hold 80% of the prompt, if there are any.

    When all of those have 286,704 queued tokens more than the idlest of the others, all replicas count.
    Source: llm-d/llm-d, ``guides/optimized-baseline``: ``prefix-cache-affinity-filter`` before
    ``token-load-scorer`` (llm-d/llm-d-router, ``pkg/epp/framework/plugins/scheduling/``). llm-d asks for a
    throughput measured on one's own hardware; this is the built-in one, of a 32B model on two H100.
    """
    require_some(int(snapshot.eligible.sum()))
    costs = snapshot.queued_tokens + uncached_tokens(request, snapshot)
    holds = snapshot.cached_tokens >= AFFINITY_THRESHOLD * request.prompt_tokens
    sticky, others = snapshot.eligible & holds, snapshot.eligible & ~holds
    if not sticky.any():
        return choose(request, snapshot, "cold", costs)
    queued = snapshot.queued_tokens
    if others.any() and queued[sticky].min() - queued[others].min() > MAX_PENALTY_TOKENS:
        return choose(request, snapshot, "diverted", costs)
    return choose(request, snapshot, "warm", costs, among=sticky)


HIGH_LOAD_THRESHOLD = 1.5


def preble(request: Request, snapshot: Snapshot) -> Decision:
    """E2: exploit the longest match when it is longer than the rest of the prompt, else explore by cost.

    ``cost = load + uncached``; a holder whose cost is over 1.5 (``HIGH_LOAD_THRESHOLD``) times the least one
    passes the request on. Source: Srivatsa et al., "Preble: Efficient Distributed Prompt Scheduling
    for LLM Serving", ICLR 2025 (arXiv 2407.00023); WukLab/preble,
    ``multi_node/global_scheduler_with_time.py``.

    Simplified: load is what is booked now, in tokens, not the time spent in the last three minutes; Preble
    adds what evictions cost, which a snapshot does not hold; instead of moving whole prefixes from the
    heaviest GPU to the lightest one afterwards, single requests are passed on; prefill and decode are not
    balanced apart.
    """
    require_some(int(snapshot.eligible.sum()))
    costs = load_in_tokens(snapshot) + uncached_tokens(request, snapshot)
    explored = choose(request, snapshot, "cold", costs)
    longest = int(snapshot.cached_tokens[snapshot.eligible].max())
    if longest <= request.prompt_tokens - longest:
        return explored
    holders = snapshot.eligible & (snapshot.cached_tokens == longest)
    exploited = choose(request, snapshot, "warm", costs, among=holders)
    if costs[exploited.row] > HIGH_LOAD_THRESHOLD * costs[explored.row]:
        return Decision(explored.row, "diverted", explored.costs)
    return exploited
