"""The engine in virtual time does exactly what the one in real time does; and how it refuses and dies."""

from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from loadtest.simulator.clock import Clock
from loadtest.simulator.engine import Engine, EngineRequest
from loadtest.simulator.profiles import EngineProfile
from loadtest.simulator.workload import Turn
from workers.sim.block_manager import BlockManager, BlockStored, TokenChain
from workers.sim.scheduler import RequestTooLargeError, Scheduler, SimRequest, StepTimes

BLOCK = 4
TICK = 1 / 1024
"""All durations are multiples of a power of two: sums of them are exact in any order."""
ANSWER = 100
"""The n-th token of every answer is this plus n: equal prompts get equal answers."""
DOCUMENT = tuple(range(32))


@dataclass(frozen=True)
class Spec:
    """One request of a test."""

    arrival: float
    prompt: tuple[int, ...]
    output_tokens: int


@dataclass
class History:
    """All that can be seen of an engine from outside."""

    refused: list[int] = field(default_factory=list)
    first_tokens: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    hits: dict[int, int] = field(default_factory=dict)
    events: list[tuple[float, list, list]] = field(default_factory=list)
    """Of each step that changed the cache: when, keys stored and removed. A key is the tokens up to there."""
    preemptions: int = 0
    evicted_blocks: int = 0
    prefilled_tokens: int = 0
    busy_seconds: float = 0.0


def text_of(spec):
    """Prompt and answer."""
    return spec.prompt + tuple(range(ANSWER, ANSWER + spec.output_tokens))


class RealEngine:
    """The scheduler and the cache of the simulated engine in `workers`, stepped in virtual time."""

    def __init__(self, profile):
        self.history = History()
        self.now = 0.0
        self._events = []
        blocks = BlockManager(profile.num_blocks, BLOCK, hash_seed=1, emit=self._events.append)
        self._scheduler = Scheduler(blocks, profile.max_num_seqs, profile.max_batched_tokens)
        self._times = StepTimes(
            profile.step_seconds, round(1 / profile.prefill_seconds), profile.decode_seconds
        )
        self._texts = {None: ()}
        self._copies = {}

    def run(self, specs):
        """Play all requests to their end."""
        requests = {number: self._request(number, spec) for number, spec in enumerate(specs)}
        arrivals = [(spec.arrival, number) for number, spec in enumerate(specs)]
        while arrivals or self._scheduler.has_work:
            if not self._scheduler.has_work:
                self.now = max(self.now, arrivals[0][0])
            while arrivals and arrivals[0][0] <= self.now:
                self._add(requests, arrivals.pop(0)[1])
            if self._scheduler.has_work:
                self._step()
        self.history.hits = {number: request.num_hit_tokens for number, request in requests.items()}
        self.history.preemptions = self._scheduler.counters.preemptions
        return self.history

    def _add(self, requests, number):
        try:
            self._scheduler.add(requests[number])
        except RequestTooLargeError:
            self.history.refused.append(number)
            del requests[number]

    def _request(self, number, spec):
        def deliver(text, is_last):
            self.history.first_tokens.setdefault(number, self.now)
            if is_last:
                self.history.ends[number] = self.now

        answer = ((ANSWER + place, "") for place in range(spec.output_tokens))
        return SimRequest(TokenChain(list(spec.prompt)), spec.output_tokens, answer, deliver)

    def _step(self):
        step = self._scheduler.schedule()
        duration = self._times.duration(step)
        self.now += duration
        self.history.busy_seconds += duration
        self.history.prefilled_tokens += step.num_prefill_tokens
        self._scheduler.complete(step)
        self._scheduler.check_integrity()
        stored, removed = [], []
        for event in self._events:
            self._count(event, stored, removed)
        self._events.clear()
        if stored or removed:
            self.history.events.append((self.now, stored, removed))

    def _count(self, event, stored, removed):
        """Keep count of copies: a key is stored with the first and removed with the last."""
        if isinstance(event, BlockStored):
            parent = self._texts[event.parent_block_hash]
            for place, block_hash in enumerate(event.block_hashes, start=1):
                text = self._texts[block_hash] = parent + tuple(event.token_ids[: place * BLOCK])
                self._copies[text] = self._copies.get(text, 0) + 1
                if self._copies[text] == 1:
                    stored.append(text)
        else:
            (block_hash,) = event.block_hashes
            text = self._texts[block_hash]
            self._copies[text] -= 1
            self.history.evicted_blocks += 1
            if not self._copies[text]:
                removed.append(text)


