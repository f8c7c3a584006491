"""Rules of other routers that weigh cache and load in one number; the lowest one wins.

Each has its project's defaults and sees what `policies.affinity` describes. Block sizes are left out: all
numbers are tokens, and ties go by the ring.
"""

from policies.choice import choose, load_in_tokens, require_some, uncached_tokens
from policies.types import Costs, Counts, Decision, Request, Snapshot


def least_work(request: Request, snapshot: Snapshot) -> Decision:
    """``queued + uncached + REQUEST_TOKENS (64) x running``: the least predicted time to the first token.

    Source: the core of all rules that estimate it, for example Mooncake's (Qin et al., arXiv 2407.00079,
    algorithm 1: time in the queue plus time to compute what is not cached), with tokens for time.
    """
    costs = load_in_tokens(snapshot) + uncached_tokens(request, snapshot)
    return choose(request, snapshot, "least-work", costs)


def lmetric(request: Request, snapshot: Snapshot) -> Decision:
    """``(queued + uncached) x (running + 1)``.

    Source: Zhang et al., "LMetric: Simple is Better - Multiplication May Be All You Need for LLM Request
    Scheduling", arXiv 2603.15202. It has no parameters.
    """
    tokens = snapshot.queued_tokens + uncached_tokens(request, snapshot)
    return choose(request, snapshot, "lmetric", tokens * (snapshot.running + 1))


OVERLAP_SCORE_CREDIT = 1.0
PREFILL_LOAD_SCALE = 1.0


def dynamo(request: Request, snapshot: Snapshot) -> Decision:
    """``prefill_load_scale x (queued + prompt - overlap_score_credit x cached) + active + prompt``.

    The last two are the decode load: tokens held by running requests, and by this one. All weights 1,
    temperature 0.
    Source: ai-dynamo/dynamo, ``docs/components/router/router-concepts.md`` ("Cost Calculation") and
    ``lib/kv-router/src/scheduling/selector/default.rs``. Dynamo counts a block that several running requests
    share once; the snapshot only has their sum.
    """
    prefill = snapshot.queued_tokens + request.prompt_tokens - OVERLAP_SCORE_CREDIT * snapshot.cached_tokens
    decode = snapshot.active_tokens + request.prompt_tokens
    return choose(request, snapshot, "dynamo", PREFILL_LOAD_SCALE * prefill + decode)


PREFIX_WEIGHT = 3.0
QUEUE_WEIGHT = 2.0
KV_UTILIZATION_WEIGHT = 2.0


def llm_d_weighted(request: Request, snapshot: Snapshot) -> Decision:
    """llm-d's scorers for exact caches: 3 x prefix match, 2 x short queue, 2 x free KV cache.

    Source: llm-d, ``guides/precise-prefix-cache-routing`` (weights); llm-d-router,
    ``pkg/epp/framework/plugins/scheduling/scorer/{prefix,queuedepth,kvcacheutilization}``. Scores are turned
    round, so that the lowest wins.

    Simplified: the queue is counted in tokens, not in requests; instead of the share of its cache that a
    replica uses, the tokens of its running requests as a share of the fullest replica's; the fourth scorer,
    which spreads requests without any match, is left to the ring.
    """
    require_some(int(snapshot.eligible.sum()))
    queued, active = snapshot.queued_tokens, snapshot.active_tokens
    shortest = int(queued[snapshot.eligible].min())
    costs = (
        PREFIX_WEIGHT * uncached_tokens(request, snapshot) / max(request.prompt_tokens, 1)
        + QUEUE_WEIGHT * _share(queued - shortest, snapshot)
        + KV_UTILIZATION_WEIGHT * _share(active, snapshot)
    )
    return choose(request, snapshot, "llm-d-weighted", costs)


def _share(counts: Counts, snapshot: Snapshot) -> Costs:
    """Each replica's part of the highest count among those that can be chosen."""
    return counts / max(int(counts[snapshot.eligible].max()), 1)
