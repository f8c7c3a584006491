"""How a replica stops, as an actor of Ray Serve does: routers send it nothing, what runs finishes, and then
its engine ends.
"""

import asyncio
import json

import aiohttp
import msgspec
import pytest

from cluster.protocol.wire import Lease, ReplicaState
from workers.engines.commands import EngineOptions
from workers.replica import ReplicaOptions, SupervisedReplica
from workers.settings import WorkerSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.mark.parametrize(("drain_seconds", "complete"), [(60.0, True), (1.0, False)])
async def test_replica_drains_before_its_engine_stops(
    store, redis_server, tiny_model, eventually, drain_seconds, complete
):
    """A stream that ends in time is complete; at the limit it is cut, of which routers make an error.
    Meanwhile the lease says *draining*, and at the end it is gone.
    """
    settings = WorkerSettings(redis_url=redis_server.url, drain_seconds=drain_seconds)
    options = ReplicaOptions(
        engine="sim",
        options=EngineOptions(str(tiny_model), "tiny", extra_arguments=("--step-ms", "20")),
        settings=settings,
    )
    replica = SupervisedReplica(options, "r", "127.0.0.1")

    async def lease() -> Lease | None:
        found = await store.hget(settings.keys.lease("r"), "lease")
        return msgspec.json.decode(found, type=Lease) if found else None

    async def has_state(state: ReplicaState) -> bool:
        found = await lease()
        return found is not None and found.state is state

    await replica.start()
    try:
        await eventually(lambda: has_state(ReplicaState.READY))
        said = await lease()
        body = {
            "messages": [{"role": "user", "content": "why"}],
            "max_tokens": 200 if complete else 5000,
            "stream": True,
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{said.url}/v1/chat/completions", json=body) as response,
        ):
            await response.content.readany()
            stopping = asyncio.create_task(replica.stop())
            await eventually(lambda: has_state(ReplicaState.DRAINING))
            rest = b""
            try:
                async for chunk in response.content.iter_any():
                    rest += chunk
            except aiohttp.ClientError:
                assert not complete
            assert rest.endswith(b"data: [DONE]\n\n") == complete
            assert json.loads(rest.partition(b"\n\n")[2].partition(b"\n\n")[0].removeprefix(b"data: "))
        await stopping
    finally:
        await replica.stop()
    assert await lease() is None
