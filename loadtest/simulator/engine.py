"""One engine in virtual time: continuous batching with chunked prefill over a paged cache.

The same rules as `workers.sim.scheduler`: running requests first, then waiting ones while the step's token
budget lasts; when blocks run out, the youngest running request gives up its own and waits again.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.simulator.cache import Holding, PagedCache
from loadtest.simulator.clock import Clock
from loadtest.simulator.profiles import EngineProfile
from loadtest.simulator.results import ReplicaTotals
from loadtest.simulator.workload import Turn


@dataclass(slots=True, eq=False)
class EngineRequest:
    """One request on one engine."""

    turn: Turn
    on_first_token: Callable[[], None]
    on_end: Callable[[], None]
    on_failure: Callable[[], None]
    """Called instead of `on_end` when the engine dies."""
    holding: Holding = field(init=False)
    num_tokens: int = field(init=False)
    """Prompt, and answer so far."""
    num_computed: int = 0
    hit_tokens: int = -1
    """Prompt tokens found in the cache at the first admission; -1 before it."""

    def __post_init__(self) -> None:
        self.holding = Holding(self.turn.keys)
        self.num_tokens = self.turn.prompt_tokens


@dataclass(slots=True)
class Step:
    """What one step computes, and how long that takes in seconds."""

    parts: list[tuple[EngineRequest, int]]
    seconds: float


class Engine:
    """Takes requests, steps while it has any, and hands each step's cache events to ``publish``."""

    def __init__(
        self,
        clock: Clock,
        profile: EngineProfile,
        block_size: int,
        publish: Callable[[list[int], list[int]], None],
    ) -> None:
        self._clock = clock
        self._profile = profile
        self._block_size = block_size
        self._publish = publish
        self._cache = PagedCache(profile.num_blocks, block_size)
        self._waiting: deque[EngineRequest] = deque()
        self._running: list[EngineRequest] = []
        self._stepping = False
        self._dead = False
        self._busy_seconds = 0.0
        self._prefilled_tokens = 0
        self._preemptions = 0

    def add(self, request: EngineRequest) -> None:
        """Queue a request. A dead engine refuses it at once."""
        if self._dead or not self.fits(request.turn):
            self._clock.after(0.0, request.on_failure)
            return
        self._waiting.append(request)
        if not self._stepping:
            self._step()

    def die(self) -> None:
        """Fail everything that is open, and all that comes."""
        self._dead = True
        for request in (*self._running, *self._waiting):
            self._cache.free(request.holding)
            self._clock.after(0.0, request.on_failure)
        self._running.clear()
        self._waiting.clear()

    def totals(self) -> ReplicaTotals:
        """What the engine has done so far."""
        return ReplicaTotals(
            self._busy_seconds, self._prefilled_tokens, self._cache.evicted_blocks, self._preemptions
        )

    def check_integrity(self) -> None:
        """Raise `AssertionError` unless exactly the running requests hold blocks."""
        self._cache.check_integrity([request.holding for request in self._running])

    def fits(self, turn: Turn) -> bool:
        """Whether a request can ever run here."""
        needed = -(-(turn.prompt_tokens + turn.output_tokens - 1) // self._block_size)
        return needed <= self._profile.num_blocks

    def _step(self) -> None:
        step = Step([], self._profile.step_seconds)
        preemptions = self._preemptions
        budget = self._plan_running(step)
        if preemptions == self._preemptions:
            self._admit_waiting(step, budget)
        self._stepping = True
        self._busy_seconds += step.seconds
        self._clock.after(step.seconds, self._complete, step)

    def _plan_running(self, step: Step) -> int:
        budget, index = self._profile.max_batched_tokens, 0
        while index < len(self._running) and budget > 0:
            request = self._running[index]
            num_tokens = min(request.num_tokens - request.num_computed, budget)
            if not self._grow_or_preempt(request, request.num_computed + num_tokens):
                break
            self._plan(step, request, num_tokens)
            budget -= num_tokens
            index += 1
        return budget

    def _grow_or_preempt(self, request: EngineRequest, num_tokens: int) -> bool:
        while not self._cache.grow(request.holding, num_tokens):
            victim = self._running.pop()
            self._cache.free(victim.holding)
            victim.num_computed = 0
            self._waiting.appendleft(victim)
            self._preemptions += 1
            if victim is request:
                return False
        return True

    def _admit_waiting(self, step: Step, budget: int) -> None:
        while self._waiting and budget > 0 and len(self._running) < self._profile.max_num_seqs:
            request = self._waiting[0]
            hits = self._cache.find_hits(request.turn.keys, request.num_tokens)
            hit_tokens = len(hits) * self._block_size
            num_tokens = min(request.num_tokens - hit_tokens, budget)
            if not self._cache.grow(request.holding, hit_tokens + num_tokens, hits):
                break
            self._running.append(self._waiting.popleft())
            request.num_computed = hit_tokens
            if request.hit_tokens < 0:
                request.hit_tokens = hit_tokens
            self._plan(step, request, num_tokens)
            budget -= num_tokens

    def _plan(self, step: Step, request: EngineRequest, num_tokens: int) -> None:
        profile, before = self._profile, request.num_computed
        step.parts.append((request, num_tokens))
        if before >= request.turn.prompt_tokens and before + 1 == request.num_tokens:
            step.seconds += profile.decode_seconds + profile.decode_context_seconds * before
            return
        self._prefilled_tokens += num_tokens
        context = before + num_tokens / 2
        step.seconds += num_tokens * (profile.prefill_seconds + profile.prefill_context_seconds * context)

    def _complete(self, step: Step) -> None:
        if self._dead:
            return
        ended = []
        for request, num_tokens in step.parts:
            request.num_computed += num_tokens
            if request.num_computed == request.num_tokens:
                request.num_tokens += 1
                num_generated = request.num_tokens - request.turn.prompt_tokens
                if num_generated == 1:
                    request.on_first_token()
                if num_generated == request.turn.output_tokens:
                    ended.append(request)
        for request in ended:
            self._running.remove(request)
            self._cache.free(request.holding)
            request.on_end()
        stored, removed = self._cache.take_events()
        if stored or removed:
            self._publish(stored, removed)
        self._stepping = False
        if self._running or self._waiting:
            self._step()