def run_virtual(specs, profile):
    """Play all requests on the engine of the simulator. Its keys are the tokens up to there."""
    history, clock = History(), Clock()

    def publish(stored, removed):
        history.events.append((clock.now, stored, removed))
        engine.check_integrity()

    def request(number, spec):
        text = text_of(spec)
        keys = [text[:end] for end in range(BLOCK, len(text) + 1, BLOCK)]
        return EngineRequest(
            Turn(0.0, len(spec.prompt), spec.output_tokens, keys, 0, 0),
            on_first_token=lambda: history.first_tokens.update({number: clock.now}),
            on_end=lambda: history.ends.update({number: clock.now}),
            on_failure=lambda: history.refused.append(number),
        )

    engine = Engine(clock, profile, BLOCK, publish)
    requests = [request(number, spec) for number, spec in enumerate(specs)]
    for spec, one in zip(specs, requests, strict=True):
        clock.after(spec.arrival, engine.add, one)
    clock.run()
    engine.check_integrity()
    totals = engine.totals()
    history.hits = {n: one.num_hit_tokens for n, one in enumerate(requests) if n not in history.refused}
    history.preemptions, history.evicted_blocks = totals.preemptions, totals.evicted_blocks
    history.prefilled_tokens, history.busy_seconds = totals.prefilled_tokens, totals.busy_seconds
    return history


def make_profile(num_blocks, max_batched_tokens, max_num_seqs):
    """Build a small engine, with times that add up exactly."""
    return EngineProfile(
        step_seconds=8 * TICK,
        prefill_seconds=TICK,
        decode_seconds=TICK / 4,
        num_blocks=num_blocks,
        max_batched_tokens=max_batched_tokens,
        max_num_seqs=max_num_seqs,
    )


def make_specs(drafts):
    """Requests one after the other, never two at the same instant: who is first would be a matter of taste.

    Each begins with a part of a document, or of an earlier request and its answer.
    """
    specs, arrival = [], 0.0
    for pause, origin, cut, tail, output_tokens in drafts:
        arrival += pause * TICK
        beginning = text_of(specs[origin % len(specs)]) if origin and specs else DOCUMENT
        specs.append(Spec(arrival, beginning[:cut] + (7,) * tail, output_tokens))
    return specs


DRAFTS = st.tuples(
    st.integers(1, 60), st.integers(0, 9), st.integers(1, 40), st.integers(0, 6), st.integers(1, 12)
)
REQUESTS = st.lists(DRAFTS, min_size=1, max_size=9).map(make_specs)
PROFILES = st.builds(make_profile, st.integers(3, 20), st.integers(1, 24), st.integers(1, 5))


# A preempted request comes back to find part of its answer in the cache, and one token of budget.
@example(make_specs([(17, 1, 7, 0, 19), (12, 2, 9, 1, 18), (7, 2, 7, 1, 1)]), make_profile(7, 2, 3))
@given(REQUESTS, PROFILES)
def test_virtual_time_changes_nothing(specs, profile):
    """Times, hits, preemptions, refusals and cache events of every request are those of the real engine,
    whatever is shared, evicted or preempted.
    """
    assert run_virtual(specs, profile) == RealEngine(profile).run(specs)


