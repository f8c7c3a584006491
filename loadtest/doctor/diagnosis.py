"""What the doctor found out about a log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtest.doctor.findings import Finding
from loadtest.doctor.openings import Opening
from loadtest.doctor.sizing import FleetPoint


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What was read."""

    name: str
    lines: int
    requests: int
    conversations: int
    text_bytes: int
    broken: int
    first_broken: Sequence[tuple[int, str]]
    """Line number and reason."""
    skipped: Mapping[str, int]
    """Records that are no prompts, by kind: calls of other endpoints, steps of a trace."""
    newest_first: bool
    """Whether most requests are older than the one before them."""
    refused: int
    """Requests that the model's template does not take; left out."""
    cut_off: str
    """Why reading stopped early; "" when it did not."""
    images: int
    prompt_tokens: int
    blocks: int
    block_size: int
    model: str
    stand_in: bool
    tools_added: bool
    sampled_requests: int
    """Looked at for defects; all of them in short logs."""
    forgotten_blocks: int
    restarts: int
    forgotten_histories: int
    seconds: float

    @property
    def sample_share(self) -> float:
        """The share of the requests that were looked at for defects."""
        return self.sampled_requests / max(self.requests, 1)


@dataclass(frozen=True, slots=True)
class HitRates:
    """Shares of all prompt tokens."""

    now: float
    """One cache without limits, the traffic as it is."""
    mended: float
    """The hit rate of the same cache with every defect mended."""


@dataclass(frozen=True, slots=True)
class Need:
    """What the traffic needs to find nearly all that can be found."""

    working_set_blocks: int
    working_set_tokens: int
    bytes_per_token: int | None
    working_set_bytes: int | None
    replicas: int | None
    """So many with the given memory each hold the working set; None when bytes are not known."""
    kv_bytes_per_replica: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """How caches of limited size would do."""

    curve: Sequence[tuple[float, float]]
    """Capacity in tokens, hit rate."""
    curve_mended: Sequence[tuple[float, float]]
    fleets: Sequence[FleetPoint]
    need: Need
    need_mended: Need


@dataclass(frozen=True, slots=True)
class PersonalFinding:
    """One piece of personal data in an opening that several requests share."""

    kind: str
    masked: str
    requests: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything the reports say."""

    facts: LogFacts
    hit_rates: HitRates
    findings: Sequence[Finding]
    openings: Sequence[Opening]
    shared_requests: int
    """Requests that begin with one of the openings."""
    sizing: Sizing
    personal: Sequence[PersonalFinding] = field(default_factory=tuple)
    command: str = ""


def counted(skipped: Mapping[str, int]) -> str:
    """How many records of each kind were left out."""
    return ", ".join(f"{number:,} of {kind}" for kind, number in sorted(skipped.items())[:8])
