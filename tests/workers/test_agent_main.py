"""Which engines an agent process watches over, and what it has routers call them."""

import pytest

from cluster.errors import StartUpError
from workers.agent.main import EngineAddress, engine_addresses


def test_engines_are_advertised_as_they_are_reached_by_default():
    """Without other addresses routers use the agent's own; an engine named twice is one engine."""
    assert engine_addresses(["http://a:1", "http://b:2", "http://a:1/"], []) == [
        EngineAddress("http://a:1", "http://a:1"),
        EngineAddress("http://b:2", "http://b:2"),
    ]


def test_advertised_addresses_belong_to_engines_in_order():
    """The first advertised address is that of the first engine, and so on."""
    assert engine_addresses(["http://a:1/", "http://b:2"], ["https://x", "http://y:3/"]) == [
        EngineAddress("http://a:1", "https://x"),
        EngineAddress("http://b:2", "http://y:3"),
    ]


@pytest.mark.parametrize(
    ("engines", "advertised", "message"),
    [
        (["http://a:1", "http://b:2"], ["http://x"], "2 times, --advertise-url 1 times"),
        (["http://a:1"], ["http://x", "http://y"], "1 times, --advertise-url 2 times"),
        (["http://a:1", "http://b:2"], ["http://x", "http://x/"], "--advertise-url http://x is given twice"),
        (["http://a:1", "http://a:1"], ["http://x", "http://y"], "--engine-url http://a:1 is given twice"),
    ],
)
def test_pairs_that_do_not_work_out_are_refused(engines, advertised, message):
    """The message names the option and what is wrong with it."""
    with pytest.raises(StartUpError, match=message):
        engine_addresses(engines, advertised)
