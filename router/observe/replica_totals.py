"""What became of the requests of each replica, summed up from the metrics."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Metric


@dataclass(slots=True)
class ReplicaTotals:
    """Sums over all requests that ended on one replica."""

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    """Of requests whose engine said how many it had cached."""
    predicted_cached_tokens: int = 0
    delivered_cached_tokens: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Share of prompt tokens that the engine found in its cache; None before the first request."""
        return self.delivered_cached_tokens / self.prompt_tokens if self.prompt_tokens else None


FIELDS = {
    "warmroute_replica_requests_total": "requests",
    "warmroute_replica_failures_total": "failures",
    "warmroute_prompt_tokens_total": "prompt_tokens",
    "warmroute_predicted_cached_tokens_total": "predicted_cached_tokens",
    "warmroute_delivered_cached_tokens_total": "delivered_cached_tokens",
}
"""The counters that make up the sums."""


def replica_totals(metrics: Iterable[Metric]) -> Mapping[str, ReplicaTotals]:
    """Sums by replica; those without requests are all zero."""
    totals: defaultdict[str, ReplicaTotals] = defaultdict(ReplicaTotals)
    for metric in metrics:
        for sample in metric.samples:
            if field := FIELDS.get(sample.name):
                replica = totals[sample.labels["replica"]]
                setattr(replica, field, getattr(replica, field) + int(sample.value))
    return totals
