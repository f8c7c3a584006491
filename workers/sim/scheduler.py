"""Continuous batching with chunked prefill, in real time: what each engine step computes, and for how long.

`Scheduler` is pure and follows vLLM's v1 scheduler: running requests first, then waiting ones while the
step's token budget lasts; when blocks run out, the youngest running request gives up its own and waits again.
`StepLoop` is the engine's one task: it sleeps for as long as the step would take on an accelerator.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from workers.sim.block_manager import BlockManager, Event, TokenChain

MAX_LAG_S = 0.25
"""A step starts when the one before it should have ended, unless the event loop is later than this."""


class RequestTooLargeError(Exception):
    """A request that would not fit into an empty cache."""


@dataclass(slots=True, eq=False)
class SimRequest:
    """One sequence to generate. ``deliver`` gets the text of each token and whether it is the last."""

    chain: TokenChain
    max_tokens: int
    answer: Iterator[tuple[int, str]]
    deliver: Callable[[str, bool], None]
    num_prompt_tokens: int = field(init=False)
    num_computed: int = 0
    num_generated: int = 0
    num_hit_tokens: int | None = None
    """Prompt tokens found in the cache at the first admission; None until then."""
    finished: bool = False

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.chain.tokens)

    @property
    def num_uncomputed(self) -> int:
        """Tokens known but not computed: the rest of the prompt, or the token sampled last."""
        return len(self.chain.tokens) - self.num_computed


@dataclass(slots=True)
class Counters:
    """Totals since the engine started, as its metrics report them."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class Step:
    """The work of one engine step: how many tokens of which request."""

    parts: list[tuple[SimRequest, int]]
    num_prefill_tokens: int = 0
    num_decoding: int = 0


