"""Continuous batching with chunked prefill: what each engine step computes, and, in real time, for how long.

`Batch` follows vLLM's v1 scheduler: running requests first, then waiting ones while the step's token budget
lasts; when blocks run out, the youngest running request gives up its own and waits again. The simulator in
virtual time uses it too. `StepLoop` is the engine's one task: it sleeps for as long as the step would take on
an accelerator.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from workers.sim.block_manager import Event, TokenChain
from workers.sim.paged_cache import Holding, PagedCache

MAX_LAG_S = 0.25
"""A step starts when the one before it should have ended, unless the event loop is later than this."""


class RequestTooLargeError(Exception):
    """A request that would not fit into an empty cache."""


@dataclass(slots=True, eq=False)
class BatchedRequest:
    """One sequence to generate, as far as a batch must know it."""

    holding: Holding
    num_prompt_tokens: int
    max_tokens: int
    """Tokens of the answer, at least 1."""
    num_tokens: int = field(init=False)
    """Prompt, and answer so far."""
    num_computed: int = 0
    num_hit_tokens: int | None = None
    """Prompt tokens found in the cache at the first admission; None until then."""

    def __post_init__(self) -> None:
        self.num_tokens = self.num_prompt_tokens

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return self.num_tokens - self.num_prompt_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether all but the token sampled last is computed, so that the next step computes that one."""
        return self.num_tokens > self.num_prompt_tokens and self.num_computed == self.num_tokens - 1


