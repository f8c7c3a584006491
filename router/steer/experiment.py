"""One trial of a policy in one router: which arm a conversation is in, and what each arm has counted."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec
import xxhash

from cluster.store.steering import Experiment
from policies.types import Catalog, Policy
from router.steer.arm_totals import GROUPS, ArmTotals
from router.steer.experiment_report import describe_arm, describe_difference

Arm: TypeAlias = Literal["default", "control"]
ARMS: tuple[Arm, ...] = ("default", "control")


@dataclass(frozen=True, slots=True)
class Assignment:
    """By which policy a request is decided, and where it counts."""

    policy_name: str
    policy: Policy
    arm: Arm = "default"
    totals: ArmTotals | None = None
    """The sums of the arm, while an experiment runs. A request counts for the trial in which it began."""
    group: int = 0


class _Counted(msgspec.Struct, frozen=True, array_like=True):
    since: float
    """When counting began, in seconds since 1970."""
    arms: dict[Arm, bytes]


class Trial:
    """An experiment against one default policy, since this router took it up."""

    def __init__(self, experiment: Experiment, default: str, catalog: Catalog) -> None:
        """Raises `KeyError` when the catalog does not have the policy to compare with."""
        self.experiment = experiment
        self._since = time.time()
        self._names: dict[Arm, str] = {"default": default, "control": experiment.control}
        self._policies = {arm: catalog[name] for arm, name in self._names.items()}
        self._totals = {arm: ArmTotals() for arm in ARMS}

    @property
    def id(self) -> str:
        """The same name in all routers that run the same experiment against the same default policy."""
        return f"{self.experiment.name}:{self.experiment.started:.3f}:{self._names['default']}"

    def assign(self, conversation_key: int) -> Assignment:
        """The arm of a conversation: the same for every turn and in every router, with nothing remembered.

        Another share moves only the conversations between the two shares.
        """
        number = draw(self.experiment.name, conversation_key)
        arm: Arm = "control" if number < self.experiment.share * 2**64 else "default"
        # The lowest bits say nothing about which side of the share a number lies on.
        return Assignment(self._names[arm], self._policies[arm], arm, self._totals[arm], number % GROUPS)

    def encode(self) -> bytes:
        """What was counted here, as bytes for Redis."""
        arms = {arm: totals.encode() for arm, totals in self._totals.items()}
        return msgspec.msgpack.encode(_Counted(self._since, arms))

    def report(self, others: Iterable[bytes]) -> dict[str, Any]:
        """What was counted here and, as `encode` gave it, elsewhere. What cannot be read is left out."""
        merged = {arm: ArmTotals() for arm in ARMS}
        since, routers = self._since, 0
        for data in (self.encode(), *others):
            try:
                counted = msgspec.msgpack.decode(data, type=_Counted)
                totals = {arm: ArmTotals.decode(counted.arms[arm]) for arm in ARMS}
            except (ValueError, KeyError):  # a router of another version
                continue
            since, routers = min(since, counted.since), routers + 1
            for arm in ARMS:
                merged[arm].merge(totals[arm])
        return {
            **describe_experiment(self.experiment),
            "since": datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
            "routers": routers,
            "arms": {arm: describe_arm(self._names[arm], merged[arm]) for arm in ARMS},
            "default_minus_control": describe_difference(merged["default"], merged["control"]),
        }


def draw(name: str, conversation_key: int) -> int:
    """64 bits of a conversation's own, drawn anew for each name of an experiment."""
    return xxhash.xxh3_64_intdigest(name.encode() + conversation_key.to_bytes(8, "little"))


def describe_experiment(experiment: Experiment) -> dict[str, Any]:
    """The experiment as it was asked for."""
    return {"name": experiment.name, "control": experiment.control, "share": experiment.share}
