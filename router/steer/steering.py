"""Which policy decides which conversation, as the settings say and operators have decided since.

What operators decide stands in Redis and holds for every router of the deployment: each reads it twice a
second. Without Redis the last decision goes on.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from cluster.errors import StoreUnavailableError
from cluster.store.steering import Experiment, SteeringStore
from policies.types import Catalog
from router.answers import Answer
from router.steer.experiment import Assignment, Trial, describe_experiment
from router.steer.operator_commands import CommandFollower

POLL_SECONDS = 0.5
RESULTS_SECONDS = 2.0
"""How often what this router has counted is published."""

log = structlog.get_logger()


class PolicyAnswer(Answer):
    """The policy in force."""

    policy: str
    set_by: str
    setting: str
    policies: list[str]
    experiment: dict[str, Any] | None


class Steering:
    """The policies of one router. `run` follows what is decided for all."""

    def __init__(
        self,
        store: SteeringStore,
        catalog: Catalog,
        setting: str,
        router_id: str,
        operator_commands: CommandFollower,
    ) -> None:
        self._store = store
        self._operator_commands = operator_commands
        self._catalog = catalog
        self._setting = setting
        self._router_id = router_id
        self._decided = ("", b"")
        self._trial: Trial | None = None
        self._default = Assignment(setting, catalog[setting])
        self._next_results = 0.0
        self.synchronised = asyncio.Event()
        """Set once the decisions in Redis have been read."""
        self.problems: tuple[str, ...] = ()
        """What cannot be done here as it was decided, in words."""

    def policy_for(self, conversation_key: int) -> Assignment:
        """The policy that decides this conversation now. Conversations without a key take part in nothing."""
        if self._trial is None or not conversation_key:
            return self._default
        return self._trial.assign(conversation_key)

    async def run(self) -> None:
        """Follow what is decided, and publish what was counted, until cancelled."""
        while True:
            with suppress(StoreUnavailableError):  # the follower logs it
                await self._refresh()
                await self._publish_results()
            await asyncio.sleep(POLL_SECONDS)

    async def decide_policy(self, name: str) -> None:
        """Switch all routers to a policy of the catalog, or with "" to their settings.

        Raises `StoreUnavailableError`; nothing has changed then.
        """
        await self._store.decide_policy(name)
        await self._refresh()

    async def decide_experiment(self, experiment: Experiment | None) -> None:
        """Start an experiment on all routers, or end it. Raises `StoreUnavailableError`; nothing has changed
        then."""
        await self._store.decide_experiment(experiment)
        await self._refresh()

    def describe(self) -> PolicyAnswer:
        """What is in force here."""
        return PolicyAnswer(
            policy=self._default.policy_name,
            set_by="admin" if self._default.policy_name == self._decided[0] else "setting",
            setting=self._setting,
            policies=sorted(self._catalog),
            experiment=describe_experiment(self._trial.experiment) if self._trial else None,
        )

    async def report(self) -> dict[str, Any] | None:
        """What the running experiment shows, over all routers; without Redis over this one."""
        trial = self._trial
        if trial is None:
            return None
        results: dict[str, bytes] = {}
        with suppress(StoreUnavailableError):
            results = await self._store.results(trial.id)
        return trial.report([data for router, data in results.items() if router != self._router_id])

    async def _refresh(self) -> None:
        decided = await self._store.read()
        await self._operator_commands.refresh()
        self.synchronised.set()
        if decided != self._decided:
            self._decided = decided
            self._apply(*decided)

    def _apply(self, decided_policy: str, encoded_experiment: bytes) -> None:
        problems = []
        name = decided_policy or self._setting
        if name not in self._catalog:
            problems.append(
                f"policy {name!r}, set for all routers, is unknown here: {self._setting!r} decides"
            )
            name = self._setting
        self._default = Assignment(name, self._catalog[name])
        trial = None
        try:
            experiment = msgspec.json.decode(encoded_experiment or b"null", type=Experiment | None)
            if experiment is not None:
                trial = Trial(experiment, name, self._catalog)
        except msgspec.DecodeError as error:
            problems.append(f"the experiment cannot be read: {error}")
        except KeyError as error:
            problems.append(f"the experiment's policy {error} is unknown here: it is not run")
        if trial is None or self._trial is None or trial.id != self._trial.id:
            self._trial = trial
        self.problems = tuple(problems)
        log.info("steering_changed", **msgspec.structs.asdict(self.describe()), problems=problems)

    async def _publish_results(self) -> None:
        if self._trial is not None and time.monotonic() >= self._next_results:
            self._next_results = time.monotonic() + RESULTS_SECONDS
            await self._store.publish_results(self._trial.id, self._router_id, self._trial.encode())