def test_crowded_engine_is_the_same():
    """The same in one long run in which evictions, preemptions, refusals and second copies all happen."""
    source = Random(1)
    specs = make_specs(
        [
            (source.randrange(1, 40), source.randrange(2) * number, source.randrange(1, 90),
             source.randrange(9), source.randrange(1, 20))
            for number in range(150)
        ]
    )  # fmt: skip
    profile = make_profile(num_blocks=18, max_batched_tokens=32, max_num_seqs=6)
    history = run_virtual(specs, profile)
    assert history == RealEngine(profile).run(specs)
    assert history.preemptions > 10
    assert 0 < len(history.refused) < 50
    num_removed = sum(len(removed) for _, _, removed in history.events)
    assert history.evicted_blocks > num_removed > 100, "no block was there twice"


def serve(profile, *specs, dies_at=None):
    """Play requests; returns the engine and what happened, as (what, number, time)."""
    clock, happened = Clock(), []
    engine = Engine(clock, profile, BLOCK, lambda stored, removed: None)
    for number, spec in enumerate(specs):

        def note(what, number=number):
            happened.append((what, number, clock.now))

        turn = Turn(0.0, len(spec.prompt), spec.output_tokens, list(range(99)), 0, 0)
        request = EngineRequest(
            turn, partial(note, "first token"), partial(note, "end"), partial(note, "failure")
        )
        clock.after(spec.arrival, engine.add, request)
    if dies_at is not None:
        clock.after(dies_at, engine.die)
    clock.run()
    engine.check_integrity()
    return engine, happened


def test_context_costs_time():
    """Attention costs each prompt token its mean context, and each decoding request all of it."""
    profile = EngineProfile(
        step_seconds=1.0,
        prefill_seconds=2.0,
        decode_seconds=3.0,
        prefill_context_seconds=0.5,
        decode_context_seconds=0.25,
        max_batched_tokens=8,
    )
    _, happened = serve(profile, Spec(0.0, DOCUMENT[:12], 2))
    first = (1 + 8 * (2 + 4 * 0.5)) + (1 + 4 * (2 + 10 * 0.5))
    assert happened == [("first token", 0, first), ("end", 0, first + 1 + 3 + 12 * 0.25)]


def test_slower_engine_needs_longer_for_everything():
    """At half speed every moment comes twice as late."""
    profile = EngineProfile(0.5, 0.25, 0.125, 0.0625, 0.03125, num_blocks=50, max_batched_tokens=8)
    specs = [Spec(0.0, DOCUMENT[:12], 4), Spec(0.0, DOCUMENT[:20], 3)]
    _, at_full_speed = serve(profile, *specs)
    _, at_half_speed = serve(profile.slower(2.0), *specs)
    assert at_half_speed == [(what, number, 2 * time) for what, number, time in at_full_speed]


def test_death_fails_everything_open():
    """What runs, waits or comes later fails; what has ended has ended. No block stays held."""
    profile = replace(make_profile(50, 64, 1), step_seconds=1.0)
    ended, running, waiting = (Spec(0.0, DOCUMENT[:8], tokens) for tokens in (1, 9, 9))
    _, happened = serve(profile, ended, running, waiting, Spec(9.0, DOCUMENT, 1), dies_at=2.5)
    ends = [(what, number) for what, number, _ in happened if what != "first token"]
    assert ends == [("end", 0), ("failure", 1), ("failure", 2), ("failure", 3)]
    assert [time for what, _, time in happened if what == "failure"] == [2.5, 2.5, 9.0]


def test_idle_engine_takes_no_time():
    """An engine is busy for its steps only, however long the run."""
    profile = make_profile(50, 64, 4)
    engine, happened = serve(profile, Spec(0.0, DOCUMENT[:8], 1), Spec(100.0, DOCUMENT[:7], 1))
    assert happened[-1] == ("end", 1, 100.0 + 11 * TICK)
    assert engine.totals().busy_seconds == (8 + 8 + 8 + 3) * TICK
