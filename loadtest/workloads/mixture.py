"""Random workloads: one to three generators at once, each with parameters drawn at random. A seed makes one.

What a rule is good at depends on the traffic, and the generators of the catalog are few. Rules that are
tuned on some seeds are to be judged on others.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

from loadtest.simulator.plan import Plan
from loadtest.simulator.results import Run
from loadtest.simulator.system import simulate
from loadtest.simulator.workload import Session, Workload
from loadtest.workloads.agents import Agents
from loadtest.workloads.chat import Applications, Bursts, Chat, Rollout, Tenants
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import BLOCK_SIZE, Lengths
from loadtest.workloads.forest import Forest
from loadtest.workloads.single import HotPrefix, NoSharing, Rag
from policies.catalog import POLICIES

NUM_PARTS = (1, 1, 2, 3)
"""How many generators take part in a workload, each with the same chance."""
REPLICAS = (2, 3, 4, 6)
MEMORY = (0.15, 2.5)
"""KV memory of the fleet over all distinct tokens of the workload: smallest and largest."""
FEWEST_BLOCKS = 1_200
"""Of one replica: more than any request needs."""
SHORTEST_SECONDS = 4.0
"""A shorter workload shows little but how empty caches are filled, and gets more requests."""
MOST_REQUESTS = 1_000
SATURATED = 5.0
"""At load 1 the mean TTFT of the reference rule is so many times that of an idle fleet."""
REFERENCE = "llm-d"

Build = Callable[[int], Workload]


@dataclass(frozen=True, slots=True)
class RandomCase:
    """A workload and the fleet that it is played on."""

    seed: int
    workload: Workload
    """At load 1 it keeps the fleet nearly as busy as it can be: see `SATURATED`."""
    plan: Plan
    parts: tuple[str, ...]
    """The generators."""


def random_case(seed: int, requests: int = 700, guess: float | None = None) -> RandomCase:
    """Draw one. About so many ``requests`` are in it, more if that is too short; its load is looked for near
    a ``guess``.
    """
    source = Random(seed)
    names = source.sample(sorted(DRAWS), source.choice(NUM_PARTS))
    shares = [source.uniform(0.3, 1.0) for _ in names]
    sessions: list[Session] = []
    for name, share in zip(names, shares, strict=True):
        built = DRAWS[name](source)(source.getrandbits(32))
        sessions += _first(built.sessions, round(requests * share / sum(shares)))
    workload = _merged(sessions, seed)
    replicas = source.choice(REPLICAS)
    profile = Plan().profile
    distinct = len({key for session in sessions for turn in session.turns for key in turn.keys})
    num_blocks = max(round(distinct * _between(source, *MEMORY) / replicas), FEWEST_BLOCKS)
    plan = Plan(replicas=replicas, profile=replace(profile, num_blocks=num_blocks))
    load = _saturating(workload, plan, guess)
    if SHORTEST_SECONDS * load > 1 and requests < MOST_REQUESTS:
        return random_case(seed, 2 * requests, load / 2)
    return RandomCase(seed, workload.faster(load), plan, tuple(names))


def _first(sessions: tuple[Session, ...], requests: int) -> list[Session]:
    """The first sessions, of so many requests, with starts spread over one unit of time."""
    taken, left = [], requests
    for session in sessions:
        if left <= 0:
            break
        taken.append(session)
        left -= len(session.turns)
    end = taken[-1].start
    return [replace(session, start=session.start / end) for session in taken]


def _merged(sessions: list[Session], seed: int) -> Workload:
    ordered = sorted(sessions, key=lambda session: session.start)
    return Workload(f"random-{seed}", BLOCK_SIZE, tuple(ordered))


def _play(workload: Workload, plan: Plan, load: float) -> Run:
    return simulate(workload, REFERENCE, POLICIES[REFERENCE], plan, load, check=False)


def _saturating(workload: Workload, plan: Plan, guess: float | None) -> float:
    """The load at which the reference rule's mean TTFT is `SATURATED` times that of an idle fleet."""
    idle = _play(workload, plan, IDLE)
    limit = SATURATED * float(idle.ttft().mean())

    def is_saturated(load: float) -> bool:
        return float(_play(workload, plan, load).ttft().mean()) >= limit

    low = high = guess or len(idle.replicas) / sum(totals.busy_seconds for totals in idle.replicas.values())
    if is_saturated(high):
        while is_saturated(low := high / STEP):
            high = low
    else:
        while not is_saturated(high := low * STEP) and high < MOST_LOAD:
            low = high
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_saturated(middle) else (middle, high)
    return math.sqrt(low * high)


