"""What ``warmroute loadtest`` is asked for, read from flags and environment (prefix ``WARMROUTE_``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from cluster.errors import StartUpError
from cluster.settings import EnvironmentSettings
from loadtest.options import parts_of
from loadtest.scenarios.scenario import Scenario, ScenarioError, load_scenario
from loadtest.trial.money import Price
from loadtest.trial.player import MAX_CONVERSATIONS, Traffic
from policies.catalog import DEFAULT_POLICY, POLICIES

ROUND_DRAIN_SECONDS = 600.0
"""How long a round waits for open conversations."""
SWEEP_DRAIN_SECONDS = 20.0
OUR_NAME = "Warmroute"
"""The default policy's name here: its own, warm, is also what requests can be."""
OWN_FLEET_ONLY = ("engine", "replicas", "blocks", "prefill_rate", "model")
POLICIES_ONLY = ("control", "policy")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Arm:
    """One contestant: a policy of a Warmroute router, or a URL."""

    name: str
    url: str = ""
    """Empty: the fleet's own router."""
    policy: str = ""
    """The policy to which that router is switched."""


class TrialSettings(EnvironmentSettings):
    """Which arms, which traffic, for how long."""

    a: str = ""
    """``URL`` or ``NAME=URL`` of the control, instead of policies."""
    b: str = ""
    """``URL`` or ``NAME=URL`` to compare with it."""
    router_url: str = ""
    """A running Warmroute router, which is switched from policy to policy; empty starts a fleet."""
    control: Annotated[tuple[str, ...], NoDecode] = ("round-robin",)
    """Policies to compare with, separated by commas."""
    policy: str = DEFAULT_POLICY
    """The policy that is compared with the controls."""
    engine: Literal["sim", "vllm"] = "sim"
    """Engines of the fleet that is started: sim or vllm."""
    replicas: int = Field(4, ge=1, le=256)
    """How many engines that fleet has."""
    blocks: int = Field(0, ge=0)
    """KV blocks per replica; 0 lets the engine choose."""
    prefill_rate: Positive | None = None
    """Prompt tokens per second of simulated engines."""
    model: Path | None = None
    """The model of the fleet that is started."""
    model_name: str = ""
    """The name that requests give; the first one that is served by default."""
    api_key: str = Field("", repr=False)
    """Sent as bearer token."""
    admin_token: str = Field("", repr=False)
    """Opens the admin API of the router."""

    scenario: str = "support-bot"
    """A name or a .toml file."""
    rate: Positive | None = None
    """New conversations per second; otherwise the scenario's rate."""
    users: int | None = Field(None, ge=1, le=5000)
    """Instead of a rate: so many users, one conversation after the other."""
    seconds: float = Field(30.0, ge=1, le=86_400)
    """For as long conversations begin in each round."""
    rounds: int = Field(6, ge=0, le=1000)
    """Rounds of each arm, at least 4 for a conclusion."""
    difference: float = Field(0.1, ge=0.005, le=1)
    """Smallest difference to be found, 0.1 for 10%."""
    max_rounds: int = Field(0, ge=0, le=1000)
    """Add as many rounds as that needs, up to so many; 0 asks."""
    seed: int = Field(1, ge=0)
    """Draws the conversations."""
    think_scale: float = Field(1.0, ge=0, le=100)
    """Times the scenario's think times."""
    probes: int = Field(24, ge=0, le=1000)
    """Prompts on the idle fleet, cold and warm."""
    sweep: Annotated[tuple[Positive, ...], NoDecode] = ()
    """Saturation sweep: times the rate, such as 0.5,1,1.5,2."""
    ttft_goal: Positive = 1.0
    """Seconds that p95 of the TTFT may take in the sweep."""
    timeout: Positive = 600.0
    """Seconds per request."""

    gpu_hour_price: float = Field(2.5, ge=0, allow_inf_nan=False)
    """Price of a GPU for an hour."""
    gpus_per_replica: Positive = 1.0
    """GPUs of one replica."""
    currency: str = Field("USD", max_length=10)
    """Currency of the price."""
    requests_per_day: Positive | None = None
    """Your volume; otherwise this test's own rate, around the clock."""
    output: Path | None = None
    """Directory of the report; otherwise loadtest-SCENARIO."""

    @field_validator("control", "sweep", mode="before")
    @classmethod
    def _parts(cls, value: object) -> object:
        return parts_of(value)

    @field_validator("sweep")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    def arms(self) -> list[Arm]:
        """Controls first, ours last. Raises `StartUpError` for options that do not go together."""
        if bool(self.a) != bool(self.b):
            raise StartUpError("--a and --b belong together: two URLs that are compared")
        if not self.rounds and not self.sweep:
            raise StartUpError("--rounds 0 measures nothing without --sweep")
        if self.users and self.sweep:
            raise StartUpError("--sweep raises the rate at which conversations begin; --users has none")
        if self.users and self.rate:
            raise StartUpError("give either --rate or --users")
        if self.a:
            self._refuse(("router_url", *OWN_FLEET_ONLY, *POLICIES_ONLY), "not with --a and --b")
            arms = [_named(self.a, "--a"), _named(self.b, "--b")]
            if arms[0].name == arms[1].name:
                raise StartUpError("--a and --b need different names: give them as NAME=URL")
            return arms
        if self.router_url:
            _named(self.router_url, "--router-url")
            self._refuse(OWN_FLEET_ONLY, "not with --router-url: that fleet runs already")
        names = (*self.control, self.policy)
        if unknown := [name for name in names if name not in POLICIES]:
            raise StartUpError(f"unknown policy {unknown[0]}: choose from {', '.join(POLICIES)}")
        if not self.control or len(set(names)) < len(names):
            raise StartUpError(f"--control needs other policies than {self.policy}, each once")
        return [Arm(OUR_NAME if name == DEFAULT_POLICY else name, policy=name) for name in names]

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        if given := [name for name in names if name in self.model_fields_set]:
            raise StartUpError(f"--{given[0].replace('_', '-')}: {why}")

    def read_scenario(self) -> Scenario:
        """Who uses the system. Raises `StartUpError`."""
        try:
            scenario = load_scenario(self.scenario)
        except ScenarioError as error:
            raise StartUpError(f"--scenario: {error}") from error
        most = self.conversations_per_second(scenario) * self.seconds * max((1.0, *self.sweep))
        if not self.users and most > MAX_CONVERSATIONS:
            raise StartUpError(
                f"a round would hold {most:,.0f} conversations; at most {MAX_CONVERSATIONS:,} can be"
            )
        return scenario

    def conversations_per_second(self, scenario: Scenario) -> float:
        """At which conversations begin in a round that is not of the sweep."""
        return self.rate or scenario.arrivals.conversations_per_second

    def traffic(self, scenario: Scenario, number: int, multiple: float | None = None) -> Traffic:
        """What a round holds; ``multiple`` times the rate in the sweep."""
        return Traffic(
            scenario=scenario,
            seed=self.seed + number,
            seconds=self.seconds,
            rate=self.conversations_per_second(scenario) * (multiple or 1.0),
            users=self.users,
            think_scale=self.think_scale,
            drain_seconds=ROUND_DRAIN_SECONDS if multiple is None else SWEEP_DRAIN_SECONDS,
        )

    def price(self) -> Price:
        """The user's own figures."""
        return Price(self.gpu_hour_price, self.gpus_per_replica, self.currency)


def _named(text: str, flag: str) -> Arm:
    name, separator, url = text.partition("=")
    if not separator or "/" in name:
        name, url = "", text
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise StartUpError(f"{flag} {text}: not a URL such as http://127.0.0.1:8000")
    return Arm(name or parts.netloc, url)
