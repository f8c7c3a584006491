"""What is read from an engine's HTTP interface."""

import pytest

from workers.engines.engine import (
    EngineClient,
    Gauges,
    _Publisher,
    local_model_directory,
    parse_metrics,
    reachable_endpoint,
)
from workers.errors import EngineProtocolError, EngineUnavailableError
from workers.events.kv_events import EventSource

VLLM_METRICS = """\
# TYPE vllm:num_requests_running gauge
process_start_time_seconds 1.79531201655e+09
vllm:num_requests_running{engine="0",model_name="smol"} 3.0
vllm:num_requests_running{engine="1",model_name="smol"} 1.0
vllm:num_requests_waiting{engine="0",model_name="smol"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smol",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="smol"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="smol"} NaN
vllm:prefix_cache_queries_total{engine="0",model_name="smol"} 1200.0
vllm:prefix_cache_hits_total{engine="0",model_name="smol"} 800.0
vllm:cache_config_info{_block_size_resolved="True",block_size="128",effective_attention_block_size="64",\
engine="0",hash_block_size="None",kv_cache_memory_bytes="1073741824",num_cpu_blocks="None",\
num_gpu_blocks="40",num_gpu_blocks_override="41"} 1.0
"""


def test_metrics_of_vllm():
    """As vLLM 0.32 writes them: ranks are added up, labels that look alike are not mixed up."""
    gauges = parse_metrics(VLLM_METRICS)
    assert gauges == Gauges(
        running=4,
        waiting=2,
        kv_usage=0.25,
        prefix_queries=1200,
        prefix_hits=800,
        start_time=1.79531201655e9,
        block_size=128,
        capacity_blocks=40,
    )


@pytest.mark.parametrize(
    ("ones", "asleep", "discarded"),
    [
        ({"awake"}, False, False),
        (set(), True, False),
        ({"weights_offloaded"}, True, True),
        ({"discard_all"}, True, True),
    ],
)
def test_metrics_say_whether_an_engine_sleeps(ones, asleep, discarded):
    """None of the states is level 0: nothing but a pause. The others have no cache any more."""
    gauges = parse_metrics(
        "\n".join(
            f'vllm:engine_sleep_state{{engine="0",model_name="m",sleep_state="{state}"}} {state in ones:d}.0'
            for state in ("awake", "weights_offloaded", "discard_all")
        )
    )
    assert (gauges.asleep, gauges.cache_discarded) == (asleep, discarded)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "vllm:num_requests_running\n", 'vllm:cache_config_info{block_size="None"} 1']
)
def test_metrics_that_say_nothing(text):
    """What is missing or unreadable is 0."""
    assert parse_metrics(text) == Gauges()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://*:5557", "tcp://10.0.0.7:5557"),
        ("tcp://0.0.0.0:5557", "tcp://10.0.0.7:5557"),
        ("tcp://[::]:5557", "tcp://10.0.0.7:5557"),
        ("tcp://10.1.1.1:5557", "tcp://10.1.1.1:5557"),
        ("ipc:///tmp/x/events", "ipc:///tmp/x/events"),
    ],
)
def test_bound_addresses_become_reachable_ones(endpoint, expected):
    """An engine tells where it binds; the host is the one of its URL."""
    assert reachable_endpoint(endpoint, "10.0.0.7") == expected


@pytest.mark.parametrize(
    ("events", "replay", "exposed"),
    [
        ("ipc:///run/events", "ipc:///run/replay", False),
        ("tcp://127.0.0.1:1", "tcp://10.1.1.1:2", False),
        ("tcp://*:1", "ipc:///run/replay", True),
        ("tcp://127.0.0.1:1", "tcp://0.0.0.0:2", True),
        ("tcp://[::]:1", None, True),
    ],
)
def test_events_for_everybody_are_noticed(events, replay, exposed):
    """They hold the tokens of prompts."""
    publisher = _Publisher(publisher="zmq", endpoint=events, replay_endpoint=replay)
    assert EngineClient("http://h", "", 1.0)._source(0, publisher).on_all_interfaces is exposed


def test_ipv6_hosts_are_bracketed():
    """As ZeroMQ wants them."""
    assert reachable_endpoint("tcp://*:1", "fd00::1") == "tcp://[fd00::1]:1"


def test_model_folders(tmp_path):
    """A folder is itself; an id that is not in the local cache stays as it is."""
    assert local_model_directory(str(tmp_path)) == str(tmp_path)
    assert local_model_directory("nobody/no-such-model") == "nobody/no-such-model"
    assert local_model_directory("/no/such/folder") == "/no/such/folder"


async def test_discovery(engine):
    """Model, aliases, adapters, limits and event sources in one description."""
    async with EngineClient(engine.url + "/", "", 1.0) as client:
        found = await client.discover()
    assert found.names == ("tiny", ("tiny-alias",), ("lora-a",))
    assert (found.model_directory, found.max_model_len) == (str(engine.model), 512)
    publisher = engine.publisher
    assert found.sources == (EventSource(0, publisher.endpoint, publisher.replay_endpoint, "kv"),)
    assert (found.gauges.block_size, found.gauges.capacity_blocks) == (4, 100)


async def test_no_events_is_no_error(engine):
    """An engine that publishes nothing has no sources."""
    engine.publishes = False
    async with EngineClient(engine.url, "", 1.0) as client:
        assert await client.event_sources() == ()


async def test_a_wrong_key_is_named(engine):
    """The message says which setting to change."""
    engine.api_key = "secret"
    async with EngineClient(engine.url, "wrong", 1.0) as client:
        with pytest.raises(EngineProtocolError, match="WARMROUTE_ENGINE_API_KEY"):
            await client.discover()
    async with EngineClient(engine.url, "secret", 1.0) as client:
        assert (await client.discover()).names.model == "tiny"


async def test_an_unhealthy_engine(engine):
    """It answers, but not well: unavailable, and not refused."""
    engine.healthy = False
    async with EngineClient(engine.url, "", 1.0) as client:
        with pytest.raises(EngineUnavailableError, match="503") as caught:
            await client.gauges()
    assert not caught.value.refused


async def test_nobody_listens(engine):
    """A refused connection means that the process is gone."""
    await engine.stop()
    async with EngineClient(engine.url, "", 1.0) as client:
        with pytest.raises(EngineUnavailableError) as caught:
            await client.gauges()
    assert caught.value.refused
