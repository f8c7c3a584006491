"""In which ways a router works worse than it could, in one list for ``/healthz``, metrics and dashboard.

Every one of these ends by itself when its cause does; none needs a restart.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import odd_replicas
from cluster.log import is_dropping_lines, num_lines_dropped
from cluster.store.store_condition import SLOW_SECONDS
from cluster.sync.follower import MISSING_LEASE_SECONDS
from router.health.probes import Probes
from router.requests.tokenizers import Tokenizers
from router.steer.steering import Steering

Kind = Literal[
    "redis",
    "redis_refuses",
    "redis_slow",
    "redis_rights",
    "lease",
    "log",
    "tokenizer",
    "shape",
    "replica",
    "namespace",
    "unreachable",
    "index",
    "steering",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

REASON = 120
"""Of what Redis answers so many characters are shown."""


@dataclass(frozen=True, slots=True)
class Degradation:
    """One way in which the router is degraded, in words."""

    kind: Kind | Literal["lost"]
    text: str
    replica: str = ""
    """The replica that it is about, if it is about one."""
    model: str = ""


class Health:
    """What a router knows of its own condition."""

    def __init__(self, fleet: Fleet, tokenizers: Tokenizers, probes: Probes, steering: Steering) -> None:
        self._fleet = fleet
        self._tokenizers = tokenizers
        self._probes = probes
        self._steering = steering

    def degradations(self) -> Iterator[Degradation]:
        """All that hold now, the widest first."""
        fleet = self._fleet
        yield from self._of_redis(time.monotonic())
        if is_dropping_lines():
            yield Degradation("log", f"the log cannot be written: {num_lines_dropped()} lines lost so far")
        if fleet.index.refused_blocks:
            yield Degradation("index", f"the index is full: {fleet.index.refused_blocks} blocks not taken in")
        for problem in self._steering.problems:
            yield Degradation("steering", problem)
        for model, alarm in sorted(self._tokenizers.alarms().items()):
            yield Degradation("tokenizer", f"model {model}: {alarm}", model=model)
        for model, problem in self._tokenizers.shapes():
            yield Degradation("shape", f"model {model}: {problem}", model=model)
        for replica_id, reason in odd_replicas(fleet.models.values()):
            yield Degradation("namespace", f"replica {replica_id}: {reason}", replica_id)
        for replica_id in self._probes.suspects:
            yield Degradation("unreachable", f"replica {replica_id}: does not answer this router", replica_id)
        for replica_id, replica in sorted(fleet.replicas.items()):
            for alarm in replica.lease.alarms:
                yield Degradation("replica", f"replica {replica_id}: {alarm}", replica_id)

    def _of_redis(self, now: float) -> Iterator[Degradation]:
        fleet, store = self._fleet, self._fleet.store
        if not fleet.store_reachable:
            trouble = "Redis refuses to be read" if store.unreadable else "Redis does not answer"
            if reason := (store.unreadable or store.tls_problem)[:REASON]:
                trouble += f" ({reason})"
            yield Degradation("redis", f"{trouble}: routing on the last known state")
        if store.refusal:
            text = f"Redis refuses writes ({store.refusal[:REASON]}): routing on the last known state"
            yield Degradation("redis_refuses", text)
        elif fleet.store_reachable and (seconds := store.seconds(now)) > SLOW_SECONDS:
            yield Degradation("redis_slow", f"Redis is slow: it takes {seconds:.1f} s to answer")
        if store.missing_rights:
            rights = " ".join(store.missing_rights)
            yield Degradation("redis_rights", f"Redis does not allow all that is needed: {rights}")
        for replica_id, replica in sorted(fleet.replicas.items()):
            since = replica.lease_missing_since
            if since is not None and now - since >= MISSING_LEASE_SECONDS:
                text = (
                    f"replica {replica_id}: not renewed in Redis for {now - since:.0f} s: its agent is dead "
                    "or cannot write; it serves on with what was known of its blocks"
                )
                yield Degradation("lease", text, replica_id)
