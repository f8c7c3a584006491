"""One engine in virtual time: the batch and the cache of the simulated engine that runs in real time."""

from collections.abc import Callable

from loadtest.simulator.clock import Clock
from loadtest.simulator.profiles import EngineProfile
from loadtest.simulator.results import ReplicaTotals
from loadtest.simulator.workload import Turn
from workers.sim.paged_cache import Holding, PagedCache
from workers.sim.scheduler import Batch, BatchedRequest


class EngineRequest(BatchedRequest):
    """One request on one engine."""

    __slots__ = ("on_end", "on_failure", "on_first_token")

    def __init__(
        self,
        turn: Turn,
        on_first_token: Callable[[], None],
        on_end: Callable[[], None],
        on_failure: Callable[[], None],
    ) -> None:
        """``on_failure`` is called instead of ``on_end`` when the engine dies."""
        super().__init__(Holding(turn.keys), turn.prompt_tokens, turn.output_tokens)
        self.on_first_token = on_first_token
        self.on_end = on_end
        self.on_failure = on_failure


Parts = list[tuple[EngineRequest, int]]


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
        self._publish = publish
        self._cache: PagedCache[Holding] = PagedCache(profile.num_blocks, block_size)
        self._batch: Batch[EngineRequest] = Batch(
            self._cache, profile.max_num_seqs, profile.max_batched_tokens
        )
        self._stepping = False
        self._dead = False
        self._busy_seconds = 0.0
        self._prefilled_tokens = 0

    def add(self, request: EngineRequest) -> None:
        """Queue a request. A dead engine refuses it at once."""
        if self._dead or not self._batch.fits(request.num_prompt_tokens, request.max_tokens):
            self._clock.after(0.0, request.on_failure)
            return
        self._batch.waiting.append(request)
        if not self._stepping:
            self._step()

    def die(self) -> None:
        """Fail everything that is open, and all that comes."""
        self._dead = True
        for request in (*self._batch.running, *self._batch.waiting):
            self._cache.free(request.holding)
            self._clock.after(0.0, request.on_failure)
        self._batch.running.clear()
        self._batch.waiting.clear()

    def totals(self) -> ReplicaTotals:
        """What the engine has done so far."""
        return ReplicaTotals(
            self._busy_seconds,
            self._prefilled_tokens,
            self._cache.evicted_blocks,
            self._batch.counters.preemptions,
        )

    def check_integrity(self) -> None:
        """Raise `AssertionError` unless exactly the running requests hold blocks."""
        self._batch.check_integrity()

    def fits(self, turn: Turn) -> bool:
        """Whether a request can ever run here."""
        return self._batch.fits(turn.prompt_tokens, turn.output_tokens)

    def _step(self) -> None:
        parts = self._batch.plan()
        seconds = self._seconds(parts)
        self._stepping = True
        self._busy_seconds += seconds
        self._clock.after(seconds, self._complete, parts)

    def _seconds(self, parts: Parts) -> float:
        """How long a step takes."""
        profile = self._profile
        seconds, decode_seconds = profile.step_seconds, profile.decode_seconds
        for request, num_tokens in parts:
            before = request.num_computed
            if num_tokens == 1 and request.is_decoding:
                seconds += decode_seconds + profile.decode_context_seconds * before
            else:
                self._prefilled_tokens += num_tokens
                context = before + num_tokens / 2
                seconds += num_tokens * (profile.prefill_seconds + profile.prefill_context_seconds * context)
        return seconds

    def _complete(self, parts: Parts) -> None:
        if self._dead:
            return
        ended = []
        for request in self._batch.advance(parts):
            request.num_tokens += 1
            num_generated = request.num_tokens - request.num_prompt_tokens
            if num_generated == 1:
                request.on_first_token()
            if num_generated == request.max_tokens:
                ended.append(request)
        for request in ended:
            self._batch.end(request)
            request.on_end()
        stored, removed = self._cache.take_events()
        if stored or removed:
            self._publish(stored, removed)
        self._stepping = False
        if self._batch.has_work:
            self._step()
