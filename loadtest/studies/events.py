"""The event path at a fixed rate: from an engine's announcement until every router can route on it.

    python -m loadtest.studies.events --replicas 64 --rate 2000 --blocks-per-batch 25 --seconds 20 --routers 1

Engines without inference announce blocks on vLLM's wire (`loadtest.harness.block_engines`); their caches
are full, so each batch also removes as many blocks. Agents, Redis and the routers' read side are the real
ones, each a process of its own. Times are of one machine's clock: from right before a batch is given to the
engine's socket until its last block stands in the router's index.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
import uvloop
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from cluster.protocol.block_keys import unpack_keys
from cluster.protocol.wire import Keys
from cluster.settings import ClusterSettings, load_settings
from loadtest.harness.block_engines import BlockEngine, Driven, drive, serve_block_engines
from loadtest.harness.index_follower import FollowerProcess, Seen
from loadtest.harness.measure import percentile
from loadtest.harness.processes import CpuMeter, Processes, RedisServer, eventually, start_agent

app = typer.Typer(pretty_exceptions_enable=False)

START_SECONDS = 120.0
WARM_UP_SECONDS = 2.0
SETTLE_SECONDS = 60.0
QUIET_SECONDS = 0.5
"""Nothing is under way when no agent has published for so long."""


@dataclass(frozen=True, slots=True)
class RedisCounters:
    """Redis' own counters since it started, and its memory now."""

    commands: int
    script_calls: int
    bytes_in: int
    bytes_out: int
    cpu_seconds: float
    used_memory: int


@dataclass(slots=True)
class Stretch:
    """One rate, and what it cost."""

    rate: float
    driven: Driven
    before: RedisCounters
    after: RedisCounters
    cpu: Mapping[str, float]
    latencies: list[list[float]] = field(default_factory=list)
    """Latencies of each router, in seconds."""


@dataclass(slots=True)
class Memory:
    """What Redis keeps, in bytes."""

    blocks: int
    sets: int
    logs: int
    log_batches: int


@dataclass(slots=True)
class Outcome:
    """Everything that was measured."""

    stretches: list[Stretch]
    memory: Memory
    resynchronisations: list[int] = field(default_factory=list)
    """How often each router had to read a replica's blocks anew."""
    differences: int = 0
    """Blocks in which Redis or a router disagreed with the engines when all was quiet."""


async def read_counters(redis: Redis) -> RedisCounters:
    """Redis' counters."""
    info: Any = await redis.info("all")
    return RedisCounters(
        info["total_commands_processed"],
        info.get("cmdstat_evalsha", {"calls": 0})["calls"],
        info["total_net_input_bytes"],
        info["total_net_output_bytes"],
        info["used_cpu_sys"] + info["used_cpu_user"],
        info["used_memory"],
    )


async def replica_keys(redis: Redis, keys: Keys, replicas: Sequence[str]) -> list[tuple[str, str]]:
    """Names of each replica's set and log, of its present epoch."""
    epochs = [int((await redis.hget(keys.lease(replica), "epoch")) or 0) for replica in replicas]
    return [(keys.owned(r, e), keys.log(r, e)) for r, e in zip(replicas, epochs, strict=True)]


async def read_memory(redis: Redis, keys: Keys, engines: Sequence[BlockEngine]) -> Memory:
    """What sets and logs take."""
    memory = Memory(0, 0, 0, 0)
    for owned, log in await replica_keys(redis, keys, [engine.replica for engine in engines]):
        memory.blocks += await redis.scard(owned)
        memory.sets += await redis.memory_usage(owned, samples=0) or 0
        memory.logs += await redis.memory_usage(log, samples=0) or 0
        memory.log_batches += await redis.xlen(log)
    return memory


