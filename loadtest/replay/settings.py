"""What ``warmroute replay`` is asked for, read from flags and environment (prefix ``WARMROUTE_``)."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from cluster.errors import StartUpError
from cluster.settings import EnvironmentSettings
from loadtest.options import parts_of
from loadtest.replay.survey import WorkloadSource
from loadtest.scenarios.scenario import ScenarioError, scenario_path
from loadtest.simulator.plan import Plan
from loadtest.simulator.profiles import PROFILES
from loadtest.workloads.catalog import WORKLOADS
from loadtest.workloads.trace_rows import TOKENS_PER_ID, TimeUnit
from policies.catalog import DEFAULT_POLICY, POLICIES

SHOWN_POLICIES = (
    DEFAULT_POLICY,
    "llm-d-weighted",
    "lmetric",
    "dynamo",
    "vllm-router-cache-aware",
    "round-robin",
)
"""Compared unless others are named: ours, the strongest and best known others, and one that is blind."""
TRACE_ONLY = ("length_scale", "block_size", "tokens_per_id", "time_unit", "first", "last")


class ReplaySettings(EnvironmentSettings):
    """Which traffic, through which policies, over which fleet."""

    trace: Path | None = None
    """Recorded requests, JSON lines in Mooncake's format; plain or gzipped."""
    workload: str = ""
    """Instead of a trace, generated requests: chat, agents, rag, ... (a wrong name lists all)."""
    scenario: str = ""
    """Instead of a trace: a scenario's name, or its .toml file."""
    length_scale: float = Field(1.0, gt=0, le=1)
    """Shorten a trace's prompts and answers, such as 0.125."""
    block_size: int = Field(16, ge=1)
    """Tokens per block of a trace; generated workloads have their own."""
    tokens_per_id: int = Field(TOKENS_PER_ID, ge=1, le=1 << 16)
    """Of a trace: tokens that one of its hash ids stands for."""
    time_unit: TimeUnit = "auto"
    """Of a trace: s, ms, or auto, which takes what the distances between timestamps say."""
    first: int = Field(0, ge=0)
    """Of a trace: the first request, from 0."""
    last: int | None = Field(None, ge=1)
    """Of a trace: the request to stop before."""

    policies: Annotated[tuple[str, ...], NoDecode] = SHOWN_POLICIES
    """Names separated by commas, or all."""
    load: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], NoDecode] = ()
    """Times the workload's own rate, such as 1,1.5,2; otherwise from light to near saturation."""
    seeds: int = Field(1, ge=1, le=1000)
    """Repeat everything with so many seeds (0, 1, ...); show medians."""
    capacity: bool = False
    """Compare hit rates with smaller and larger caches, too."""

    replicas: int = Field(8, ge=1, le=1024)
    """Number of engines."""
    routers: int = Field(1, ge=1, le=64)
    """Number of routers."""
    profile: str = "sim"
    """How fast engines are."""
    blocks: int | None = Field(None, ge=1)
    """KV blocks per replica; otherwise the profile's."""
    event_lag: float = Field(1000 * Plan().event_lag_seconds, ge=0, allow_inf_nan=False)
    """Milliseconds until routers know of cache events."""
    gossip_lag: float = Field(1000 * Plan().gossip_lag_seconds, ge=0, allow_inf_nan=False)
    """Milliseconds until routers know of each other's bookings."""
    slow: Annotated[dict[int, Annotated[float, Field(ge=1, allow_inf_nan=False)]], NoDecode] = Field(
        default_factory=dict
    )
    """Slow replicas, such as 0:2 if number 0 needs twice as long."""

    changes: bool = True
    """Replay with a join and a death, too, at one load; done unless it is refused."""
    join_at: float | None = Field(None, ge=0, allow_inf_nan=False)
    """When a replica joins, in virtual seconds; otherwise after a third."""
    death_at: float | None = Field(None, ge=0, allow_inf_nan=False)
    """When a replica dies, in virtual seconds; otherwise after two thirds."""

    output: Path | None = None
    """Directory of the report; otherwise replay-NAME."""
    jobs: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=1024)
    """Processes; otherwise one per CPU core."""

    @field_validator("workload", "profile")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        names: Mapping[str, object] = WORKLOADS if info.field_name == "workload" else PROFILES
        if value and value not in names:
            raise ValueError(f"unknown {info.field_name}, choose one of {', '.join(names)}")
        return value

    @field_validator("policies", "load", mode="before")
    @classmethod
    def _parts(cls, value: object) -> object:
        return parts_of(value)

    @field_validator("policies")
    @classmethod
    def _known_policies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == ("all",):
            return tuple(POLICIES)
        if unknown := [name for name in value if name not in POLICIES]:
            choices = ", ".join(("all", *POLICIES))
            raise ValueError(f"unknown policy {', '.join(unknown)}, choose from {choices}")
        if not value:
            raise ValueError("no policy is named")
        return tuple(dict.fromkeys(value))

    @field_validator("load")
    @classmethod
    def _lowest_first(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    @field_validator("slow", mode="before")
    @classmethod
    def _slow(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition(":") for part in value.split(",") if part.strip()]
        if not all(number.strip() and factor.strip() for number, _, factor in pairs):
            raise ValueError("expected NUMBER:FACTOR pairs separated by commas, such as 0:2")
        return {number.strip(): factor.strip() for number, _, factor in pairs}

    def source(self) -> WorkloadSource:
        """Where the requests come from. Raises `StartUpError` for options that do not go together."""
        if sum(map(bool, (self.trace, self.workload, self.scenario))) != 1:
            raise StartUpError(
                f"give either --trace FILE, or --workload and one of {', '.join(WORKLOADS)}, or --scenario "
                "and a name or FILE"
            )
        if not self.trace and (given := self.model_fields_set.intersection(TRACE_ONLY)):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in TRACE_ONLY if name in given)
            raise StartUpError(f"{flags}: only for a --trace")
        if self.last is not None and self.last <= self.first:
            raise StartUpError(f"--last {self.last} leaves nothing: it must be above --first {self.first}")
        try:
            scenario = scenario_path(self.scenario) if self.scenario else None
        except ScenarioError as error:
            raise StartUpError(f"--scenario: {error}") from error
        return WorkloadSource(
            self.trace or scenario or self.workload,
            self.block_size,
            self.length_scale,
            self.first,
            self.last,
            self.tokens_per_id,
            self.time_unit,
        )

    def plan(self) -> Plan:
        """The fleet, without changes. Raises `StartUpError` for options that do not go together."""
        for name in ("join_at", "death_at"):
            if getattr(self, name) is not None and not self.changes:
                raise StartUpError(f"--no-changes leaves no --{name.replace('_', '-')}")
        if unknown := [number for number in self.slow if not 0 <= number < self.replicas]:
            raise StartUpError(f"--slow {unknown[0]}: replicas are numbered from 0 to {self.replicas - 1}")
        profile = PROFILES[self.profile]
        return Plan(
            replicas=self.replicas,
            routers=self.routers,
            profile=profile if self.blocks is None else replace(profile, num_blocks=self.blocks),
            slow=self.slow,
            event_lag_seconds=self.event_lag / 1000,
            gossip_lag_seconds=self.gossip_lag / 1000,
        )
