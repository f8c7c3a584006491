"""Which engines an agent process watches over, and what it has routers call them."""

import pytest

from cluster.errors import StartUpError
from cluster.store.store import is_local
from workers.agent.main import EngineAddress, engine_addresses


def test_engines_are_advertised_as_they_are_reached_by_default():
    """Without other addresses routers use the agent's own; an engine named twice is one engine."""
    assert engine_addresses(["http://a:1", "http://b:2", "http://a:1/"]) == [
        EngineAddress("http://a:1", "http://a:1", "a-1"),
        EngineAddress("http://b:2", "http://b:2", "b-2"),
    ]


def test_advertised_addresses_belong_to_engines_in_order():
    """The first advertised address is that of the first engine, and so on."""
    assert engine_addresses(["http://a:1/", "http://b:2"], ["https://x", "http://y:3/"]) == [
        EngineAddress("http://a:1", "https://x", "x-443"),
        EngineAddress("http://b:2", "http://y:3", "y-3"),
    ]


def test_two_engines_behind_one_port_have_ids_of_their_own():
    """They differ by their paths only, which are in no id that is made from a URL."""
    engines = ["http://gateway/a", "http://gateway/b"]
    with pytest.raises(StartUpError, match=r"both be replica gateway-80: .*--replica-id"):
        engine_addresses(engines)
    found = engine_addresses(engines, replica_ids=["a", "b"])
    assert [address.replica for address in found] == ["a", "b"]


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "0.0.0.0:8001"])
@pytest.mark.parametrize(
    ("redis", "refused"),
    [
        ("redis://redis:6379/0", True),
        ("rediss://user:p%40ss@10.0.0.1", True),
        ("redis+sentinel://127.0.0.1,10.0.0.1/service", True),
        ("redis+cluster://localhost:7000,[::1]:7001", False),
        ("redis://user:10.0.0.1@127.0.0.1:6379", False),
        ("redis:///1", False),
        ("unix:///run/redis.sock", False),
    ],
)
def test_address_that_other_machines_cannot_reach(host, redis, refused):
    """Where Redis is on another machine, routers may be, too. An address that was given is taken."""
    url = f"http://{host}"
    assert engine_addresses([url], [url], redis_is_local=is_local(redis))
    if not refused:
        assert engine_addresses([url], redis_is_local=is_local(redis))
        return
    with pytest.raises(StartUpError, match="--advertise-url"):
        engine_addresses([url], redis_is_local=is_local(redis))


@pytest.mark.parametrize(
    ("engines", "advertised", "replicas", "message"),
    [
        (["http://a:1", "http://b:2"], ["http://x"], [], "2 times, --advertise-url 1 times"),
        (["http://a:1"], ["http://x", "http://y"], [], "1 times, --advertise-url 2 times"),
        (
            ["http://a:1", "http://b:2"],
            ["http://x", "http://x/"],
            [],
            "--advertise-url http://x is given twice",
        ),
        (
            ["http://a:1", "http://a:1"],
            ["http://x", "http://y"],
            [],
            "--engine-url http://a:1 is given twice",
        ),
        (["http://a:1", "http://b:2"], [], ["x"], "2 times, --replica-id 1 times"),
        (["http://a:1", "http://b:2"], [], ["x", "x"], "--replica-id x is given twice"),
        (["http://a:1"], [], ["x{y}"], "--replica-id 'x{y}': letters"),
    ],
)
def test_pairs_that_do_not_work_out_are_refused(engines, advertised, replicas, message):
    """The message names the option and what is wrong with it."""
    with pytest.raises(StartUpError, match=message):
        engine_addresses(engines, advertised, replicas)