async def count_differences(
    redis: Redis, keys: Keys, engines: Sequence[BlockEngine], followers: Sequence[Seen]
) -> int:
    """Blocks that Redis or a router lacks or has too much, summed up. Nothing may be under way."""
    names = await replica_keys(redis, keys, [engine.replica for engine in engines])
    different = 0
    for engine, (owned, _) in zip(engines, names, strict=True):
        held = frozenset(key for batch in engine.cache.held() for key in batch.block_keys())
        members: Any = await redis.smembers(owned)
        different += len(held ^ frozenset(unpack_keys(b"".join(members))))
        different += sum(len(held ^ seen.owned.get(engine.replica, frozenset())) for seen in followers)
    return different


async def settle(redis: Redis, keys: Keys, engines: Sequence[BlockEngine]) -> None:
    """Wait until everything that was announced has been published."""
    last: list[Any] = []

    async def is_quiet() -> bool:
        nonlocal last
        before, pipeline = last, redis.pipeline(transaction=False)
        for engine in engines:
            pipeline.hmget(keys.lease(engine.replica), ["epoch", "sequence"])
        last = await pipeline.execute()
        return last == before

    await eventually(is_quiet, SETTLE_SECONDS, "agents have published everything", every=QUIET_SECONDS)


@dataclass(slots=True)
class Rig:
    """Full engines, their agents, Redis, and routers that know every block."""

    redis_server: RedisServer
    redis: Redis
    keys: Keys
    followers: list[FollowerProcess]


async def build_rig(
    processes: Processes, engines: Sequence[BlockEngine], num_agents: int, num_routers: int
) -> Rig:
    """Start everything but the engines, and wait until every router knows every block."""
    server = RedisServer(processes)
    await server.start()
    for number in range(num_agents):
        start_agent(processes, server.url, [engine.url for engine in engines[number::num_agents]])
    held = engines[0].cache.num_blocks
    followers = [
        FollowerProcess(processes, server.url, held, f"follower {number + 1}")
        for number in range(num_routers)
    ]
    for follower in followers:
        await follower.wait_until_complete(len(engines), START_SECONDS)
    return Rig(server, server.client(), load_settings(ClusterSettings).keys, followers)


async def measure(
    num_replicas: int,
    capacity: int,
    rates: Sequence[float],
    blocks_per_batch: int,
    seconds: float,
    num_agents: int,
    num_routers: int,
) -> Outcome:
    """Run one stretch of load per rate, on the same processes."""
    with Processes() as processes:
        async with serve_block_engines(num_replicas, capacity, blocks_per_batch) as engines:
            rig = await build_rig(processes, engines, num_agents, num_routers)
            stretches = []
            for rate in rates:
                await drive(engines, rate, WARM_UP_SECONDS)
                before, meter = (
                    await read_counters(rig.redis),
                    CpuMeter({"generator": os.getpid(), **processes.ids()}),
                )
                driven = await drive(engines, rate, seconds)
                shares = meter.shares()
                stretches.append(Stretch(rate, driven, before, await read_counters(rig.redis), shares))
                await settle(rig.redis, rig.keys, engines)
            outcome = Outcome(stretches, await read_memory(rig.redis, rig.keys, engines))
            seen = [follower.stop() for follower in rig.followers]
            for stretch in stretches:
                stretch.latencies = [follower.latencies(stretch.driven.batches) for follower in seen]
            outcome.resynchronisations = [follower.resynchronisations for follower in seen]
            outcome.differences = await count_differences(rig.redis, rig.keys, engines, seen)
            await rig.redis.aclose()
            return outcome


def results(outcome: Outcome, blocks_per_batch: int) -> Table:
    """One column per rate."""
    table = Table("at batches/s")
    for stretch in outcome.stretches:
        table.add_column(f"{stretch.rate:,.0f}", justify="right", no_wrap=True)
    rows = [_figures(stretch, blocks_per_batch) for stretch in outcome.stretches]
    for measure_name in rows[0]:
        table.add_row(measure_name, *(row[measure_name] for row in rows))
    return table


