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
STEP = 10
WARM = {"count": 3120, "p50": 0.118, "p95": 0.31, "p99": 0.52}
COLD = {"count": 940, "p50": 0.83, "p95": 1.9, "p99": 2.6}
SPEEDUP = {"ratio": 7.03, "low": 6.64, "high": 7.41}


class LargeFleet:
    """So many replicas with random figures; every overview has new ones."""

    def __init__(self, replicas: int) -> None:
        self._random = random.Random(6)
        self.alarms: list[dict[str, Any]] = []
        self.ids = [f"replica-{number:03d}" for number in range(replicas)]

    def rates(self, prompt: int = 0) -> dict[str, Any]:
        """Figures of one replica, or of so many prompt tokens, that add up."""
        prompt = prompt or self._random.randrange(10_000, 1_000_000)
        available = round(prompt * self._random.uniform(0.88, 0.95))
        delivered = round(available * self._random.uniform(0.9, 0.98))
        computed = prompt - delivered
        misses = {reason: computed // number for number, reason in enumerate(REASONS[1:], 8)}
        return {
            "requests": prompt // 2000,
            "failures": 0,
            "prompt_tokens": prompt,
            "available_tokens": available,
            "predicted_tokens": delivered,
            "delivered_tokens": delivered,
            "available": available / prompt,
            "predicted": delivered / prompt,
            "delivered": delivered / prompt,
            "misses": {"cold": computed - sum(misses.values()), **misses},
            "saved_tokens": delivered,
            "saved_seconds": delivered / 5000,
            "priced_tokens": delivered,
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
        counts = (
            "running",
            "waiting",
            "queued_tokens",
            "open_bookings",
            "held_requests",
            "paused_requests",
            "programs",
            "blocks_wanted_again",
            "index_blocks",
        )
        policy = {"policy": "warm", "set_by": "setting", "setting": "warm", "policies": ["warm"]}
        return {
            "time": time.time(),
            "version": "0.1.0",
            "router": "0" * 32,
            "uptime_seconds": 60.0,
            "policy": {**policy, "experiment": None},
            "experiment": None,
            "alarms": self.alarms,
            "past_alarms": [],
            "fleet": {
                "replicas": number,
                "ready": number,
                "draining": 0,
                **dict.fromkeys(counts, 7),
                "requests_per_second": 900.0,
                "prompt_tokens_per_second": 2e6,
                "recent": self.rates(500_000 * number),
                "hour": self.rates(6_000_000 * number),
                "ttft": {"warm": WARM, "cold": COLD, "speedup": SPEEDUP, "enough": 20},
            },
            "replicas": [self.replica(name) for name in self.ids],
            "routers": [],
        }

    def step(self, start: float) -> dict[str, Any]:
        """One step of the trends: requests by status, tokens, times to the first token."""
        replicas = {name: [3, 1000, self._random.randrange(780, 940)] for name in self.ids}
        number = len(replicas)
        delivered = sum(tokens for _, _, tokens in replicas.values())
        sums = {"200": 3 * number, "1": 1000 * number, "2": 970 * number, "3": delivered, "4": delivered}
        sums |= {"5": 90 * number, **{str(10 + at): 30 * number for at in range(len(REASONS))}}
        for _ in range(30):
            place = str(1000 + round(self._random.gauss(52, 8)))
            sums[place] = sums.get(place, 0) + number
        if self._random.random() < 0.1:
            sums |= {"404": 2, "429": self._random.randrange(1, 9), "502": 1}
        return {"time": start, "sums": sums, "replicas": replicas}

    def requests(self) -> list[dict[str, Any]]:
        """The latest, newest first; every fifth was refused."""
        chance = self._random
        listed = []
        for number in range(20):
            prompt, refused = chance.randrange(500, 9000), number % 5 == 3
            numbers = ("attempts", "held_ms", "paused_ms", "decision_ms", "prepare_ms", "completion_tokens")
            listed.append(
                {
                    **dict.fromkeys(numbers, 1),
                    "request_id": f"{chance.getrandbits(128):032x}",
                    "time": time.time() - 3 * number,
                    "path": "/v1/chat/completions",
                    "tenant": "alpha",
                    "model": "" if refused else "large",
                    "asked_model": "larg" if refused else "large",
                    "replica": "" if refused else chance.choice(self.ids),
                    "policy": "warm",
                    "arm": "default",
                    "reason": "warm",
                    "outcome": "refused" if refused else "ok",
                    "status": 404 if refused else 200,
                    "error": "The model 'larg' does not exist." if refused else "",
                    "stream": True,
                    "prompt_tokens": 0 if refused else prompt,
                    "available_tokens": prompt,
                    "predicted_tokens": prompt,
                    "delivered_tokens": None if refused else round(prompt * chance.uniform(0.5, 1)),
                    "ttft_ms": None if refused else chance.uniform(80, 900),
                    "duration_ms": chance.uniform(900, 9000),
                    "main_miss": None if refused else chance.choice(REASONS[:6]),
                }
            )
        return listed

    def trends(self, steps: int = 360) -> dict[str, Any]:
        """An answer of the trends: as a rule a full hour."""
        now = int(time.time()) // STEP * STEP
        return {
            "step_seconds": STEP,
            "end": float(now),
            "first_seconds": 0.001,
            "ratio": 1.1,
            "labels": [["large"], ["alpha", "beta"], self.ids, ["control", "default"]],
            "steps": [self.step(now - STEP * (steps - at)) for at in range(steps)],
        }
