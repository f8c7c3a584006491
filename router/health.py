"""In which ways a router works worse than it could, in one list for ``/healthz``, metrics and dashboard.

Every one of these ends by itself when its cause does; none needs a restart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from cluster.fleet import Fleet
from cluster.replicas import odd_replicas
from router.probes import Probes
from router.steering import Steering
from router.tokenizers import Tokenizers

Kind = Literal["redis", "tokenizer", "shape", "replica", "namespace", "unreachable", "index", "steering"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Degradation:
    """One of them, in words."""

    kind: Kind
    text: str


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
        if not fleet.store_reachable:
            yield Degradation("redis", "Redis does not answer: routing on the last known state")
        if fleet.index.refused_blocks:
            yield Degradation("index", f"the index is full: {fleet.index.refused_blocks} blocks not taken in")
        for problem in self._steering.problems:
            yield Degradation("steering", problem)
        for model, alarm in sorted(self._tokenizers.alarms().items()):
            yield Degradation("tokenizer", f"model {model}: {alarm}")
        for model, problem in self._tokenizers.shapes():
            yield Degradation("shape", f"model {model}: {problem}")
        for replica_id, reason in odd_replicas(fleet.models.values()):
            yield Degradation("namespace", f"replica {replica_id}: {reason}")
        for replica_id in self._probes.suspects:
            yield Degradation("unreachable", f"replica {replica_id}: does not answer this router")
        for replica_id, replica in sorted(fleet.replicas.items()):
            for alarm in replica.lease.alarms:
                yield Degradation("replica", f"replica {replica_id}: {alarm}")

    def count(self, kind: Kind) -> int:
        """How many of one kind."""
        return sum(degradation.kind == kind for degradation in self.degradations())
