"""The workload under which decisions are timed."""

from loadtest.studies.decisions import BLOCK_SIZE, MAX_HOLDERS, OPENING_BLOCKS, build, measure
from policies.catalog import POLICIES


def small(seed=1):
    """A few replicas with a few conversations each."""
    return build(POLICIES["warm"], num_replicas=5, blocks=400, prompt_tokens=2_000, seed=seed)


def test_opening_is_everywhere_and_histories_are_on_a_few():
    """What a fleet that routes well holds, and about as many blocks as asked for."""
    workload = small()
    index = workload.fleet.index
    assert (index.matched_blocks(workload.opening) == OPENING_BLOCKS).all()
    for history in workload.histories:
        depths = index.matched_blocks(workload.opening + history) - OPENING_BLOCKS
        assert depths.max() == len(history)
        assert 1 <= (depths > 0).sum() <= MAX_HOLDERS
    held = sum(index.num_owned(replica.slot) for replica in workload.fleet.replicas.values())
    assert 5 * 400 <= held <= 5 * 400 + 400


def test_the_same_seed_makes_the_same_requests():
    """Two runs can be compared; another seed is another workload."""
    first, second, other = (
        [(prompt.keys.tolist(), prompt.conversation_key) for prompt in ten_prompts]
        for ten_prompts in (
            [workload.prompt() for _ in range(10)] for workload in (small(), small(), small(seed=2))
        )
    )
    assert first == second != other
    assert {len(keys) for keys, _ in first} == {2_000 // BLOCK_SIZE}


def test_every_part_is_measured():
    """As many times as asked for; the fleet's conservation laws hold at the end."""
    workload = small()
    seconds = measure(workload, decisions=20, joins=2)
    assert {name: len(part) for name, part in seconds.items()} == {
        **dict.fromkeys(("lookup", "snapshot", "policy", "book", "decision", "release"), 20),
        "join": 2,
    }
    assert workload.fleet.open_bookings > 0
    assert len(workload.fleet.replicas) == 7
