"""Replicas as one router sees them, how fast they are, and the models they serve."""

import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.protocol.block_keys import Namespace
from cluster.protocol.wire import Lease, Load, ReplicaState
from policies.choice import REQUEST_TOKENS
from policies.types import Costs

DECAY = 0.98
"""What remains of the past with every prompt: about the last fifty count."""
HALF_LIFE_SECONDS = 20.0
"""Measurements that no new ones follow fade: what was slow is avoided, and would never be measured again."""
STEP_TOKENS = 128.0
"""What an engine step costs besides its tokens."""
PRIOR_TOKENS = 5_000.0
"""Work at the fleet's own pace with which every replica begins."""
TOLERANCE = 1.25
"""Replicas this close to the middle count as equal: below it lies what chance and batching do."""


class Pace:
    """Seconds of waiting for so many tokens of work, the past fading."""

    def __init__(self) -> None:
        self.tokens = 0.0
        self.seconds = 0.0
        self.observed_at = 0.0
        """Monotonic time in seconds."""

    @property
    def seconds_per_token(self) -> float:
        """Seconds that a token of work takes; 0 before the first measurement."""
        return self.seconds / self.tokens if self.tokens else 0.0

    def observe(self, queued_tokens: int, running: int, seconds: float, now: float) -> None:
        """A first token came so long after its request was sent, behind so much work in all."""
        work = queued_tokens + REQUEST_TOKENS * running + STEP_TOKENS
        self.tokens = self.tokens * DECAY + work
        self.seconds = self.seconds * DECAY + seconds
        self.observed_at = now


def relative_paces(paces: Sequence[Pace], now: float) -> Costs:
    """Time per token of each replica over that of the one in the middle; 1 where it is not known."""
    tokens = np.array([pace.tokens for pace in paces])
    seconds = np.array([pace.seconds for pace in paces])
    age = now - np.array([pace.observed_at for pace in paces])
    known = tokens > 0
    middle = float(np.median(seconds[known] / tokens[known])) if known.sum() > 1 else 0.0
    relative = np.ones(len(paces))
    if middle:
        fading = 0.5 ** (age / HALF_LIFE_SECONDS)
        relative = (seconds / middle * fading + PRIOR_TOKENS) / (tokens * fading + PRIOR_TOKENS)
        relative[(relative <= TOLERANCE) & (relative >= 1 / TOLERANCE)] = 1.0
    relative.flags.writeable = False
    return relative


GONE_SECONDS = 600.0
"""How long a model that nobody serves any more counts as one that will come back."""
MAX_GONE = 1_024
"""Names of such models; those that went first are forgotten."""
NO_LIMIT = 2**62


class Prefill(Protocol):
    """A request whose prompt an engine computes."""

    def progress(self) -> bool:
        """Look how far the engine has computed the prompt by now; whether that is further than before."""


@dataclass(slots=True, eq=False)
class Replica:
    """One replica as this router sees it."""

    lease: Lease
    epoch: int
    slot: int
    """The replica's number in the index and in the fleet's table, as long as it belongs to the fleet."""
    load: Load = field(default_factory=Load)
    running: int = 0
    """Requests this router has booked here that have not ended."""
    queued_tokens: int = 0
    """Their uncached prompt tokens whose prefill has not finished."""
    active_tokens: int = 0
    """All their prompt tokens."""
    engine_tokens: int = 0
    """Queued tokens that its engine has been sent, and whose computation is seen: by events, or by a first
    token."""
    sent_tokens: int = 0
    """Prompt tokens that this router has ever given it to compute."""
    held: int = 0
    """Requests that wait in this router."""
    prefilling: dict[Prefill, None] = field(default_factory=dict)
    """Requests at the engine of whose prompts events have not shown every block."""
    pace: Pace = field(default_factory=Pace)
    failed_until: float = 0.0
    """Monotonic time in seconds before which this replica is left alone after a failed attempt."""
    lease_missing_since: float | None = None
    """Monotonic time in seconds since which Redis has had no lease of it, though nobody said good-bye: its
    agent is dead, or cannot write. What is known of its blocks is as old."""
    lost: bool = False
    """Whether it was dismissed without a farewell, since its engine does not answer either."""
    drained: bool = False
    """Whether an operator has taken it out of service, for all routers."""

    @property
    def takes_requests(self) -> bool:
        """Whether new requests may go here, unless one has just failed."""
        return self.lease.state is ReplicaState.READY and not self.drained

    def has_context_for(self, tokens: int) -> bool:
        """Whether its engine takes requests that need so many tokens of context, as far as it says."""
        return tokens <= (self.lease.max_model_len or NO_LIMIT)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model that clients can name, and the replicas that serve it, ordered by id."""

    name: str
    lora: str
    """Name of the adapter, "" for the base model."""
    replicas: tuple[Replica, ...]
    ids: tuple[str, ...]
    slots: NDArray[np.intp]
    """The slot of each of `replicas`."""
    rows: dict[str, int]
    """Where each id stands in `replicas`."""
    namespace: Namespace | None
    """The namespace of most replicas; None when no replica's cache can be seen."""
    max_model_len: int
    """Tokens; the largest of its replicas that say so, 0 when none does."""
    context_limits: NDArray[np.int64] | None
    """Tokens that each of `replicas` takes, `NO_LIMIT` where it does not say; None where all are alike."""
    capacity_tokens: NDArray[np.float64]
    """Tokens of KV memory of each of `replicas`; infinite where it does not say."""

    @property
    def base(self) -> str:
        """What its base model is called where models are told apart."""
        return self.replicas[0].lease.base

    def row_of(self, replica: Replica | None) -> int:
        """Where a replica stands in `replicas`; -1 when it does not."""
        row = -1 if replica is None else self.rows.get(replica.lease.replica, -1)
        return row if row >= 0 and self.replicas[row] is replica else -1

    def fits(self, context_tokens: int) -> bool:
        """Whether at least one replica, ready or not, takes requests that need so many tokens of context."""
        return context_tokens <= self.max_model_len or any(
            replica.has_context_for(context_tokens) for replica in self.replicas
        )

    @property
    def num_ready(self) -> int:
        """Replicas that take requests."""
        return sum(replica.takes_requests for replica in self.replicas)

    @property
    def ready(self) -> bool:
        """Whether at least one replica takes requests."""
        return self.num_ready > 0


