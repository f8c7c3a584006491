"""Finds out which replicas this router itself cannot reach, whatever their leases say.

A lease tells what the agent beside the engine sees. Between router and engine a network can be cut, or an
engine can hang without closing a connection. So a replica that leaves a request waiting for its first
byte, or that failed one, is asked for its health until it answers. While it does not, it gets no new
requests, and those that wait on it go elsewhere. A replica that is sending answers has answered: busy engines
are late with their health. An engine that sleeps is healthy, and those that wait on it go elsewhere, too.
"""

import asyncio
import time
from typing import Any

import structlog

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Replica
from cluster.protocol.wire import ReplicaState
from router.errors import AttemptFailedError
from router.upstream.client import HEALTH_SECONDS, Upstream

PROBE_SECONDS = 1.0
"""How often a suspect is asked, and how long a request waits before its replica becomes one."""
FAILURES = 3
"""Unanswered questions in a row after which requests are taken away from a replica."""

log = structlog.get_logger()


class Watch:
    """One task's wait for a replica, which another one may end. Like `asyncio.timeout`, at a fifth of its
    cost."""

    __slots__ = ("_cancelling", "_given_up", "_replica", "_task", "_waiting")

    def __init__(self, waiting: dict[Replica, dict["Watch", float]], replica: Replica) -> None:
        self._waiting = waiting
        self._replica = replica
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._given_up = False

    def __enter__(self) -> None:
        self._waiting.setdefault(self._replica, {})[self] = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        waiting = self._waiting[self._replica]
        del waiting[self]
        if not waiting:
            del self._waiting[self._replica]
        # Another cancellation besides our own wins.
        ours = self._given_up and self._task.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError):
            raise AttemptFailedError(
                "the replica does not answer any more", replica_down=True, timed_out=True
            ) from error

    def give_up(self) -> None:
        """End the wait."""
        if not self._given_up:
            self._given_up = True
            self._task.cancel()


class Probes:
    """The suspects of one router. `run` asks them."""

    def __init__(self, fleet: Fleet, upstream: Upstream) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._waiting: dict[Replica, dict[Watch, float]] = {}
        self._suspects: dict[Replica, int] = {}

    @property
    def suspects(self) -> list[str]:
        """Ids of the replicas that do not answer this router."""
        return sorted(replica.lease.replica for replica, failures in self._suspects.items() if failures)

    def suspect(self, replica: Replica) -> None:
        """Ask this replica until it answers: it has just failed."""
        self._suspects.setdefault(replica, 0)

    def watched(self, replica: Replica) -> "Watch":
        """A wait for the beginning of an answer, as a context.

        Raises `AttemptFailedError` when the replica does not answer and another one could.
        """
        return Watch(self._waiting, replica)

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            overdue = time.monotonic() - PROBE_SECONDS
            for replica, waiting in self._waiting.items():
                if next(iter(waiting.values()), overdue) < overdue:
                    self.suspect(replica)
                if replica.lease.state is ReplicaState.ASLEEP and self._others_can_serve(replica):
                    self._give_up(replica)
            await asyncio.gather(*(self._ask(replica) for replica in list(self._suspects)))

    async def _ask(self, replica: Replica) -> None:
        healthy = await self._upstream.is_healthy(replica.lease.url)
        wanted = replica in self._waiting or self._fleet.replicas.get(replica.lease.replica) is replica
        if healthy or not wanted:
            if self._suspects.pop(replica) and healthy:
                replica.failed_until = 0.0
                log.info("replica_resumed_answering", replica=replica.lease.replica)
            return
        self._suspects[replica] += 1
        replica.failed_until = time.monotonic() + 2 * PROBE_SECONDS + HEALTH_SECONDS
        if self._suspects[replica] == 1:
            log.warning("replica_stopped_answering", replica=replica.lease.replica)
        if self._suspects[replica] >= FAILURES and self._others_can_serve(replica):
            self._give_up(replica)

    def _give_up(self, replica: Replica) -> None:
        for watch in self._waiting.get(replica, {}):
            watch.give_up()

    def _others_can_serve(self, replica: Replica) -> bool:
        return any(
            other.lease.names & replica.lease.names and other.takes_requests and not self._suspects.get(other)
            for other in self._fleet.replicas.values()
            if other is not replica
        )
