"""The whole simulated system: clients, routers, engines, and what happens to them."""

import random
from collections import deque
from collections.abc import Callable, Sequence

from cluster.protocol.wire import Bookings, ReplicaState
from cluster.sync.gossip import COMPLETE_SECONDS
from loadtest.simulator.clock import Clock
from loadtest.simulator.engine import Engine
from loadtest.simulator.plan import Change, ChangeKind, Plan
from loadtest.simulator.results import Answer, Run
from loadtest.simulator.router import SimulatedRouter
from loadtest.simulator.workload import Session, Workload
from policies.types import Policy

LEASE_SECONDS = 1.5
"""How long a dead replica's lease outlives it."""


def simulate(
    workload: Workload,
    policy_name: str,
    policy: Policy,
    plan: Plan,
    load: float = 1.0,
    seed: int = 0,
    check: bool = True,
) -> Run:
    """Play a workload, started ``load`` times as fast, against a simulated fleet; to its last answer.

    The seed decides which router each request goes to. With ``check``, all that must hold afterwards is
    looked at, which takes a tenth of the time.
    """
    system = _System(workload, policy, plan, load, seed)
    system.clock.run()
    if check:
        system.check_integrity()
    answers = system.answers
    return Run(
        policy=policy_name,
        workload=workload.name,
        load=load,
        seed=seed,
        answers=answers,
        replicas={name: engine.totals() for name, engine in system.engines.items()},
        seconds=max((answer.end for answer in answers), default=0.0),
    )


class _System:
    def __init__(self, workload: Workload, policy: Policy, plan: Plan, load: float, seed: int) -> None:
        self.clock = Clock()
        self.engines: dict[str, Engine] = {}
        self.answers: list[Answer] = []
        self._plan = plan
        self._block_size = workload.block_size
        self._random = random.Random(seed)
        self._num_open = 0
        self._queued = deque(workload.programs)
        self._serving: list[str] = []
        self._routers = [
            SimulatedRouter(
                self.clock,
                number,
                policy,
                workload.block_size,
                self.engines,
                plan.network_seconds,
                plan.profile.num_blocks,
                self._gossip if plan.routers > 1 else None,
            )
            for number in range(plan.routers)
        ]
        if plan.ledger is not None:
            for router in self._routers:
                router.fleet.programs = router.fleet.turns.programs = plan.ledger(workload)
        for _ in range(plan.replicas):
            self._admit(self._start_engine())
        for change in plan.changes:
            self.clock.after(change.at, self._happen, change)
        for session in workload.sessions:
            self._start(session, session.start / load, self._ended)
        for _ in range(min(workload.at_once, len(self._queued))):
            self._start_program()
        if plan.routers > 1:
            self.clock.after(COMPLETE_SECONDS, self._publish_everything)

    def check_integrity(self) -> None:
        """After the last answer nothing is booked and no block is held. Raises `AssertionError`."""
        for router in self._routers:
            router.fleet.check_integrity()
            assert not router.fleet.open_bookings
        for engine in self.engines.values():
            engine.check_integrity()

    def _start_program(self) -> None:
        """Start the next program of the closed loop, if there is one; when it has ended, the one after it."""
        if self._queued:
            program = self._queued.popleft()
            self._start(program, program.start, self._program_ended)

    def _program_ended(self) -> None:
        self._ended()
        self._start_program()

    def _start(self, session: Session, after: float, ended: Callable[[], object]) -> None:
        self._num_open += 1
        self.clock.after(after + session.turns[0].think_seconds, self._play, session, 0, ended)

    def _ended(self) -> None:
        self._num_open -= 1

    def _play(self, session: Session, number: int, ended: Callable[[], object]) -> None:
        router = self._routers[self._random.randrange(len(self._routers))]
        router.receive(session.turns[number], lambda answer: self._answered(session, number, ended, answer))

    def _answered(self, session: Session, number: int, ended: Callable[[], object], answer: Answer) -> None:
        self.answers.append(answer)
        sub_agents = () if answer.failed else session.turns[number].sub_agents
        working = len(sub_agents)

        def one_ended() -> None:
            nonlocal working
            working -= 1
            self._ended()
            if not working:
                self._go_on(session, number, ended, answer)

        for agent in sub_agents:
            self._start(agent, agent.start, one_ended)
        if not sub_agents:
            self._go_on(session, number, ended, answer)

    def _go_on(self, session: Session, number: int, ended: Callable[[], object], answer: Answer) -> None:
        """The next turn after a pause, or the end of the session."""
        if number + 1 < len(session.turns) and not answer.failed:
            self.clock.after(session.turns[number + 1].think_seconds, self._play, session, number + 1, ended)
        else:
            ended()

    def _start_engine(self) -> str:
        number = len(self.engines)
        name = f"replica-{number:04}"
        profile = self._plan.profile.slower(self._plan.slow.get(number, 1.0))

        def publish(stored: Sequence[int], removed: Sequence[int]) -> None:
            self.clock.after(self._plan.event_lag_seconds, self._apply, name, stored, removed)

        self.engines[name] = Engine(self.clock, profile, self._block_size, publish)
        self._serving.append(name)
        return name

    def _apply(self, name: str, stored: Sequence[int], removed: Sequence[int]) -> None:
        for router in self._routers:
            if replica := router.fleet.replicas.get(name):
                router.fleet.apply(replica, stored, removed, cleared=False)

    def _happen(self, change: Change) -> None:
        if change.kind is ChangeKind.JOIN:
            self._admit(self._start_engine())
            return
        if not self._serving:
            return
        name = self._serving.pop(0)
        if change.kind is ChangeKind.DRAIN:
            self._admit(name, ReplicaState.DRAINING)
        else:
            self.engines[name].die()
            self.clock.after(LEASE_SECONDS, self._dismiss, name)

    def _admit(self, name: str, state: ReplicaState = ReplicaState.READY) -> None:
        for router in self._routers:
            router.admit(name, state)

    def _dismiss(self, name: str) -> None:
        for router in self._routers:
            router.fleet.dismiss(name)

    def _gossip(self, bookings: Bookings) -> None:
        self.clock.after(self._plan.gossip_lag_seconds, self._receive, bookings)

    def _receive(self, bookings: Bookings) -> None:
        for router in self._routers:
            if router.name != bookings.router:
                router.fleet.receive(bookings, self.clock.now)

    def _publish_everything(self) -> None:
        for router in self._routers:
            router.publish_everything()
        if self._num_open:
            self.clock.after(COMPLETE_SECONDS, self._publish_everything)
