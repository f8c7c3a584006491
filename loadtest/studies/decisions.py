"""How long a routing decision takes, part by part, with an index as full as in a busy fleet.

    python -m loadtest.studies.decisions --replicas 8,64,256,1024

A decision is a snapshot (which looks the prompt up in the index), the policy's choice, and the booking. Every
replica holds a shared opening; a conversation's history is on one to three of them. Requests stay open for
a while, and another router's bookings come in between. The same seed makes the same fleet and requests.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.fleet.booking import Booking
from cluster.fleet.fleet import Fleet
from cluster.index.block_table import BlockKeys, as_keys
from cluster.process.collector import calm_collector
from cluster.protocol.wire import Booked, Bookings, Lease, Load, ReplicaState
from loadtest.harness.measure import percentile
from policies.catalog import DEFAULT_POLICY, POLICIES
from policies.types import Policy, Request

app = typer.Typer(pretty_exceptions_enable=False)

BLOCK_SIZE = 16
OPENING_BLOCKS = 64
"""Leading blocks that all conversations share."""
OWN_BLOCKS = (40, 180)
"""Fewest and most blocks of a conversation's own history."""
MAX_HOLDERS = 3
NEW_CONVERSATIONS = 0.2
"""Share of requests whose prompts nobody knows but for the opening."""
REPLICA_RATE, ROUTER_RATE = 2.0, 250.0
"""Requests a second: for each replica, and as many as one router serves at most. Time is virtual."""
PREFILL_SECONDS, OPEN_SECONDS = 0.5, 4.0
"""The time from a decision until its prompt is computed, and until its request ends."""
RECEIVE_SECONDS = 0.5
"""The time between two messages of the other router."""
WARM_UP_SECONDS = 6.0
"""The time until as many requests are open, and as many end, as later on; it is not timed."""
PARTS = ("lookup", "snapshot", "policy", "book", "decision", "release", "join")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of the workload."""

    keys: BlockKeys
    conversation_key: int


@dataclass(slots=True)
class Workload:
    """A fleet with full caches, and requests to it. ``seconds`` is its virtual clock."""

    fleet: Fleet
    policy: Policy
    prompt_tokens: int
    source: random.Random
    opening: list[int]
    histories: list[list[int]]
    clock: Callable[[], float] = time.perf_counter
    seconds: float = 0.0
    heard: float = 0.0
    computing: deque[tuple[float, Booking]] = field(default_factory=deque)
    streaming: deque[tuple[float, Booking]] = field(default_factory=deque)

    def prompt(self) -> Prompt:
        """The next turn of some conversation, or the first of a new one."""
        new = self.source.random() < NEW_CONVERSATIONS
        number = self.source.randrange(len(self.histories))
        known = self.opening + ([] if new else self.histories[number])
        num_blocks = self.prompt_tokens // BLOCK_SIZE
        tail = fresh_keys(self.source, max(0, num_blocks - len(known)))
        keys = (known + tail)[:num_blocks]
        return Prompt(as_keys(keys), self.source.getrandbits(64) if new else 1 + number)

    def lookup(self) -> float:
        """Look one prompt up in the index alone; returns the seconds it took."""
        keys = self.prompt().keys
        started = self.clock()
        self.fleet.index.matched_blocks(keys)
        return self.clock() - started

    def decide(self, seconds: dict[str, list[float]]) -> None:
        """Route one request, and let an older one end; adds the seconds of each part."""
        prompt = self.prompt()
        request = Request(self.prompt_tokens, OPENING_BLOCKS * BLOCK_SIZE, prompt.conversation_key)
        model = self.fleet.models["model"]
        started = self.clock()
        snapshot = self.fleet.snapshot(
            model, prompt.keys, self.prompt_tokens, self.seconds, conversation_key=prompt.conversation_key
        )
        seen = self.clock()
        decision = self.policy(request, snapshot)
        chosen = self.clock()
        booking = self.fleet.book(
            model.replicas[decision.row],
            prompt.keys,
            self.prompt_tokens,
            int(snapshot.cached_tokens[decision.row]),
            prompt.conversation_key,
        )
        booked = self.clock()
        self.computing.append((self.seconds, booking))
        self.end_older()
        ended = self.clock()
        parts = (seen - started, chosen - seen, booked - chosen, booked - started, ended - booked)
        for name, part in zip(PARTS[1:], parts, strict=False):
            seconds[name].append(part)

    def end_older(self) -> None:
        """Older requests get their first tokens, and the oldest end."""
        while self.computing and self.computing[0][0] + PREFILL_SECONDS <= self.seconds:
            self.streaming.append(self.computing.popleft())
            self.streaming[-1][1].prefill_done(self.seconds)
        while self.streaming and self.streaming[0][0] + OPEN_SECONDS <= self.seconds:
            self.streaming.popleft()[1].release(self.seconds, succeeded=True)

    def wait(self) -> None:
        """Until the next request comes. The other router says what it has booked; own messages go out."""
        self.seconds += 1 / min(REPLICA_RATE * len(self.fleet.replicas), ROUTER_RATE)
        if self.heard + RECEIVE_SECONDS > self.seconds:
            return
        self.heard = self.seconds
        booked = {
            replica_id: Booked(running, 1_000 * running, 4_000 * running)
            for replica_id in self.fleet.replicas
            if (running := self.source.randrange(4))
        }
        self.fleet.receive(Bookings("other", booked, complete=True), self.seconds)
        self.fleet.outbox.take("")

    def join(self, number: int) -> float:
        """A replica joins; returns the seconds until a first decision has been made with it."""
        ignored: dict[str, list[float]] = {name: [] for name in PARTS}
        started = self.clock()
        self.fleet.admit(lease_of(f"joined-{number}"), 1, Load())
        self.decide(ignored)
        return self.clock() - started


def fresh_keys(source: random.Random, count: int) -> list[int]:
    """Keys that nobody holds."""
    return [source.getrandbits(64) for _ in range(count)]


def lease_of(replica_id: str) -> Lease:
    """A ready replica of the one model."""
    return Lease(
        replica=replica_id,
        url=f"http://{replica_id}",
        state=ReplicaState.READY,
        model="model",
        block_size=BLOCK_SIZE,
        publishes_events=True,
    )


def build(policy: Policy, num_replicas: int, blocks: int, prompt_tokens: int, seed: int) -> Workload:
    """A fleet whose replicas hold about ``blocks`` blocks each."""
    source = random.Random(seed)
    fleet = Fleet()
    opening = fresh_keys(source, OPENING_BLOCKS)
    for number in range(num_replicas):
        fleet.apply(fleet.admit(lease_of(f"replica-{number:04}"), 1, Load()), opening, (), cleared=False)
    replicas = list(fleet.replicas.values())
    histories = []
    room = num_replicas * (blocks - OPENING_BLOCKS)
    while room > 0:
        history = fresh_keys(source, source.randint(*OWN_BLOCKS))
        holders = source.sample(replicas, min(source.randint(1, MAX_HOLDERS), num_replicas))
        for turns_ago, replica in enumerate(holders):
            held = history[: len(history) // (1 + turns_ago)]
            fleet.apply(replica, held, (), cleared=False)
            room -= len(held)
        histories.append(history)
    return Workload(fleet, policy, prompt_tokens, source, opening, histories)


def measure(workload: Workload, decisions: int, joins: int) -> dict[str, list[float]]:
    """Seconds of every part of every decision."""
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    unmeasured: dict[str, list[float]] = {name: [] for name in PARTS}
    while len(seconds["decision"]) < decisions:
        workload.wait()
        workload.decide(seconds if workload.seconds > WARM_UP_SECONDS else unmeasured)
    seconds["lookup"] = [workload.lookup() for _ in range(decisions)]
    seconds["join"] = [workload.join(number) for number in range(joins)]
    workload.fleet.check_integrity()
    return seconds


@app.command()
def main(
    replicas: Annotated[str, typer.Option(help="Fleet sizes, separated by commas.")] = "8,64,256,1024",
    policy: Annotated[str, typer.Option(help="A name in the catalog.")] = DEFAULT_POLICY,
    decisions: int = 3_000,
    blocks: Annotated[int, typer.Option(help="Blocks that each replica holds.")] = 2_000,
    prompt_tokens: int = 4_000,
    joins: Annotated[int, typer.Option(help="Replicas that join at the end.")] = 5,
    seed: int = 1,
    cpu_time: Annotated[bool, typer.Option(help="Leave out the time taken by other processes.")] = False,
) -> None:
    """Print p50 and p99 of each part, in microseconds."""
    calm_collector()
    table = Table(title=f"{policy}, {prompt_tokens} tokens; p50 / p99 in µs", title_justify="left")
    for heading in ("replicas", *PARTS):
        table.add_column(heading, justify="right", no_wrap=True)
    for num_replicas in map(int, replicas.split(",")):
        workload = build(POLICIES[policy], num_replicas, blocks, prompt_tokens, seed)
        if cpu_time:
            workload.clock = time.thread_time
        calm_collector()
        seconds = measure(workload, decisions, joins)
        cells = [
            f"{1e6 * percentile(part, 50):.0f} / {1e6 * percentile(part, 99):.0f}"
            for part in seconds.values()
        ]
        table.add_row(str(num_replicas), *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    app()
