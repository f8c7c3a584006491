"""In which ways a router is degraded: named in `/healthz`, counted in metrics, and over when the cause is."""

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import odd_replicas
from cluster.protocol.wire import Lease, Load, ReplicaState
from tests.waiting import eventually


async def health(router):
    """What `/healthz` says, without Redis, which these tests do not have."""
    _, answer = await router.get("/healthz")
    return answer["status"], [text for text in answer["degraded"] if not text.startswith("Redis")]


async def metric(router, kind):
    """The value of one gauge."""
    async with router.client.get(router.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    [value] = [line.split()[-1] for line in lines if line.startswith(f'warmroute_degraded{{kind="{kind}"}}')]
    return float(value)


async def test_replica_with_another_block_size_is_named(router, engines):
    """Its keys cannot be told from a prompt, so its cache is unknown, until it has the usual size."""
    router.admit(engines[0].url, "c")
    router.admit(engines[0].url, "d", block_size=32)
    _, degraded = await health(router)
    assert degraded == ["replica d: blocks of 32 tokens, where most replicas have 4: its cache is not used"]
    assert await metric(router, "namespace") == 1
    router.admit(engines[0].url, "d", block_size=4)
    assert (await health(router))[1] == []
    assert await metric(router, "namespace") == 0


async def test_replica_with_another_tokenizer_is_named(router, engines):
    """Same model name, other tokenizer files: other keys."""
    router.admit(engines[0].url, "c", tokenizer_fingerprint="other")
    _, degraded = await health(router)
    assert degraded == ["replica c: another tokenizer than most replicas of its model: its cache is not used"]


async def test_replica_that_publishes_nothing_is_no_odd_one(router, engines):
    """Its agent raises the alarm; one is enough."""
    router.admit(
        engines[0].url, "c", block_size=32, publishes_events=False, alarms=("publishes no KV events",)
    )
    _, degraded = await health(router)
    assert degraded == ["replica c: publishes no KV events"]
    assert await metric(router, "replica") == 1
    router.admit(engines[0].url, "c")
    assert (await health(router))[1] == []


async def test_kind_of_request_that_the_engine_tokenises_otherwise_is_named(router, engines):
    """Model and shape are named, whatever texts the client sent; the model itself has no alarm."""
    for number in range(3):
        messages = [{"role": "developer", "content": f"{number}"}, {"role": "user", "content": "Hello!"}]
        async with router.post({"model": "m", "messages": messages}) as response:
            assert response.status == 200
    await router.drained()
    _, degraded = await health(router)
    assert [text.partition(";")[0] for text in degraded] == [
        "model m: chat/completions with role developer: the engine counts other prompt tokens"
    ]
    assert await metric(router, "shape") == 1
    assert await metric(router, "tokenizer") == 0


async def test_full_index_is_said(router):
    """Predictions are too low then, and somebody should know."""
    replica = router.fleet.replicas["a"]
    router.fleet.index._max_blocks = 1
    router.fleet.apply(replica, [1, 2, 3], (), cleared=False)
    assert (await health(router))[1] == ["the index is full: 2 blocks not taken in"]
    assert await metric(router, "index") == 1


async def test_redis_away_and_back(start_router, redis_server):
    """A router without Redis says so, serves on, and stops saying so when Redis is back."""
    router = await start_router(redis_url=redis_server.url)
    await eventually(lambda: router.fleet.store_reachable)
    assert await metric(router, "redis") == 0
    redis_server.stop()
    await eventually(lambda: not router.fleet.store_reachable)
    _, answer = await router.get("/healthz")
    assert answer["status"] == "degraded"
    assert answer["degraded"][0] == "Redis does not answer: routing on the last known state"
    assert await metric(router, "redis") == 1
    redis_server.start()
    await eventually(lambda: router.fleet.store_reachable)
    assert (await router.get("/healthz"))[1] == {"status": "ok", "degraded": []}


def test_most_replicas_decide_what_is_usual():
    """One replica of three is odd; of an adapter it is said once, for its base model."""
    fleet = Fleet()
    for name, block_size in (("a", 16), ("b", 32), ("c", 16)):
        lease = Lease(
            replica=name,
            url="",
            state=ReplicaState.READY,
            model="m",
            aliases=("alias",),
            adapters=("lora",),
            block_size=block_size,
            publishes_events=True,
        )
        fleet.admit(lease, 1, Load())
    assert [replica for replica, _ in odd_replicas(fleet.models.values())] == ["b"]