@dataclass(slots=True)
class Counters:
    """Totals since the engine started, as its metrics report them."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0


R = TypeVar("R", bound=BatchedRequest)


class Batch(Generic[R]):
    """The requests of an engine, and what each step computes. Nothing here waits or knows the time."""

    def __init__(self, blocks: PagedCache[Any], max_num_seqs: int, max_batched_tokens: int) -> None:
        self.blocks = blocks
        self.waiting: deque[R] = deque()
        self.running: list[R] = []
        self.counters = Counters()
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.waiting or self.running)

    def fits(self, num_prompt_tokens: int, max_tokens: int) -> bool:
        """Whether a request can ever run; what can, eventually does."""
        return self.blocks.num_blocks_for(num_prompt_tokens + max_tokens - 1) <= self.blocks.num_blocks

    def plan(self) -> list[tuple[R, int]]:
        """Choose the next step's work, tokens of each request, and hold its blocks.

        Blocks can be hit as soon as they are planned: later steps come after this one.
        """
        parts: list[tuple[R, int]] = []
        preemptions = self.counters.preemptions
        budget = self._plan_running(parts)
        if self.counters.preemptions == preemptions:
            self._admit_waiting(parts, budget)
        return parts

    def advance(self, parts: Iterable[tuple[R, int]]) -> list[R]:
        """Account for computed tokens; returns the requests that get their next token now."""
        due = []
        for request, num_tokens in parts:
            request.num_computed += num_tokens
            if request.num_computed == request.num_tokens:
                due.append(request)
        return due

    def end(self, request: R) -> None:
        """Let a running request go, with its blocks."""
        self.running.remove(request)
        self.blocks.free(request.holding)

    def check_integrity(self) -> None:
        """Raise `AssertionError` unless exactly the running requests hold blocks."""
        self.blocks.check_integrity([request.holding for request in self.running])

    def _plan_running(self, parts: list[tuple[R, int]]) -> int:
        budget, index = self._max_batched_tokens, 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            num_tokens = min(request.num_tokens - request.num_computed, budget)
            computed = request.num_computed + num_tokens
            if computed >= request.holding.next_change and not self._grow_or_preempt(request, computed):
                break
            parts.append((request, num_tokens))
            budget -= num_tokens
            index += 1
        return budget

    def _grow_or_preempt(self, request: R, num_tokens: int) -> bool:
        """Hold blocks for a running request; False when it had to be preempted itself."""
        while not self.blocks.grow(request.holding, num_tokens):
            victim = self.running.pop()
            self.blocks.free(victim.holding)
            victim.num_computed = 0
            self.waiting.appendleft(victim)
            self.counters.preemptions += 1
            if victim is request:
                return False
        return True

    def _admit_waiting(self, parts: list[tuple[R, int]], budget: int) -> None:
        while self.waiting and budget > 0 and len(self.running) < self._max_num_seqs:
            request = self.waiting[0]
            hits = self.blocks.find_hits(request.holding, request.num_tokens)
            hit_tokens = len(hits) * self.blocks.block_size
            num_tokens = min(request.num_tokens - hit_tokens, budget)
            if not self.blocks.grow(request.holding, hit_tokens + num_tokens, hits):
                break
            self.running.append(self.waiting.popleft())
            request.num_computed = hit_tokens
            if request.num_hit_tokens is None:
                request.num_hit_tokens = hit_tokens
                self.counters.queried_tokens += request.num_prompt_tokens
                self.counters.hit_tokens += hit_tokens
            parts.append((request, num_tokens))
            budget -= num_tokens


class SimRequest(BatchedRequest):
    """One sequence to generate. ``deliver`` gets the text of each token and whether it is the last."""

    def __init__(
        self,
        chain: TokenChain,
        max_tokens: int,
        answer: Iterator[tuple[int, str]],
        deliver: Callable[[str, bool], None],
    ) -> None:
        super().__init__(chain, len(chain.tokens), max_tokens)
        self.chain = chain
        self.answer = answer
        self.deliver = deliver
        self.finished = False


@dataclass(slots=True)
class Step:
    """The work of one engine step: how many tokens of which request."""

    parts: list[tuple[SimRequest, int]]
    num_prefill_tokens: int = 0
    num_decoding: int = 0


class Scheduler(Batch[SimRequest]):
    """The batch of an engine in real time, whose requests have tokens and can be cancelled."""

    def add(self, request: SimRequest) -> None:
        """Queue a request. Raises `RequestTooLargeError`."""
        num_prompt_tokens, max_tokens = request.num_prompt_tokens, request.max_tokens
        if not self.fits(num_prompt_tokens, max_tokens):
            needed = self.blocks.num_blocks_for(num_prompt_tokens + max_tokens - 1)
            raise RequestTooLargeError(f"needs {needed} KV blocks, the cache has {self.blocks.num_blocks}")
        self.waiting.append(request)

    def cancel(self, request: SimRequest) -> None:
        """Forget a request and free its blocks, now. Harmless when it has finished."""
        if request.finished:
            return
        request.finished = True
        if request in self.running:
            self.end(request)
        else:
            self.waiting.remove(request)

    def schedule(self) -> Step:
        """Choose the next step's work and hold its blocks."""
        step = Step(self.plan())
        for request, num_tokens in step.parts:
            if request.is_decoding:
                step.num_decoding += 1
            else:
                step.num_prefill_tokens += num_tokens
        return step

    def complete(self, step: Step) -> None:
        """Account for a computed step: requests whose tokens are all computed get their next one."""
        for request in self.advance(part for part in step.parts if not part[0].finished):
            token, text = next(request.answer)
            request.chain.tokens.append(token)
            request.num_tokens += 1
            self.counters.generated_tokens += 1
            if request.num_generated == request.max_tokens:
                request.finished = True
                self.end(request)
            request.deliver(text, request.finished)


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
        self.paused = False

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
        self._work.set()

    def add(self, request: SimRequest) -> None:
        """Queue a request for the next step. Raises `RequestTooLargeError`."""
        self._scheduler.add(request)
        self._work.set()

    async def run(self) -> None:
        """Step for ever; idle without cost while there are no requests."""
        clock = asyncio.get_running_loop().time
        end = clock()
        while True:
            while self.paused or not self._scheduler.has_work:
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
