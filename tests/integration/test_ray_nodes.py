"""Several nodes of a Ray cluster: applications from Serve's configuration, a node that dies under traffic."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.system import System, eventually, free_port

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # of what Ray imports, which takes too long for collecting tests
]

NUM_REPLICAS = 4
SECRET = "secret-of-these-nodes"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and two more nodes, each a raylet of its own, with room for two replicas."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        yield cluster
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


async def test_node_dies_under_traffic(nodes: Any, system: System) -> None:
    """No request that is not streamed fails, replicas are on two nodes at least before, and all are back when
    another node has joined."""
    from ray import serve

    from cluster.serve.serve_app import REPLICAS_APP, ROUTER_APP, replicas, routers

    port = free_port()
    shared = {"redis_url": system.redis.url, "engine_api_key": SECRET}
    serve.run(
        routers({**shared, "routers": 1, "host": "127.0.0.1", "port": port}),
        name=ROUTER_APP,
        route_prefix=None,
    )
    engines = {"engine": "sim", "model": str(system.model), "model_name": "tiny", "replicas": NUM_REPLICAS}
    target = serve.RunTarget(replicas({**shared, **engines}), name=REPLICAS_APP, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    router = f"http://127.0.0.1:{port}"

    async def all_ready() -> bool:
        found = await system.replicas(router)
        return sum(one["state"] == "ready" for one in found.values()) == NUM_REPLICAS

    await eventually(all_ready, 120, "all replicas are ready")
    router_node = _node_of("Router")
    homes = _nodes_of("Replica")
    assert len(set(homes)) >= 2
    victim = next(
        node for node in nodes.worker_nodes if node.node_id in homes and node.node_id != router_node
    )
    statuses: list[Any] = []
    stop = asyncio.Event()

    async def ask(number: int) -> None:
        body = {
            "model": "tiny",
            "max_tokens": 4,
            "messages": [{"role": "user", "content": f"conversation {number % 20}: " + "many words " * 40}],
        }
        async with system.session.post(f"{router}/v1/chat/completions", json=body) as response:
            await response.read()
            statuses.append(response.status)

    async def traffic() -> None:
        number, asking = 0, set[asyncio.Task[None]]()
        while not stop.is_set():
            asking.add(asyncio.create_task(ask(number)))
            number += 1
            await asyncio.sleep(0.1)
        await asyncio.gather(*asking)

    running = asyncio.create_task(traffic())
    await asyncio.sleep(2)
    nodes.remove_node(victim, allow_graceful=False)
    await asyncio.sleep(3)
    nodes.add_node(num_cpus=2)
    await eventually(all_ready, 90, "the replicas are back")
    stop.set()
    await running
    assert set(statuses) == {200}


def _nodes_of(deployment: str) -> list[str]:
    from ray._private.state import actors  # the public way asks the dashboard, which tests do not start

    return [
        actor["Address"]["NodeID"]
        for actor in actors().values()
        if actor["State"] == "ALIVE" and f"#{deployment}#" in actor["Name"]
    ]


def _node_of(deployment: str) -> str:
    [node] = _nodes_of(deployment)
    return node
