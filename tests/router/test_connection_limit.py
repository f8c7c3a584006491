"""Whose connection gives way, how many there may be, and whose is whose."""

import gc
import resource
import weakref

import pytest

from cluster.errors import StartUpError
from cluster.settings import load_settings
from router.http import admission
from router.http.admission import (
    MAX_CONNECTIONS,
    Admission,
    max_connections,
    network_of,
    raise_file_limit,
)
from router.settings import RouterSettings


def admission_of(connections):
    """A bound of so many connections."""
    return Admission(10, 1024, connections)


class Connection:
    """One that leaves when it is told to."""

    def __init__(self, limit, address, state):
        self.limit, self.evicted = limit, False
        party = limit.address(address)
        self.entry = limit.enter(party, self.evict)
        self.entry.wait_among({"idle": party.idle, "arriving": party.arriving}.get(state))

    def evict(self):
        """Leave."""
        self.evicted = True
        self.limit.leave(self.entry)


@pytest.mark.parametrize(
    ("held", "evicted"),
    [
        (["a idle", "b idle", "b idle"], 1),
        (["a idle", "b arriving", "b idle"], 2),
        (["a idle", "b arriving", "b arriving"], 1),
        (["a idle", "b answered", "b answered"], 0),
        (["a arriving", "b answered", "b answered"], 0),
        (["a answered", "b answered", "b answered"], None),
    ],
)
def test_who_gives_way(held, evicted):
    """Of the address with most connections that has one to give: the longest idle, then the slowest."""
    limit = admission_of(3)
    connections = [Connection(limit, *each.split()) for each in held]
    entry = limit.enter(limit.address("c"), print)
    assert (entry is None) == (evicted is None)
    assert [each.evicted for each in connections] == [number == evicted for number in range(3)]


def test_nothing_is_left_of_those_that_left():
    """Addresses are forgotten with their last connection."""
    limit = admission_of(2)
    for number in range(100):
        limit.leave(limit.enter(limit.address(str(number)), print))
    assert not limit.parties
    assert limit._connections == 0


@pytest.mark.parametrize(
    ("files", "connections"),
    [
        (256, 64),
        (20_000, 6_645),
        (10**9, MAX_CONNECTIONS),
        (resource.RLIM_INFINITY, MAX_CONNECTIONS),
        (10, 1),
    ],
)
def test_file_limit_bounds_connections(monkeypatch, files, connections):
    """Each client may need two more files, for engines."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert max_connections() == connections


def test_file_limit_is_raised(monkeypatch):
    """To what the process may have without privileges."""
    wanted = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: wanted.append(limits))
    raise_file_limit()
    assert wanted == [(4096, 4096)]


def test_reaching_the_limit_is_logged_once_a_minute(monkeypatch):
    """Not with every connection."""
    lines = []
    monkeypatch.setattr(admission.log, "warning", lambda event, **_: lines.append(event))
    limit = admission_of(1)
    party = limit.address("a")
    limit.enter(party, print)
    for _ in range(10):
        assert limit.enter(party, print) is None
    assert lines == ["client_connections_limited"]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8::1", "2001:0db8:0000:0000"),
        ("2001:db8:0:0:9:8:7:6", "2001:0db8:0000:0000"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("testclient", "testclient"),
    ],
)
def test_whose_connection_it_is(host, network):
    """Of IPv6 a /64 counts as one client, since it usually is."""
    assert network_of(host) == network


def test_bytes_in_flight_leave_room_for_a_body(monkeypatch):
    """A limit under which a whole body could never arrive is refused at start."""
    monkeypatch.setenv("WARMROUTE_MAX_BODY_BYTES", "200000000")
    with pytest.raises(StartUpError, match=r"WARMROUTE_MAX_BODY_BYTES_IN_FLIGHT: .*twice"):
        load_settings(RouterSettings)


def test_connections_that_have_ended_do_not_stay(monkeypatch):
    """They are cycles, which would otherwise wait for thousands of others."""
    monkeypatch.setattr(admission, "COLLECTED", 2)
    limit = admission_of(10)
    gc.disable()
    try:
        first, second = (Connection(limit, "a", "idle") for _ in range(2))
        first.itself = first
        lives = weakref.ref(first)
        limit.leave(first.entry)
        del first
        assert lives() is not None
        limit.leave(second.entry)
        assert lives() is None
    finally:
        gc.enable()
