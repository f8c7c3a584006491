"""Continuous batching: what is computed when, what waits, and that requests end with their blocks free."""

import asyncio
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sim.block_manager import BlockManager, TokenChain
from workers.sim.scheduler import RequestTooLargeError, Scheduler, SimRequest, StepLoop, StepTimes

BLOCK = 4


def make(num_blocks=64, max_num_seqs=8, max_batched_tokens=16):
    """Build a scheduler and the list of its cache events."""
    events = []
    blocks = BlockManager(num_blocks, BLOCK, hash_seed=1, emit=events.append)
    return Scheduler(blocks, max_num_seqs, max_batched_tokens), events


def request(tokens, max_tokens=1, deliver=lambda text, is_last: None):
    """Build a request whose answer is the tokens 1000, 1001, …"""
    answer = ((token, f" {token}") for token in itertools.count(1000))
    return SimRequest(TokenChain(list(tokens)), max_tokens, answer, deliver)


def run_step(scheduler):
    """Run one step; returns how many tokens were computed for each request."""
    step = scheduler.schedule()
    scheduler.complete(step)
    scheduler.check_integrity()
    return [num_tokens for _, num_tokens in step.parts]


def run_all(scheduler, limit=10_000):
    """Run until nothing is left to do; returns the number of steps."""
    for count in range(limit):
        if not scheduler.has_work:
            return count
        assert run_step(scheduler), "a step without work would never end"
    raise AssertionError("the scheduler does not finish")


def test_long_prompts_are_prefilled_in_chunks():
    """A prompt beyond the step's token budget takes several steps, and its answer starts after the last."""
    scheduler, _ = make(max_batched_tokens=16)
    job = request(range(40), max_tokens=2)
    scheduler.add(job)
    assert [run_step(scheduler) for _ in range(3)] == [[16], [16], [8]]
    assert job.num_generated == 1
    assert run_step(scheduler) == [1]
    assert job.finished


def test_decoding_and_prefill_share_a_step():
    """A newcomer's prefill fills the budget that decoding requests leave."""
    scheduler, _ = make(max_batched_tokens=16)
    scheduler.add(request(range(8), max_tokens=9))
    run_step(scheduler)
    scheduler.add(request(range(100, 130), max_tokens=9))
    step = scheduler.schedule()
    assert [num_tokens for _, num_tokens in step.parts] == [1, 15]
    assert (step.num_decoding, step.num_prefill_tokens) == (1, 15)


def test_batch_limit_makes_requests_wait():
    """No more than ``max_num_seqs`` requests run; the others follow in order."""
    scheduler, _ = make(max_num_seqs=2)
    jobs = [request(range(10 * i, 10 * i + 4), max_tokens=2) for i in range(3)]
    for job in jobs:
        scheduler.add(job)
    run_step(scheduler)
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 1)
    run_all(scheduler)
    assert all(job.finished for job in jobs)


def test_hits_are_known_at_admission():
    """A repeated prompt computes only what the cache does not hold, and the counters say so."""
    scheduler, _ = make()
    scheduler.add(request(range(16)))
    run_all(scheduler)
    again = request(range(16))
    scheduler.add(again)
    assert run_step(scheduler) == [4]
    assert again.num_hit_tokens == 12
    assert (scheduler.counters.queried_tokens, scheduler.counters.hit_tokens) == (32, 12)


def test_generated_tokens_are_cached_except_the_last():
    """The next turn hits the answer's full blocks; the last token of an answer was never computed."""
    scheduler, _ = make()
    first = request(range(8), max_tokens=8)
    scheduler.add(first)
    run_all(scheduler)
    turn = request([*first.chain.tokens, 1, 2, 3])
    scheduler.add(turn)
    run_step(scheduler)
    assert len(first.chain.tokens) == 16
    assert turn.num_hit_tokens == 12


def test_cancelling_frees_blocks_at_once():
    """A cancelled request holds nothing any more, wherever it was, and cancelling twice is harmless."""
    scheduler, _ = make(max_num_seqs=1)
    running, waiting = request(range(20), max_tokens=9), request(range(20), max_tokens=9)
    scheduler.add(running)
    scheduler.add(waiting)
    step = scheduler.schedule()
    scheduler.cancel(running)
    scheduler.cancel(waiting)
    scheduler.cancel(running)
    assert scheduler.blocks.usage == 0
    assert not scheduler.has_work
    scheduler.complete(step)
    scheduler.check_integrity()


def test_preempted_requests_finish_with_the_same_answer():
    """When the cache is too small for all, the youngest gives way, and still delivers each token once."""
    scheduler, _ = make(num_blocks=8)
    texts = [[], []]
    for index, text in enumerate(texts):
        scheduler.add(
            request(
                range(100 * index, 100 * index + 8), 16, lambda piece, is_last, text=text: text.append(piece)
            )
        )
    run_all(scheduler)
    assert scheduler.counters.preemptions > 0
    assert texts[0] == texts[1] == [f" {token}" for token in range(1000, 1016)]


def test_impossible_requests_are_refused():
    """What would not fit into an empty cache is refused; what just fits is not."""
    scheduler, _ = make(num_blocks=4)
    with pytest.raises(RequestTooLargeError, match="needs 5 KV blocks, the cache has 4"):
        scheduler.add(request(range(16), max_tokens=2))
    scheduler.add(request(range(16), max_tokens=1))
    run_all(scheduler)


@given(
    jobs=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(0, 2)), min_size=1, max_size=12
    ),
    num_blocks=st.integers(13, 30),
    max_num_seqs=st.integers(1, 5),
    cancelled=st.sets(st.integers(0, 11)),
)
def test_any_load_finishes(jobs, num_blocks, max_num_seqs, cancelled):
    """Whatever arrives, every request that is not cancelled ends, and the cache is whole after each step."""
    scheduler, _ = make(num_blocks, max_num_seqs)
    requests = [request(range(kind, kind + length), answer) for length, answer, kind in jobs]
    for index, job in enumerate(requests):
        scheduler.add(job)
        run_step(scheduler)
        if index in cancelled:
            scheduler.cancel(job)
    run_all(scheduler)
    assert scheduler.blocks.usage == 0
    for index, job in enumerate(requests):
        assert job.num_generated == job.max_tokens or index in cancelled


def test_step_time_follows_its_work():
    """A step costs its base, its prefill at the given rate, and a little per decoding request."""
    scheduler, _ = make(max_batched_tokens=100)
    scheduler.add(request(range(50), max_tokens=2))
    times = StepTimes(base_s=0.01, prefill_tokens_per_s=1000, decode_s=0.5)
    step = scheduler.schedule()
    assert times.duration(step) == pytest.approx(0.06)
    scheduler.complete(step)
    assert times.duration(scheduler.schedule()) == pytest.approx(0.51)


async def test_loop_takes_real_time_and_publishes_once_per_step():
    """Steps last as long as they say, and each step's events leave in one batch when it ends."""
    scheduler, events = make(max_batched_tokens=16)
    batches = []
    loop = StepLoop(scheduler, StepTimes(0.005, 1000, 0), events, batches.append)
    done = asyncio.Event()
    job = request(range(32), 1, lambda text, is_last: done.set())
    task = asyncio.create_task(loop.run())
    started = time.perf_counter()
    loop.add(job)
    await done.wait()
    elapsed = time.perf_counter() - started
    await asyncio.sleep(0)
    task.cancel()
    assert 0.040 < elapsed < 0.2
    assert [len(batch[0].block_hashes) for batch in batches] == [4, 4]