class Scheduler:
    """Decides what each step computes. Nothing here waits or knows the time."""

    def __init__(self, blocks: BlockManager, max_num_seqs: int, max_batched_tokens: int) -> None:
        self.blocks = blocks
        self.waiting: deque[SimRequest] = deque()
        self.running: list[SimRequest] = []
        self.counters = Counters()
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.waiting or self.running)

    def check_fits(self, num_prompt_tokens: int, max_tokens: int) -> None:
        """Raise `RequestTooLargeError` for what could never run; everything else eventually does."""
        needed = self.blocks.num_blocks_for(num_prompt_tokens + max_tokens - 1)
        if needed > self.blocks.num_blocks:
            raise RequestTooLargeError(f"needs {needed} KV blocks, the cache has {self.blocks.num_blocks}")

    def add(self, request: SimRequest) -> None:
        """Queue a request. Raises `RequestTooLargeError`."""
        self.check_fits(request.num_prompt_tokens, request.max_tokens)
        self.waiting.append(request)

    def cancel(self, request: SimRequest) -> None:
        """Forget a request and free its blocks, now. Harmless when it has finished."""
        if request.finished:
            return
        request.finished = True
        if request in self.running:
            self.running.remove(request)
            self.blocks.free(request.chain)
        else:
            self.waiting.remove(request)

    def schedule(self) -> Step:
        """Choose the next step's work and hold its blocks."""
        step = Step([])
        preemptions = self.counters.preemptions
        budget = self._schedule_running(step, self._max_batched_tokens)
        if self.counters.preemptions == preemptions:
            self._admit_waiting(step, budget)
        return step

    def complete(self, step: Step) -> None:
        """Account for a computed step: requests whose tokens are all computed get their next one."""
        for request, num_tokens in step.parts:
            if request.finished:
                continue
            request.num_computed += num_tokens
            if request.num_uncomputed == 0:
                self._append_token(request)

    def _schedule_running(self, step: Step, budget: int) -> int:
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            num_tokens = min(request.num_uncomputed, budget)
            if not self._grow_or_preempt(request, request.num_computed + num_tokens):
                break
            self._plan(step, request, num_tokens)
            budget -= num_tokens
            index += 1
        return budget

    def _grow_or_preempt(self, request: SimRequest, num_tokens: int) -> bool:
        """Hold blocks for a running request; False when it had to be preempted itself."""
        while not self.blocks.grow(request.chain, num_tokens):
            victim = self.running.pop()
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, victim: SimRequest) -> None:
        self.blocks.free(victim.chain)
        victim.num_computed = 0
        self.waiting.appendleft(victim)
        self.counters.preemptions += 1

    def _admit_waiting(self, step: Step, budget: int) -> None:
        while self.waiting and budget > 0 and len(self.running) < self._max_num_seqs:
            request = self.waiting[0]
            hits = self.blocks.find_hits(request.chain)
            num_hit_tokens = len(hits) * self.blocks.block_size
            num_tokens = min(len(request.chain.tokens) - num_hit_tokens, budget)
            if not self.blocks.grow(request.chain, num_hit_tokens + num_tokens, hits):
                break
            self.running.append(self.waiting.popleft())
            request.num_computed = num_hit_tokens
            self._count_admission(request, num_hit_tokens)
            self._plan(step, request, num_tokens)
            budget -= num_tokens

    def _count_admission(self, request: SimRequest, num_hit_tokens: int) -> None:
        if request.num_hit_tokens is not None:
            return
        request.num_hit_tokens = num_hit_tokens
        self.counters.queried_tokens += request.num_prompt_tokens
        self.counters.hit_tokens += num_hit_tokens

    def _plan(self, step: Step, request: SimRequest, num_tokens: int) -> None:
        """Add to a step. Blocks can be hit as soon as they are planned: later steps come after this one."""
        self.blocks.commit(request.chain, request.num_computed + num_tokens)
        step.parts.append((request, num_tokens))
        if request.num_generated and request.num_uncomputed == 1:
            step.num_decoding += 1
        else:
            step.num_prefill_tokens += num_tokens

    def _append_token(self, request: SimRequest) -> None:
        token, text = next(request.answer)
        request.chain.tokens.append(token)
        request.num_generated += 1
        self.counters.generated_tokens += 1
        if request.num_generated == request.max_tokens:
            request.finished = True
            self.running.remove(request)
            self.blocks.free(request.chain)
        request.deliver(text, request.finished)

    def check_integrity(self) -> None:
        """Raise `CacheIntegrityError` unless exactly the running requests hold blocks."""
        self.blocks.check_integrity(request.chain for request in self.running)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long a step takes on the simulated accelerator."""

    base_s: float
    prefill_tokens_per_s: float
    decode_s: float

    def duration(self, step: Step) -> float:
        """Seconds for one step."""
        prefill = step.num_prefill_tokens / self.prefill_tokens_per_s
        return self.base_s + prefill + self.decode_s * step.num_decoding


class StepLoop:
    """Runs a scheduler's steps in real time and hands each step's cache events to ``publish`` together."""

    def __init__(
        self,
        scheduler: Scheduler,
        times: StepTimes,
        events: list[Event],
        publish: Callable[[list[Event]], None],
    ) -> None:
        self._scheduler = scheduler
        self._times = times
        self._events = events
        self._publish = publish
        self._work = asyncio.Event()

    def add(self, request: SimRequest) -> None:
        """Queue a request for the next step. Raises `RequestTooLargeError`."""
        self._scheduler.add(request)
        self._work.set()

    async def run(self) -> None:
        """Step for ever; idle without cost while there are no requests."""
        clock = asyncio.get_running_loop().time
        end = clock()
        while True:
            if not self._scheduler.has_work:
                self._work.clear()
                await self._work.wait()
                end = clock()
            step = self._scheduler.schedule()
            end = max(end, clock() - MAX_LAG_S) + self._times.duration(step)
            await asyncio.sleep(max(0.0, end - clock()))
            self._scheduler.complete(step)
            self._flush()

    def _flush(self) -> None:
        if self._events:
            self._publish(self._events[:])
            self._events.clear()
