"""What the router shows its operators about requests, and that nothing blocks it."""

import pytest
from blockbuster import blockbuster_ctx

from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.wire import Keys, Lease, ReplicaState
from cluster.store.ownership import OwnershipWriter
from cluster.store.store import connect
from router.admin import blocks
from tests.router.fake_engine import counted, never_end
from tests.router.test_requests import CHAT, STREAM
from tests.waiting import eventually


async def test_models_are_listed_also_when_no_replica_is_ready(router, engines):
    """The list comes from leases; an engine that is down does not break it."""
    router.admit(engines[0].url, "c", model="base", adapters=("lora",), state="starting", max_model_len=99)
    await engines[0].stop()
    status, body = await router.get("/v1/models")
    assert status == 200
    listed = {model["id"]: model for model in body["data"]}
    assert set(listed) == {"m", "base", "lora"}
    assert (listed["m"]["ready_replicas"], listed["base"]["ready_replicas"]) == (2, 0)
    assert (listed["lora"]["parent"], listed["lora"]["max_model_len"]) == ("base", 99)


async def test_health_names_what_is_degraded(router, engines):
    """Redis away, alarms of replicas and of tokenizers are said; the router is alive all the same."""
    router.admit(engines[0].url, alarms=("no KV events",))
    await eventually(lambda: not router.fleet.store_reachable)
    status, body = await router.get("/healthz")
    assert (status, body["status"]) == (200, "degraded")
    assert body["degraded"][0].startswith("Redis does not answer")
    assert "replica a: no KV events" in body["degraded"]


async def test_counts_that_differ_from_the_engines_are_said(start_router, engines):
    """Three conversations in a row with other prompt lengths are named; other conversations have keys."""
    router = await start_router(engines[0], policy="warm")
    await router.settled()
    for text in ("one", "two", "three"):
        async with router.post({"model": "m", "messages": [{"role": "user", "content": text}]}) as response:
            assert response.status == 200
    await router.drained()
    _, body = await router.get("/healthz")
    assert any("chat/completions" in text and "in 3 conversations" in text for text in body["degraded"])
    async with router.post(CHAT) as response:
        assert (response.status, response.headers["x-warmroute-reason"]) == (200, "cold")
    replica = router.fleet.replicas["a"]
    router.fleet.apply(replica, router.fleet.index.expected(replica.slot), (), cleared=False)
    another = [CHAT["messages"][0], {"role": "user", "content": "Tell me about water"}]
    async with router.post({**CHAT, "messages": another}) as response:
        assert int(response.headers["x-warmroute-expected-cached-tokens"]) > 0


async def test_admin_shows_load_while_a_request_runs(router, engines):
    """Booked load is there during a stream and gone after it."""
    engines[0].script.append(never_end)
    async with router.post(STREAM) as response:
        await response.content.readany()
        body = (await router.get("/admin/replicas"))[1]
        assert body["open_bookings"] == 1
        assert [replica["load"]["booked"] for replica in body["replicas"]] == [1, 0]
        response.close()
    await router.drained()
    body = (await router.get("/admin/replicas"))[1]
    assert (body["open_bookings"], body["replicas"][0]["requests"]) == (0, 1)
    assert body["requests_by_path"] == {"/v1/chat/completions": 1}


async def test_blocks_of_a_replica(router):
    """What the check command reads."""
    router.fleet.apply(router.fleet.replicas["a"], [1, 255], (), cleared=False)
    status, body = await router.get("/admin/replicas/a/blocks")
    assert (status, body["epoch"], body["keys"]) == (200, 1, ["0000000000000001", "00000000000000ff"])
    assert (await router.get("/admin/replicas/nobody/blocks"))[0] == 404