def _figures(stretch: Stretch, blocks_per_batch: int) -> dict[str, str]:
    driven, before, after = stretch.driven, stretch.before, stretch.after
    batches, seconds = len(driven.batches), driven.seconds
    blocks = batches * blocks_per_batch
    cpu = after.cpu_seconds - before.cpu_seconds
    commands = after.commands - before.commands
    bytes_in, bytes_out = after.bytes_in - before.bytes_in, after.bytes_out - before.bytes_out
    figures = {
        "batches/s achieved": f"{batches / seconds:,.0f}",
        "blocks stored/s, and as many removed": f"{blocks / seconds:,.0f}",
        "generator's lag p99, ms": f"{percentile(driven.lags, 99) * 1000:.1f}",
    }
    for number, latencies in enumerate(stretch.latencies, 1):
        for name, percent in (("p50", 50), ("p95", 95), ("p99", 99), ("max", 100)):
            ms = f"{percentile(latencies, percent) * 1000:.1f}" if latencies else "-"
            figures[f"announced to routable, router {number}: {name}, ms"] = ms
        figures[f"batches that router {number} never saw"] = str(batches - len(latencies))
    figures |= {
        "Redis: share of a core": f"{cpu / seconds:.1%}",
        "Redis: µs of CPU per block stored": f"{cpu / blocks * 1e6:.2f}",
        "Redis: script calls/s": f"{(after.script_calls - before.script_calls) / seconds:,.0f}",
        "Redis: commands/s, with those inside scripts": f"{commands / seconds:,.0f}",
        "Redis: MB/s in / out": f"{bytes_in / seconds / 1e6:.2f} / {bytes_out / seconds / 1e6:.2f}",
        "Redis: bytes in / out per block stored": f"{bytes_in / blocks:.0f} / {bytes_out / blocks:.0f}",
    }
    shares = {name: share for name, share in stretch.cpu.items() if name != "redis"}
    return figures | {f"CPU of {name}": f"{share:.0%}" for name, share in shares.items()}


@app.command()
def main(
    replicas: int = 64,
    rate: Annotated[float, typer.Option(help="Batches a second, of all engines together.")] = 2000.0,
    blocks_per_batch: int = 25,
    seconds: float = 20.0,
    routers: int = 1,
    agents: Annotated[int, typer.Option(help="Agent processes that share the engines.")] = 2,
    capacity: Annotated[int, typer.Option(help="Blocks that each engine holds.")] = 10_000,
    sweep: Annotated[bool, typer.Option(help="Also a quarter and a half of the rate.")] = False,
) -> None:
    """Measure how long an engine's announcement takes to every router's index, and what it costs in Redis.

    Prints the latency of all batches per router, Redis' commands, bytes, CPU and memory, and the CPU of
    agents and routers (100% is one core). With --sweep, one column per rate shows what is linear in it.
    """
    rates = [rate / 4, rate / 2, rate] if sweep else [rate]
    outcome = uvloop.run(measure(replicas, capacity, rates, blocks_per_batch, seconds, agents, routers))
    console, memory = Console(highlight=False, soft_wrap=True), outcome.memory
    console.print(results(outcome, blocks_per_batch))
    console.print(
        f"Redis' memory: {memory.sets / memory.blocks:.0f} bytes per owned block ({memory.blocks:,} blocks), "
        f"logs {memory.logs / 2**20:,.0f} MiB ({memory.logs / memory.log_batches:,.0f} bytes per batch of "
        f"{memory.log_batches:,}), {outcome.stretches[-1].after.used_memory / 2**20:,.0f} MiB in all"
    )
    console.print(f"replicas read anew, per router: {outcome.resynchronisations}")
    console.print(f"differences between engines, Redis and routers at the end: {outcome.differences} blocks")
    raise SystemExit(1 if outcome.differences else 0)


if __name__ == "__main__":
    app()
