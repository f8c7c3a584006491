"""Finds out which replicas this router itself cannot reach, whatever their leases say.

A lease tells what the agent beside the engine sees. Between router and engine a network can be cut, or an
engine can hang without closing a connection. So a replica that leaves a request waiting for its first
byte, or that failed one, is asked for its health until it answers. While it does not, it gets no new
requests, and those that wait on it go elsewhere.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from cluster.fleet import Fleet
from cluster.replicas import Replica
from router.errors import AttemptFailedError
from router.upstream import HEALTH_SECONDS, Upstream

PROBE_SECONDS = 1.0
"""How often a suspect is asked, and how long a request waits before its replica becomes one."""
FAILURES = 3
"""Unanswered questions in a row after which requests are taken away from a replica."""

log = structlog.get_logger()


class Probes:
    """The suspects of one router. `run` asks them."""

    def __init__(self, fleet: Fleet, upstream: Upstream) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._waiting: dict[Replica, dict[asyncio.Timeout, float]] = {}
        self._suspects: dict[Replica, int] = {}

    @property
    def suspects(self) -> list[str]:
        """Ids of the replicas that do not answer this router."""
        return sorted(replica.lease.replica for replica, failures in self._suspects.items() if failures)

    def suspect(self, replica: Replica) -> None:
        """Ask this replica until it answers: it has just failed."""
        self._suspects.setdefault(replica, 0)

    @asynccontextmanager
    async def watched(self, replica: Replica) -> AsyncIterator[None]:
        """A wait for the beginning of an answer.

        Raises `AttemptFailedError` when the replica does not answer and another one could.
        """
        waiting = self._waiting.setdefault(replica, {})
        try:
            async with asyncio.timeout(None) as limit:
                waiting[limit] = time.monotonic()
                yield
        except TimeoutError as error:
            raise AttemptFailedError(
                "the replica does not answer any more", replica_down=True, timed_out=True
            ) from error
        finally:
            waiting.pop(limit, None)
            if not waiting:
                self._waiting.pop(replica, None)

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            overdue = time.monotonic() - PROBE_SECONDS
            for replica, waiting in self._waiting.items():
                if next(iter(waiting.values()), overdue) < overdue:
                    self.suspect(replica)
            await asyncio.gather(*(self._ask(replica) for replica in list(self._suspects)))

    async def _ask(self, replica: Replica) -> None:
        healthy = await self._upstream.is_healthy(replica.lease.url)
        wanted = replica in self._waiting or self._fleet.replicas.get(replica.lease.replica) is replica
        if healthy or not wanted:
            if self._suspects.pop(replica) and healthy:
                replica.failed_until = 0.0
                log.info("replica_answers_again", replica=replica.lease.replica)
            return
        self._suspects[replica] += 1
        replica.failed_until = time.monotonic() + 2 * PROBE_SECONDS + HEALTH_SECONDS
        if self._suspects[replica] == 1:
            log.warning("replica_does_not_answer", replica=replica.lease.replica)
        if self._suspects[replica] >= FAILURES and self._others_can_serve(replica):
            for limit in self._waiting.get(replica, {}):
                limit.reschedule(asyncio.get_running_loop().time())

    def _others_can_serve(self, replica: Replica) -> bool:
        return any(
            other.lease.model == replica.lease.model
            and other.takes_requests
            and not self._suspects.get(other)
            for other in self._fleet.replicas.values()
            if other is not replica
        )
