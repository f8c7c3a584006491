"""What Prometheus' gauges show of a router: its fleet, its index, its Redis, its log."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster.fleet.fleet import Fleet
from cluster.log import num_lines_dropped
from cluster.protocol.wire import ReplicaState


class Gauge(NamedTuple):
    """One gauge, and where its value is read."""

    name: str
    documentation: str
    read: Callable[[], float]
    adds_up: bool = False
    """Whether several processes show their sum, and not the largest of what all of them see."""


def fleet_gauges(fleet: Fleet) -> Sequence[Gauge]:
    """All gauges without labels."""
    replicas, index, store, pauses = fleet.replicas, fleet.index, fleet.store, fleet.programs.pauses
    return (
        Gauge(
            "warmroute_open_bookings",
            "Requests booked on replicas",
            lambda: fleet.open_bookings,
            adds_up=True,
        ),
        Gauge(
            "warmroute_waiting_requests",
            "Booked requests that wait in the router for room at an engine",
            lambda: fleet.waiting_requests,
            adds_up=True,
        ),
        Gauge(
            "warmroute_paused_requests",
            "Requests that wait for room in KV memory",
            lambda: len(pauses),
            adds_up=True,
        ),
        Gauge(
            "warmroute_paused_turns",
            "Requests that have begun to wait for room in KV memory so far",
            lambda: pauses.num_turns,
            adds_up=True,
        ),
        Gauge(
            "warmroute_blocks_wanted_again",
            "Blocks that a prompt wanted within a minute after they had been evicted",
            lambda: index.evicted.num_wanted_again,
            adds_up=True,
        ),
        Gauge("warmroute_index_blocks", "Distinct blocks in the prefix index", lambda: len(index)),
        Gauge(
            "warmroute_index_refused_blocks",
            "Blocks not taken in because the index was full",
            lambda: index.refused_blocks,
        ),
        Gauge(
            "warmroute_index_evicted_blocks",
            "Blocks remembered that nobody holds any more",
            lambda: len(index.evicted),
        ),
        Gauge(
            "warmroute_index_repairs",
            "Replicas read anew because the index differed from Redis",
            lambda: fleet.num_repairs,
            adds_up=True,
        ),
        Gauge("warmroute_redis_reachable", "1 while Redis answers", lambda: fleet.store_reachable),
        Gauge("warmroute_redis_refuses_writes", "1 while Redis refuses writes", lambda: bool(store.refusal)),
        Gauge(
            "warmroute_redis_round_trip_seconds",
            "How long Redis took for this router's last write",
            lambda: store.seconds(time.monotonic()),
        ),
        Gauge(
            "warmroute_other_routers",
            "Other routers whose bookings are known",
            lambda: len(fleet.peers.by_router()),
        ),
        Gauge(
            "warmroute_ready_replicas",
            "Replicas that take requests",
            lambda: sum(replica.lease.state is ReplicaState.READY for replica in replicas.values()),
        ),
        Gauge(
            "warmroute_missing_leases",
            "Replicas that serve on though Redis has no lease of them",
            lambda: sum(replica.lease_missing_since is not None for replica in replicas.values()),
        ),
        Gauge(
            "warmroute_log_lines_dropped",
            "Log lines that could not be written",
            num_lines_dropped,
            adds_up=True,
        ),
    )