async def test_millions_of_blocks_are_read_in_parts(router, monkeypatch):
    """Requests go on in between; blocks that change meanwhile are read again, or refused as too fast."""
    monkeypatch.setattr(blocks, "PART_BLOCKS", 50)
    monkeypatch.setattr(blocks, "WRITTEN_BLOCKS", 64)
    replica, index = router.fleet.replicas["a"], router.fleet.index
    # Spread over the index, whose segments are chosen by the highest digits.
    keys = [(number * 0x9E3779B97F4A7C15) % 2**64 for number in range(1_000)]
    router.fleet.apply(replica, keys[:900], (), cleared=False)
    looked_at, change = [], []
    whole = index.owned_keys

    def look(slot, part, num_parts):
        looked_at.append(part)
        if change:
            change.pop()()
        return whole(slot, part, num_parts)

    monkeypatch.setattr(index, "owned_keys", look)
    status, answer = await router.get("/admin/replicas/a/blocks")
    assert (status, answer["keys"]) == (200, [f"{key:016x}" for key in sorted(keys[:900])])
    assert looked_at == list(range(19))

    def restart():
        router.admit(replica.lease.url, "a", epoch=2)
        router.fleet.apply(router.fleet.replicas["a"], keys[900:], (), cleared=False)

    change.append(restart)
    status, answer = await router.get("/admin/replicas/a/blocks")
    assert (answer["epoch"], answer["keys"]) == (2, [f"{key:016x}" for key in sorted(keys[900:])])

    def restarts():
        change.append(restarts)
        router.admit(replica.lease.url, "a", epoch=router.fleet.replicas["a"].epoch + 1)

    change.append(restarts)
    status, answer = await router.get("/admin/replicas/a/blocks")
    assert (status, answer["error"]["code"]) == (503, "blocks_change")


async def test_metrics_after_requests(router):
    """Prometheus can read what happened."""
    async with router.post(STREAM) as response:
        await response.read()
    async with router.client.get(f"{router.url}/metrics") as response:
        text = await response.text()
    assert (
        'warmroute_requests_total{arm="default",model="m",outcome="ok",path="/v1/chat/completions",policy'
        in text
    )
    assert 'delivered_cached_tokens_total{arm="default",policy="round-robin",replica="a"} 4.0' in text
    assert "warmroute_open_bookings 0.0" in text


async def test_nothing_blocks_the_event_loop(router):
    """No call of a request's life, streamed or not, waits for disk, network or a lock."""
    with blockbuster_ctx():
        for body in (CHAT, STREAM):
            async with router.post(body) as response:
                assert response.status == 200
                await response.read()
    await router.drained()


@pytest.mark.integration
async def test_router_follows_redis(start_router, engines, redis_server, tiny_model):
    """A replica's lease and blocks in Redis are enough: ready, routed, expected, and gone when it leaves."""
    engines[0].otherwise = counted(len(PromptTokenizer(tiny_model).chat(CHAT).token_ids))
    router = await start_router(redis_url=redis_server.url, policy="warm", heartbeat_seconds=0.05)
    assert (await router.get("/readyz"))[0] == 503
    client = connect(redis_server.url)
    writer = OwnershipWriter(client, Keys("warmroute"), "gpu-0", 30.0, 100)
    lease = Lease(
        replica="gpu-0",
        url=engines[0].url,
        state=ReplicaState.READY,
        model="m",
        block_size=4,
        publishes_events=True,
    )
    await writer.open(lease, ())
    await router.ready()
    async with router.post(CHAT) as response:
        assert response.headers["x-warmroute-reason"] == "cold"
    replica = router.fleet.replicas["gpu-0"]
    await writer.publish(list(router.fleet.index.expected(replica.slot)), ())
    await eventually(lambda: router.fleet.index.num_owned(replica.slot) > 0)
    async with router.post(CHAT) as response:
        assert response.headers["x-warmroute-reason"] == "warm"
        assert int(response.headers["x-warmroute-expected-cached-tokens"]) > 0
    assert (await router.get("/healthz"))[1]["status"] == "ok"
    await writer.close()
    await eventually(lambda: not router.fleet.replicas)
    async with router.post(CHAT) as response:
        assert response.status == 503
    await router.drained()
    await client.aclose()
