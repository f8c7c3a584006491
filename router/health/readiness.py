"""Whether a router can serve requests well yet."""

import asyncio
import time

import structlog

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model
from cluster.sync.follower import Follower
from router.errors import ApiError, InvalidRequestError, NoReplicaReadyError, UnknownModelError, quoted
from router.requests.tokenizers import Tokenizers
from router.steer.steering import Steering

POLL_SECONDS = 0.05
WATCH_SECONDS, SAY_SECONDS = 0.5, 10.0
"""How often readiness is looked at for the log, and how often what is missing is said again."""
log: structlog.stdlib.BoundLogger = structlog.get_logger()


def model_of(fleet: Fleet, name: str) -> Model:
    """The model that a client names; where it names none, the only one there is, as for an engine.

    Raises `NoReplicaReadyError`, `UnknownModelError` or `InvalidRequestError`.
    """
    if not name:
        served = [names for replica in fleet.replicas.values() if (names := replica.lease.names)]
        if not served:
            raise NoReplicaReadyError("No replica serves any model at the moment; try again shortly.")
        name = min(frozenset.intersection(*served), default="")
        if not name:
            number = len({min(names) for names in served})
            raise InvalidRequestError(
                f"Missing required parameter: 'model'. There are {number}: see GET /v1/models.", param="model"
            )
    model = fleet.models.get(name)
    if model is None:
        raise without_replicas(fleet, name)
    return model


def without_replicas(fleet: Fleet, name: str) -> ApiError:
    """The error for a client that names a model that no replica serves. One that was served a while ago, and
    any while this router knows of no replica at all because of Redis, may be there again in a moment.
    """
    blind = not fleet.replicas and not (fleet.store_reachable and not fleet.store.refusal)
    if blind or fleet.served_lately(name):
        return NoReplicaReadyError(f"No replica serves {quoted(name)} at the moment; try again shortly.")
    return UnknownModelError(name)


class Readiness:
    """What a router still lacks."""

    def __init__(self, fleet: Fleet, follower: Follower, steering: Steering, tokenizers: Tokenizers) -> None:
        self._fleet = fleet
        self._follower = follower
        self._steering = steering
        self._tokenizers = tokenizers
        self.stopping = False
        """Whether the router has been asked to stop, and should be sent no more requests."""

    def missing(self) -> list[str]:
        """All that is missing, in words; empty when requests can be served well."""
        ready = any(model.ready for model in self._fleet.models.values())
        stops = ["this router is about to stop"] if self.stopping else []
        return [*stops, *self._unknown(), *([] if ready else ["no replica is ready"])]

    async def wait(self, seconds: float) -> None:
        """Wait until this router knows what the fleet is now, if only that it is empty; at most so long."""
        for _ in range(round(seconds / POLL_SECONDS)):
            if not self._unknown():
                return
            await asyncio.sleep(POLL_SECONDS)

    async def run(self) -> None:
        """Log what this router waits for, at once and every so often, and when it is ready. Never ends."""
        was_ready, due = False, 0.0
        while True:
            missing = self.missing()
            if missing and (was_ready or time.monotonic() >= due):
                log.info("router_waits", missing=missing)
                due = time.monotonic() + SAY_SECONDS
            elif not missing and not was_ready:
                log.info("router_ready", models=sorted(self._fleet.models))
            was_ready = not missing
            await asyncio.sleep(WATCH_SECONDS)

    def _unknown(self) -> list[str]:
        synchronised = self._follower.synchronised.is_set() and self._steering.synchronised.is_set()
        unknown = [] if synchronised else ["the state in Redis has not been read yet"]
        unknown += [
            f"the tokenizer of {model.name} has not been checked yet"
            for model in self._fleet.models.values()
            if model.ready and not self._tokenizers.settled(model.name)
        ]
        return unknown
