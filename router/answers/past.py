"""What the OpenAPI document says of history and savings, which `router.admin.history` makes as plain JSON."""

from pydantic import BaseModel

from router.answers.overview import LatencyAnswer
from router.explain.misses import Reason


class ReplicaHistoryAnswer(BaseModel):
    """One number for each step."""

    requests: list[int]
    prompt_tokens: list[int]
    available_tokens: list[int]
    predicted_tokens: list[int]
    delivered_tokens: list[int]


class HistoryAnswer(BaseModel):
    """Steps by their start, the oldest first; replicas that had traffic; misses of the whole fleet."""

    step_seconds: int
    times: list[float]
    misses: dict[Reason, list[int]]
    replicas: dict[str, ReplicaHistoryAnswer]


class SavedAnswer(BaseModel):
    """What caches have saved."""

    requests: int
    prompt_tokens: int
    saved_tokens: int
    saved_seconds: float


class SavedHourAnswer(SavedAnswer):
    """In one hour, by its start, on one replica for one model."""

    hour: float
    replica: str
    model: str


class ModelLatencyAnswer(BaseModel):
    """Of one model over the last hour; warm: at least half of the prompt was cached."""

    model: str
    warm: LatencyAnswer
    cold: LatencyAnswer


class SavingsAnswer(BaseModel):
    """The newest hour last."""

    hours: list[SavedHourAnswer]
    total: SavedAnswer
    ttft: list[ModelLatencyAnswer]
