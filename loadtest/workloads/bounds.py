"""What a workload would find in one cache as large as all together.

No strict bound: another order of eviction than LRU, or of requests, can find a little more.
"""

from collections import OrderedDict
from collections.abc import Iterator

from loadtest.simulator.workload import Turn, Workload

SECONDS_TO_FIRST_TOKEN = 0.2
SECONDS_PER_TOKEN = 0.03
"""An engine step at about 70% load: 10 ms, and three times as much for prompts and the batch."""


def estimated_order(workload: Workload) -> list[tuple[float, Turn]]:
    """All requests with their estimated start, in that order.

    A first turn starts after its session's start and its pause. A later turn depends on the fleet: every
    answer is taken to last `SECONDS_TO_FIRST_TOKEN`, and `SECONDS_PER_TOKEN` for each of its tokens.
    """
    starts = []
    for session in workload.sessions:
        now = session.start
        for turn in session.turns:
            now += turn.think_seconds
            starts.append((now, turn))
            now += SECONDS_TO_FIRST_TOKEN + SECONDS_PER_TOKEN * turn.output_tokens
    return sorted(starts, key=lambda start: start[0])


def pooled_hits(workload: Workload, total_blocks: int | None) -> Iterator[tuple[float, Turn, int]]:
    """Every request's estimated start, itself, and how many of its prompt tokens are in one cache of
    ``total_blocks`` blocks (None: of any size).

    The rules are an engine's: only full blocks, at most ``prompt_tokens - 1`` tokens of a prompt, blocks of
    prompt and answer are kept, the least recently used is evicted, of one request the last block first.
    Requests take no time here: an answer can be hit by the next request, and no block is held.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    for start, turn in estimated_order(workload):
        keys = turn.keys
        # Keys are chained, and heads stay longer than tails: what follows the first missing block is missing.
        num_held = next((place for place, key in enumerate(keys) if key not in cache), len(keys))
        hit_blocks = min(num_held, (turn.prompt_tokens - 1) // workload.block_size)
        yield start, turn, hit_blocks * workload.block_size
        cache.update(dict.fromkeys(reversed(keys[num_held:])))
        for key in reversed(keys[:num_held]):
            cache.move_to_end(key)
        while total_blocks is not None and len(cache) > total_blocks:
            cache.popitem(last=False)


def pooled_hit_rate(workload: Workload, total_blocks: int | None) -> float:
    """Share of all prompt tokens that one cache of ``total_blocks`` blocks holds when they are asked for, or
    one of any size (None). No routing over caches of that total size can be expected to find more.
    """
    hit_tokens = prompt_tokens = 0
    for _, turn, hits in pooled_hits(workload, total_blocks):
        hit_tokens += hits
        prompt_tokens += turn.prompt_tokens
    return hit_tokens / prompt_tokens if prompt_tokens else 0.0