IDLE = 1 / 600
"""The load at which an idle fleet is looked at: requests are spread over so many seconds."""
STEP = 1.6
MOST_LOAD = 1.0
HALVINGS = 2
"""The load is found to within 1.6 ** (1 / 8): 6%."""


def _between(source: Random, low: float, high: float) -> float:
    """Uniform in the logarithm."""
    return math.exp(source.uniform(math.log(low), math.log(high)))


def _count(source: Random, low: int, high: int) -> int:
    return round(_between(source, low, high))


def _lengths(source: Random, low: float, high: float, most: int) -> Lengths:
    median = _between(source, low, high)
    return Lengths(median, source.uniform(0.1, 0.9), max(1, round(median / 10)), most)


def _dialogue(source: Random, most_turns: int) -> Dialogue:
    return Dialogue(
        turns=Lengths(_between(source, 1, most_turns), 0.6, 1, 2 * most_turns),
        question=_lengths(source, 20, 800, 3000),
        answer=_lengths(source, 3, 60, 120),
        think_seconds=_between(source, 0.3, 4),
    )


def _applications(source: Random) -> Applications:
    return Applications(_count(source, 1, 60), source.uniform(0.2, 1.5), _lengths(source, 100, 3000, 6000))


def _chat(source: Random) -> Build:
    return Chat(applications=_applications(source), dialogue=_dialogue(source, 6)).build


def _bursts(source: Random) -> Build:
    return Bursts(
        applications=_applications(source),
        dialogue=_dialogue(source, 3),
        burst_factor=source.uniform(2, 6),
    ).build


def _rollout(source: Random) -> Build:
    return Rollout(prompt_tokens=_count(source, 300, 4000), dialogue=_dialogue(source, 4)).build


def _tenants(source: Random) -> Build:
    return Tenants(
        tenants=_count(source, 10, 400),
        tenants_exponent=source.uniform(0.3, 1.6),
        system_prompt=_lengths(source, 100, 3000, 6000),
        dialogue=_dialogue(source, 3),
    ).build


def _agents(source: Random) -> Build:
    return Agents(
        kinds=_count(source, 1, 20),
        kinds_exponent=source.uniform(0.2, 1.5),
        tools=_lengths(source, 500, 5000, 8000),
        task=_lengths(source, 50, 1500, 3000),
        steps=Lengths(_between(source, 2, 8), 0.4, 2, 12),
        answer=_lengths(source, 5, 60, 120),
        tool_output=_lengths(source, 50, 800, 2000),
        parallel_share=source.uniform(0, 0.5),
    ).build


def _rag(source: Random) -> Build:
    return Rag(
        documents=_count(source, 20, 2000),
        documents_exponent=source.uniform(0.3, 1.3),
        document=_lengths(source, 300, 4000, 8000),
        system_prompt=_lengths(source, 20, 1000, 2000),
        dialogue=_dialogue(source, 2),
    ).build


def _hot_prefix(source: Random) -> Build:
    return HotPrefix(
        hot_share=source.uniform(0.3, 1.0),
        prefix_tokens=_count(source, 300, 5000),
        tail=_lengths(source, 50, 800, 2000),
        answer=_lengths(source, 3, 60, 120),
    ).build


def _no_sharing(source: Random) -> Build:
    return NoSharing(prompt=_lengths(source, 200, 3000, 7000), answer=_lengths(source, 3, 60, 120)).build


def _forest(source: Random) -> Build:
    num_roots = source.choice((1, 1, 2, 8))
    return Forest(
        roots=_lengths(source, 20, 2000, 4000) if source.random() < 0.5 else None,
        num_roots=num_roots,
        documents=_count(source, 10, 300),
        documents_exponent=source.uniform(0.0, 1.3),
        depth=source.randint(1, 7),
        width=source.randint(1, 6),
        width_exponent=source.uniform(0.0, 1.5),
        deeper=source.uniform(0.3, 1.0),
        section=_lengths(source, 60, 1000, 2000),
        question=_lengths(source, 10, 300, 1000),
        answer=_lengths(source, 2, 40, 100),
        drift_seconds=source.choice((0.0, 0.2, 1.0, 5.0)),
        declared=source.random() < 0.3,
    ).build


DRAWS: Mapping[str, Callable[[Random], Build]] = MappingProxyType(
    {
        "agents": _agents,
        "bursts": _bursts,
        "chat": _chat,
        "forest": _forest,
        "forests": _forest,
        "hot-prefix": _hot_prefix,
        "no-sharing": _no_sharing,
        "rag": _rag,
        "rollout": _rollout,
        "tenants": _tenants,
    }
)
"""Generators with random parameters, by name. Forests come twice: there are more kinds of them."""
