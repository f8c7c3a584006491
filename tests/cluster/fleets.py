"""Small fleets for tests."""

from cluster.fleet.fleet import Fleet
from cluster.protocol.wire import Lease, Load, ReplicaState


def lease(replica="a", **changes):
    """A ready replica that publishes its blocks."""
    values = {
        "url": f"http://{replica}",
        "state": ReplicaState.READY,
        "model": "m",
        "block_size": 16,
        "publishes_events": True,
    }
    return Lease(replica=replica, **{**values, **changes})


def fleet_of(*leases):
    """A fleet in its first epoch."""
    fleet = Fleet()
    for each in leases:
        fleet.admit(each, 1, Load())
    return fleet


def cached(fleet, keys, prompt_tokens, now=0.0, model="m"):
    """Cached tokens per replica in a snapshot."""
    snapshot = fleet.snapshot(fleet.models[model], keys, prompt_tokens, now)
    return dict(zip(snapshot.replicas, snapshot.cached_tokens.tolist(), strict=True))
