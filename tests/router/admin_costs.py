"""What watching costs a router, in CPU time: ``python -m tests.router.admin_costs``.

256 busy replicas; a real router process's event loop for open pages, everything else in hot loops.
"""

import asyncio
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import uvloop
from rich.console import Console

from cluster.protocol.wire import Keys, Lease, Load, ReplicaState
from cluster.store.store import connect
from cluster.sync import follower
from router.app import create_app
from router.explain.misses import Reason
from router.history.history import History
from router.history.history_store import HistoryStore
from router.history.record import RequestRecord
from router.history.savings import Savings
from router.http.sse import PromptTokensDetails, Usage
from router.observe.explanations import Explanations
from router.server import RouterServer, bind
from router.settings import RouterSettings
from tests.redis_process import running_redis
from tests.waiting import eventually

REPLICAS = 256
PAGE_SECONDS = 10.0
ROUNDS = 5
READER = """
import asyncio, aiohttp, sys
async def read(session):
    async with session.get(sys.argv[1], read_bufsize=2**20) as response:
        async for _ in response.content.iter_any(): pass
async def main():
    timeout, connector = aiohttp.ClientTimeout(), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(read(session) for _ in range(int(sys.argv[2]))))
asyncio.run(main())
"""


def admit_all(fleet):
    """Put the replicas into a fleet; returns their ids."""
    for number in range(REPLICAS):
        lease = Lease(
            replica=f"replica-{number:04d}",
            url=f"http://10.0.0.{number}:8000",
            state=ReplicaState.READY,
            model="",  # so that nobody looks for its tokenizer
            block_size=16,
            publishes_events=True,
            capacity_blocks=20_000,
        )
        fleet.admit(lease, 1, Load(stored_blocks=500, evicted_blocks=70))
    return list(fleet.replicas)


def show(what, figure):
    """One line of the table."""
    Console(highlight=False).print(f"{what:48s} {figure:>10s}")


def best(work, times):
    """CPU seconds of one of many runs, in the best of a few rounds."""
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            work()
        costs.append((time.process_time() - began) / times)
    return min(costs)


def requests_cost(replicas, redis):
    """What each request adds to history, and to those remembered."""
    history = History(Savings(HistoryStore(redis, Keys("costs"), "me")))
    explanations = Explanations(redis, Keys("costs"), "me")
    records = []
    for replica in replicas:
        record = RequestRecord("0" * 32, "/v1/chat/completions", replica=replica, model="m", outcome="ok")
        record.stream, record.usage = True, Usage(1000, 20, PromptTokensDetails(800))
        record.misses = {Reason.COLD: 180, Reason.TAIL: 20}
        records.append(record)

    def count():
        for record in records:
            history.add(record, 0.1, time.time())

    def remember():
        for record in records:
            explanations.add(record, 0.1, 1.0)

    show("a request, added to history", f"{best(count, 100) / REPLICAS * 1e6:.2f} us")
    show("a request, kept to be explained", f"{best(remember, 100) / REPLICAS * 1e6:.2f} us")


async def overview_cost(overview):
    """One look at everything."""
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(20):
            data = await overview.encoded()
        costs.append((time.process_time() - began) / 20)
    show(f"an overview of {REPLICAS} replicas, {len(data) // 1000} KB", f"{min(costs) * 1e3:.2f} ms")


async def pages_cost(url, stream):
    """The router's share of a core with pages open, each of which reads an overview a second."""
    shares = {0: [], 1: [], 11: []}
    for _ in range(2):
        for pages, measured in shares.items():
            readers = await asyncio.create_subprocess_exec(sys.executable, "-c", READER, url, str(pages))
            await eventually(lambda pages=pages: stream.num_pages == pages, 30)
            began, cpu = time.monotonic(), time.process_time()
            await asyncio.sleep(PAGE_SECONDS)
            measured.append((time.process_time() - cpu) / (time.monotonic() - began))
            with suppress(ProcessLookupError):  # without pages it has ended
                readers.kill()
            await readers.wait()
            await eventually(lambda: not stream.num_pages, 30)
    for pages, measured in shares.items():
        show(f"share of a core, {pages} pages open", f"{50 * sum(measured):.2f} %")


async def main():
    """Print the table."""
    follower.MISSING_LEASE_SECONDS = 1e9  # these replicas have no agents
    with tempfile.TemporaryDirectory() as directory, running_redis(Path(directory)) as redis:
        app = create_app(RouterSettings(redis_url=redis.url, port=0))
        listener = bind("127.0.0.1", 0)
        server = RouterServer(app)
        config = server.config
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        requests_cost(admit_all(app.state.fleet), connect(redis.url))
        await overview_cost(app.state.overview)
        await pages_cost(f"http://127.0.0.1:{listener.getsockname()[1]}/admin/stream", app.state.stream)
        await server.shutdown(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(main())
