"""Answers of a router's admin API, as its contract has them, for as many replicas as a test wants."""

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


def rates(requests=100, delivered=0.87, **misses):
    """What became of the prompt tokens of so many requests."""
    prompt = requests * 1000
    share = (lambda part: part) if prompt else (lambda part: None)
    return {
        "requests": requests,
        "failures": 0,
        "prompt_tokens": prompt,
        "available_tokens": int(prompt * 0.9),
        "predicted_tokens": int(prompt * 0.88),
        "delivered_tokens": int(prompt * delivered),
        "available": share(0.9),
        "predicted": share(0.88),
        "delivered": share(delivered),
        "misses": {**dict.fromkeys(REASONS, 0), **misses},
        "saved_tokens": int(prompt * delivered),
        "saved_seconds": prompt * delivered / 1000,
        "priced_tokens": int(prompt * delivered),
    }


def latency(p50):
    """Percentiles around a median; None when there was nothing."""
    if p50 is None:
        return {"count": 0, "p50": None, "p95": None, "p99": None}
    return {"count": 100, "p50": p50, "p95": p50 * 3, "p99": p50 * 5}


def replica(number, **changes):
    """One replica; the higher its number, the more it has to do."""
    load = {
        "booked": number, "held": 0, "queued_tokens": number * 100, "active_tokens": 0, "engine_tokens": 0,
        "booked_by_others": 1, "running": 2, "waiting": number, "kv_usage": 0.5,
    }  # fmt: skip
    values = {
        "replica": f"replica-{number:03}", "model": "m", "url": "http://x", "state": "ready", "epoch": 1,
        "adapters": [], "alarms": [], "drained": False, "reachable": True, "load": load, "block_size": 16,
        "capacity_blocks": 1000, "owned_blocks": 900, "stored_blocks": 5000, "evicted_blocks": 4000,
        "evictions_per_second": 1.0, "last_event_age_seconds": 0.1, "ring_share": 0.1, "pace": 1.0,
        "seconds_per_token": 0.0001, "engine": {"prefix_queries": 100, "prefix_hits": 87},
        "recent": rates(), "hour": rates(),
    }  # fmt: skip
    return {**values, **changes}


def overview(replicas=8, requests=100, alarms=(), **misses):
    """The fleet's overview."""
    misses = misses or ({"cold": 6000, "tail": 6500, "diverted": 500} if requests else {})
    return {
        "time": 1_800_000_000.0,
        "version": "0.1.0",
        "router": "0123456789abcdef",
        "uptime_seconds": 3720.0,
        "policy": {"policy": "warm", "set_by": "", "setting": "", "policies": ["warm"], "experiment": None},
        "experiment": None,
        "alarms": [
            {"kind": "replica", "serious": False, "replica": "r", "model": "", "text": text, "since": 1.8e9}
            for text in alarms
        ],
        "past_alarms": [],
        "fleet": {
            "replicas": replicas, "ready": replicas, "draining": 0, "running": 3, "waiting": 0,
            "queued_tokens": 0, "open_bookings": 3, "held_requests": 0, "index_blocks": 1,
            "paused_requests": 0, "programs": 0, "blocks_wanted_again": 0,
            "requests_per_second": 2.5, "prompt_tokens_per_second": 912.0,
            "recent": rates(requests, **misses),
            "hour": rates(requests, **misses),
            "ttft": {
                "warm": latency(0.12 if requests else None), "cold": latency(2.9 if requests else None),
                "speedup": {"ratio": 24.2, "low": 20.0, "high": 30.0} if requests else None, "enough": 20,
            },
        },
        "replicas": [replica(number) for number in range(replicas)],
        "routers": [
            {"router": "0", "this": True, "running": 3, "queued_tokens": 0, "active_tokens": 0, "replicas": 3}
        ],
    }  # fmt: skip


def trends(steps=60):
    """Ten minutes in which the delivered hit rate rose from 0 to nearly 1."""
    return {
        "step_seconds": 10,
        "end": 1_800_000_600.0,
        "steps": [
            {"time": 1_800_000_000.0 + 10 * step, "sums": {"1": steps, "4": step}} for step in range(steps)
        ],
    }
