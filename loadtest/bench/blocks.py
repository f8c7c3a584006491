"""What the benchmark's engines hold, published to Redis as agents do: leases, blocks, heartbeats.

Blocks of an answered prompt are published a moment later, as an agent publishes those of an engine step. The
oldest go when the engine is full.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from cluster.protocol.wire import Lease, Load, ReplicaState
from cluster.settings import ClusterSettings, load_settings
from cluster.store.ownership import OwnershipWriter
from cluster.store.store import connect
from loadtest.bench.prompts import BLOCK_SIZE, MODEL

STEP_SECONDS = 0.02
"""The time between two batches of one engine."""
CAPACITY_BLOCKS = 50_000
LOG_LENGTH = 10_000


class EngineBlocks:
    """The blocks of one engine. Writes are net effects: what is stored was not there before."""

    def __init__(self) -> None:
        self._owned: dict[int, None] = {}
        self._new: dict[int, None] = {}

    def hold(self, keys: Iterable[int]) -> None:
        """Blocks that a prompt has left."""
        for key in keys:
            if key not in self._owned:
                self._new[key] = None

    def take_changes(self) -> tuple[list[int], list[int]]:
        """Keys stored and keys evicted since the last call."""
        stored, self._new = list(self._new), {}
        self._owned.update(dict.fromkeys(stored))
        surplus = len(self._owned) - CAPACITY_BLOCKS
        removed = [key for key, _ in zip(self._owned, range(surplus), strict=False)]
        for key in removed:
            del self._owned[key]
        kept = [key for key in stored if key in self._owned]
        gone = set(stored) - set(kept)
        return kept, [key for key in removed if key not in gone]


async def publish_blocks(
    engines: dict[str, EngineBlocks], redis_url: str, model_directory: Path, fingerprint: str
) -> None:
    """Keep Redis up to date for engines by URL; runs until cancelled."""
    settings = load_settings(ClusterSettings, redis_url=redis_url)
    redis = connect(redis_url)
    leases = {url: _lease(url, model_directory, fingerprint) for url in engines}
    writers = {
        url: OwnershipWriter(redis, settings.keys, lease.replica, settings.lease_seconds, LOG_LENGTH)
        for url, lease in leases.items()
    }
    for url, writer in writers.items():
        await writer.open(leases[url], ())
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        if loop.time() >= due:
            due = loop.time() + settings.heartbeat_seconds
            for url, writer in writers.items():
                await writer.heartbeat(leases[url], Load())
        for url, blocks in engines.items():
            stored, removed = blocks.take_changes()
            if stored or removed:
                await writers[url].publish(stored, removed)
        await asyncio.sleep(STEP_SECONDS)


def _lease(url: str, model_directory: Path, fingerprint: str) -> Lease:
    return Lease(
        replica=url.removeprefix("http://").replace(":", "-"),
        url=url,
        state=ReplicaState.READY,
        model=MODEL,
        model_directory=str(model_directory),
        block_size=BLOCK_SIZE,
        capacity_blocks=CAPACITY_BLOCKS,
        tokenizer_fingerprint=fingerprint,
        publishes_events=True,
    )