class ServedNames:
    """Names of models that were served lately and are not any more. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._served: Collection[str] = ()
        self._gone: OrderedDict[str, float] = OrderedDict()

    def note(self, served: Collection[str], now: float) -> None:
        """These are served now."""
        for name in self._served:
            if name not in served:
                self._gone[name] = now
        for name in served:
            self._gone.pop(name, None)
        while len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)
        self._served = served

    def has(self, name: str, now: float) -> bool:
        """Whether a model of this name has gone within the last `GONE_SECONDS`."""
        return self._gone.get(name, -math.inf) + GONE_SECONDS > now


def models_of(replicas: Iterable[Replica]) -> dict[str, Model]:
    """The models of these replicas, by every name a client may use."""
    names: dict[tuple[str, str], list[Replica]] = {}
    for replica in sorted(replicas, key=lambda replica: replica.lease.replica):
        lease = replica.lease
        for name in lease.names:
            names.setdefault((name, ""), []).append(replica)
        for adapter in set(lease.adapters):
            names.setdefault((adapter, adapter), []).append(replica)
    return {name: _model(name, lora, replicas) for (name, lora), replicas in names.items()}


def odd_replicas(models: Iterable[Model]) -> list[tuple[str, str]]:
    """Replicas whose blocks cannot be told from a prompt of their model, and why: their caches count as
    unknown.
    """
    odd = []
    for model in models:
        usual = model.namespace
        if usual is None or model.lora:
            continue
        for lease in (replica.lease for replica in model.replicas):
            if lease.model != model.name or not lease.publishes_events or lease.namespace() == usual:
                continue
            reason = (
                f"blocks of {lease.block_size} tokens, where most replicas have {usual.block_size}"
                if lease.block_size != usual.block_size
                else "another tokenizer than most replicas of its model"
            )
            odd.append((lease.replica, f"{reason}: its cache is not used"))
    return odd


def _model(name: str, lora: str, replicas: list[Replica]) -> Model:
    namespaces = Counter(
        replica.lease.namespace(lora)
        for replica in replicas
        if replica.lease.publishes_events and replica.lease.block_size
    )
    ids = tuple(replica.lease.replica for replica in replicas)
    limits = [replica.lease.max_model_len for replica in replicas]
    return Model(
        name=name,
        lora=lora,
        replicas=tuple(replicas),
        ids=ids,
        slots=np.array([replica.slot for replica in replicas], dtype=np.intp),
        rows={replica_id: row for row, replica_id in enumerate(ids)},
        namespace=namespaces.most_common(1)[0][0] if namespaces else None,
        max_model_len=max(limits),
        capacity_tokens=np.array(
            [replica.lease.capacity_blocks * replica.lease.block_size or math.inf for replica in replicas]
        ),
        context_limits=(
            np.array([limit or NO_LIMIT for limit in limits], dtype=np.int64)
            if len(set(limits)) > 1
            else None
        ),
    )
