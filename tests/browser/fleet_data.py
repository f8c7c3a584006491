"""The admin API's answers of a fleet too large to start here, in the shape of the contract."""

import random
import time
from typing import Any

REASONS = (
    "cold",
    "diverged",
    "re_rendered",
    "evicted",
    "replica_lost",
    "diverted",
    "other_namespace",
    "tail",
    "unknown",
)
FIELDS = ("requests", "prompt_tokens", "available_tokens", "predicted_tokens", "delivered_tokens")
STEP = 10
LATENCY = {"count": 10, "p50": 0.12, "p95": 0.5, "p99": 0.9}


class LargeFleet:
    """So many replicas with random figures; every overview has new ones."""

    def __init__(self, replicas: int) -> None:
        self._random = random.Random(6)
        self.ids = [f"replica-{number:03d}" for number in range(replicas)]

    def rates(self) -> dict[str, Any]:
        """Figures of one replica that add up."""
        prompt = self._random.randrange(1000, 1_000_000)
        delivered = self._random.randrange(prompt)
        misses = {**dict.fromkeys(REASONS, 0), "cold": prompt - delivered}
        counts = {"prompt_tokens": prompt, "available_tokens": prompt, "predicted_tokens": delivered}
        shares = {"available": 1.0, "predicted": delivered / prompt, "delivered": delivered / prompt}
        saved = {"saved_tokens": delivered, "saved_seconds": delivered / 5000}
        return {
            "requests": 10,
            "failures": 0,
            "misses": misses,
            "delivered_tokens": delivered,
            **counts,
            **shares,
            **saved,
        }

    def replica(self, name: str) -> dict[str, Any]:
        """One replica of an overview."""
        chance = self._random
        load = (
            "booked",
            "held",
            "queued_tokens",
            "active_tokens",
            "engine_tokens",
            "booked_by_others",
            "running",
            "waiting",
        )
        return {
            "replica": name,
            "model": "large",
            "url": f"http://{name}:8000",
            "state": "ready",
            "epoch": 1_795_000_000_000,
            "adapters": [],
            "alarms": [],
            "drained": False,
            "reachable": True,
            "block_size": 16,
            "load": {**{key: chance.randrange(5000) for key in load}, "kv_usage": chance.random()},
            "capacity_blocks": 30_000,
            "owned_blocks": chance.randrange(30_000),
            "stored_blocks": 5,
            "evicted_blocks": 4,
            "evictions_per_second": chance.random() * 40,
            "last_event_age_seconds": chance.random(),
            "ring_share": 1 / len(self.ids),
            "pace": 1.0,
            "seconds_per_token": 0.0002,
            "engine": {"prefix_queries": 1, "prefix_hits": 1},
            "recent": self.rates(),
            "hour": self.rates(),
        }

    def overview(self) -> dict[str, Any]:
        """What the stream sends every second."""
        number = len(self.ids)
        counts = ("running", "waiting", "queued_tokens", "open_bookings", "held_requests", "index_blocks")
        policy = {"policy": "warm", "set_by": "setting", "setting": "warm", "policies": ["warm"]}
        return {
            "time": time.time(),
            "version": "0.1.0",
            "router": "0" * 32,
            "uptime_seconds": 60.0,
            "policy": {**policy, "experiment": None},
            "experiment": None,
            "alarms": [],
            "fleet": {
                "replicas": number,
                "ready": number,
                "draining": 0,
                **dict.fromkeys(counts, 7),
                "requests_per_second": 900.0,
                "prompt_tokens_per_second": 2e6,
                "recent": self.rates(),
                "hour": self.rates(),
                "ttft": {"warm": LATENCY, "cold": LATENCY},
            },
            "replicas": [self.replica(name) for name in self.ids],
            "routers": [],
        }

    def bucket(self, start: float) -> dict[str, Any]:
        """One step of the history, as the stream sends it."""
        columns = {name: [3, 1000, 900, 800, self._random.randrange(800)] for name in self.ids}
        return {"time": start, "replicas": columns, "misses": dict.fromkeys(REASONS, 100)}

    def history(self) -> dict[str, Any]:
        """A full hour."""
        now = int(time.time()) // STEP * STEP
        buckets = [self.bucket(now - 3600 + STEP * step) for step in range(360)]
        return {
            "step_seconds": STEP,
            "times": [bucket["time"] for bucket in buckets],
            "replicas": {
                name: {
                    field: [bucket["replicas"][name][at] for bucket in buckets]
                    for at, field in enumerate(FIELDS)
                }
                for name in self.ids
            },
            "misses": {reason: [bucket["misses"][reason] for bucket in buckets] for reason in REASONS},
        }
