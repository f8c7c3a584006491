"""How soon everything is back after Redis was killed and came back empty, while engines go on announcing.

    python -m loadtest.studies.recovery --replicas 64 --blocks 10000

The set-up of `loadtest.studies.events`. In each round redis-server gets ``kill -9``, and is started again,
empty, on the same port. From its first answer on it is measured how long Redis lacks blocks that engines
hold, and how long each router does: agents have noticed, opened a new epoch and published their whole
mirror.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from cluster.protocol.wire import Keys
from loadtest.harness.block_engines import BlockEngine, drive, serve_block_engines
from loadtest.harness.index_follower import FollowerProcess
from loadtest.harness.processes import Processes, eventually
from loadtest.studies.events import Rig, build_rig, count_differences, settle

app = typer.Typer(pretty_exceptions_enable=False)

BEFORE_SECONDS = 2.0
LOOK_SECONDS = 0.02
GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Round:
    """One death of Redis; all in seconds since it answered again."""

    leases: float
    """All replicas have a lease again."""
    redis: float
    """Redis holds as many blocks as the engines."""
    routers: list[float]
    """Each router's index does."""


async def one_round(rig: Rig, engines: Sequence[BlockEngine], down_seconds: float) -> Round:
    """Kill Redis, start it empty, and watch."""
    held = engines[0].cache.num_blocks
    killed_at = time.time()
    rig.redis_server.kill()
    await asyncio.sleep(down_seconds)
    answered = await rig.redis_server.start()
    leases = 0.0
    while True:
        num_leases, num_complete = await _published(rig.redis, rig.keys, engines, held)
        now = time.time()
        if num_leases == len(engines):
            leases = leases or now
        if num_complete == len(engines):
            break
        if now - answered > GIVE_UP_SECONDS:
            raise SystemExit(f"only {num_complete} of {len(engines)} replicas are complete in Redis")
        await asyncio.sleep(LOOK_SECONDS)
    routers = [await _completed(follower, len(engines), killed_at) - answered for follower in rig.followers]
    return Round(leases - answered, now - answered, routers)


async def _published(redis: Redis, keys: Keys, engines: Sequence[BlockEngine], held: int) -> tuple[int, int]:
    """How many replicas have a lease, and how many of these have as many blocks as their engine."""
    try:
        pipeline = redis.pipeline(transaction=False)
        for engine in engines:
            pipeline.hget(keys.lease(engine.replica), "epoch")
        epochs: list[Any] = await pipeline.execute()
        found = [(e.replica, int(epoch)) for e, epoch in zip(engines, epochs, strict=True) if epoch]
        for replica, epoch in found:
            pipeline.scard(keys.owned(replica, epoch))
        return len(found), sum(count == held for count in await pipeline.execute())
    except (RedisError, OSError):
        return 0, 0


async def _completed(follower: FollowerProcess, num_replicas: int, killed_at: float) -> float:
    """When a router knew all blocks of new epochs, and only those: epochs are Redis' milliseconds."""
    times: list[float] = []

    async def is_complete() -> bool:
        times[:] = [
            progress.time
            for progress in follower.progress()
            if progress.complete == num_replicas and progress.oldest_epoch > killed_at * 1000
        ]
        return bool(times)

    await eventually(is_complete, GIVE_UP_SECONDS, f"{follower.name} knows all blocks again")
    return times[0]


async def measure(
    num_replicas: int,
    num_blocks: int,
    rate: float,
    blocks_per_batch: int,
    down_seconds: float,
    rounds: int,
    num_agents: int,
    num_routers: int,
) -> tuple[list[Round], int]:
    """All rounds, and in how many blocks Redis and routers disagree with the engines afterwards."""
    with Processes() as processes:
        async with serve_block_engines(num_replicas, num_blocks, blocks_per_batch) as engines:
            rig = await build_rig(processes, engines, num_agents, num_routers)
            load = asyncio.create_task(drive(engines, rate, rounds * GIVE_UP_SECONDS * 3))
            outcome = []
            for _ in range(rounds):
                await asyncio.sleep(BEFORE_SECONDS)
                outcome.append(await one_round(rig, engines, down_seconds))
            load.cancel()
            await asyncio.wait([load])
            await settle(rig.redis, rig.keys, engines)
            seen = [follower.stop() for follower in rig.followers]
            differences = await count_differences(rig.redis, rig.keys, engines, seen)
            await rig.redis.aclose()
            return outcome, differences


@app.command()
def main(
    replicas: int = 64,
    blocks: Annotated[int, typer.Option(help="Blocks that each engine holds.")] = 10_000,
    rate: Annotated[float, typer.Option(help="Batches a second meanwhile, of all engines together.")] = 100.0,
    blocks_per_batch: int = 25,
    down: Annotated[float, typer.Option(help="Seconds that Redis is away.")] = 1.0,
    rounds: int = 3,
    agents: Annotated[int, typer.Option(help="Agent processes that share the engines.")] = 2,
    routers: int = 1,
) -> None:
    """Kill Redis and start it empty, under load: seconds from its first answer until all blocks are back.

    In Redis, and in every router's index. Afterwards all three are compared block by block.
    """
    outcome, differences = uvloop.run(
        measure(replicas, blocks, rate, blocks_per_batch, down, rounds, agents, routers)
    )
    table = Table("seconds since Redis answered", *(f"round {number + 1}" for number in range(rounds)))
    table.add_row("all leases back", *(f"{one.leases:.2f}" for one in outcome))
    table.add_row("all blocks in Redis", *(f"{one.redis:.2f}" for one in outcome))
    for number in range(routers):
        table.add_row(
            f"all blocks in router {number + 1}", *(f"{one.routers[number]:.2f}" for one in outcome)
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"differences between engines, Redis and routers at the end: {differences} blocks")
    raise SystemExit(1 if differences else 0)


if __name__ == "__main__":
    app()
