"""A router without its API: exactly its read side, which notes when each block became routable.

Measurements run it as a process: ``python -m loadtest.harness.index_follower REDIS_URL CAPACITY FOLDER``.
While it runs it writes a line to ``progress.jsonl`` whenever the number of replicas whose blocks are all
known changes; asked to end, it writes ``seen.npz``.
"""

import asyncio
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import numpy.typing as npt
import typer
import uvloop

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Replica
from cluster.index.block_table import BlockKeys, as_keys
from cluster.log import configure_logging
from cluster.process.tasks import cancel_and_wait
from cluster.settings import ClusterSettings, load_settings
from cluster.store.store import connect
from cluster.sync.follower import Follower
from loadtest.harness.block_engines import SentBatch
from loadtest.harness.processes import Processes, eventually

app = typer.Typer(pretty_exceptions_enable=False)

PROGRESS = "progress.jsonl"
SEEN = "seen.npz"
LOOK_SECONDS = 0.005


class Progress(msgspec.Struct):
    """How much of the fleet a follower knew at one time."""

    time: float
    """`time.time`."""
    complete: int
    """Replicas of which it knew as many blocks as their engines hold."""
    oldest_epoch: int
    """The smallest epoch of all replicas."""


class RecordingFleet(Fleet):
    """Notes when keys become routable."""

    def __init__(self) -> None:
        super().__init__()
        self.times = array("d")
        self.counts = array("Q")
        self.keys = array("Q")

    def apply(
        self,
        replica: Replica,
        stored: Collection[int] | BlockKeys,
        removed: Collection[int] | BlockKeys,
        cleared: bool,
    ) -> None:
        """Apply, then look at the clock."""
        super().apply(replica, stored, removed, cleared)
        self.times.append(time.time())
        self.counts.append(len(stored))
        self.keys.frombytes(as_keys(stored).tobytes())

    def progress(self, capacity: int) -> Progress:
        """How much is known now."""
        complete = sum(self.index.num_owned(replica.slot) == capacity for replica in self.replicas.values())
        oldest = min((replica.epoch for replica in self.replicas.values()), default=0)
        return Progress(time.time(), complete, oldest)


async def _report(fleet: RecordingFleet, capacity: int, lines: IO[bytes]) -> None:
    last = Progress(0.0, -1, 0)
    while True:
        now = fleet.progress(capacity)
        if (now.complete, now.oldest_epoch) != (last.complete, last.oldest_epoch):
            lines.write(msgspec.json.encode(now) + b"\n")
            lines.flush()
            last = now
        await asyncio.sleep(LOOK_SECONDS)


async def follow(settings: ClusterSettings, capacity: int, folder: Path) -> None:
    """Follow until SIGTERM, then write what was seen."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    fleet = RecordingFleet()
    redis = connect(settings.redis_url)
    follower = Follower(redis, settings.keys, fleet, settings.heartbeat_seconds)
    with (folder / PROGRESS).open("wb") as lines:
        tasks = [
            asyncio.create_task(follower.run()),
            asyncio.create_task(_report(fleet, capacity, lines)),
        ]
        await stop.wait()
        await cancel_and_wait(*tasks)
    await redis.aclose()
    owned = {name: fleet.index.owned(replica.slot) for name, replica in fleet.replicas.items()}
    np.savez(
        folder / SEEN,
        times=np.repeat(np.array(fleet.times), np.array(fleet.counts, dtype=np.int64)),
        keys=np.array(fleet.keys),
        resynchronisations=np.array(follower.resynchronisations),
        replicas=np.array(list(owned)),
        num_owned=np.array([len(keys) for keys in owned.values()]),
        owned=np.array([key for keys in owned.values() for key in keys], dtype=np.uint64),
    )


@app.command()
def main(redis_url: str, capacity: int, folder: Path) -> None:
    """Follow until asked to end. Not for people: measurements start it."""
    configure_logging("error")
    uvloop.run(follow(load_settings(ClusterSettings, redis_url=redis_url), capacity, folder))


@dataclass(frozen=True, slots=True)
class Seen:
    """What one follower wrote at its end."""

    times: npt.NDArray[np.float64]
    """When the keys of the same place became routable; a key can come more than once."""
    keys: npt.NDArray[np.uint64]
    resynchronisations: int
    owned: dict[str, frozenset[int]]
    """What its index held at last, by replica."""

    def latencies(self, batches: Sequence[SentBatch]) -> list[float]:
        """Seconds from each announcement until its last block was routable; those never seen are left out."""
        order = np.argsort(self.keys, kind="stable")
        keys, times = self.keys[order], self.times[order]
        wanted = np.array([batch.last_key for batch in batches], dtype=np.uint64)
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[places] == wanted
        sent = np.array([batch.sent for batch in batches])
        return [float(seconds) for seconds in (times[places] - sent)[found]]


class FollowerProcess:
    """One follower that a measurement started."""

    def __init__(self, processes: Processes, redis_url: str, capacity: int, name: str) -> None:
        self.name = name
        self._processes = processes
        self._folder = processes.folder / name.replace(" ", "-")
        self._folder.mkdir()
        command = [sys.executable, "-m", "loadtest.harness.index_follower", redis_url, str(capacity)]
        self._process: subprocess.Popen[bytes] = processes.start("follower", [*command, str(self._folder)])

    def progress(self) -> list[Progress]:
        """All that it has reported so far."""
        path = self._folder / PROGRESS
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [msgspec.json.decode(line, type=Progress) for line in lines]

    async def wait_until_complete(self, num_replicas: int, seconds: float) -> None:
        """Wait until it knows all blocks of all replicas."""

        async def complete() -> bool:
            self._processes.check()
            progress = self.progress()
            return bool(progress) and progress[-1].complete == num_replicas

        await eventually(complete, seconds, f"{self.name} knows all blocks")

    def stop(self) -> Seen:
        """End it, and read what it saw."""
        self._processes.stop(self._process)
        with np.load(self._folder / SEEN) as saved:
            ends = np.cumsum(saved["num_owned"])
            owned = np.split(saved["owned"], ends[:-1])
            return Seen(
                saved["times"],
                saved["keys"],
                int(saved["resynchronisations"]),
                {
                    str(name): frozenset(map(int, keys))
                    for name, keys in zip(saved["replicas"], owned, strict=True)
                },
            )


if __name__ == "__main__":
    app()
