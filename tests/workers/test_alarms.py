"""Alarms that end: by themselves, by what they count, or when they are cleared."""

import pytest

from workers.agent.alarms import Alarms


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """A clock under the test's control."""
    return Clock()


@pytest.fixture
def alarms(clock):
    """No alarm yet."""
    return Alarms(clock)


def test_alarms_stay_until_they_are_cleared(alarms, clock):
    """Texts come in the order of the names; raising one again replaces its text."""
    alarms.set("b", "second")
    alarms.set("a", "before")
    alarms.set("a", "first")
    clock.now = 1e9
    assert alarms.texts() == ("first", "second")
    alarms.clear("a")
    alarms.clear("never raised")
    assert alarms.texts() == ("second",)


def test_alarms_end_after_their_time(alarms, clock):
    """Raised again, it stays for as long again."""
    alarms.set("a", "text", 10.0)
    clock.now = 9.0
    alarms.set("a", "text", 10.0)
    clock.now = 18.9
    assert alarms.texts() == ("text",)
    clock.now = 19.0
    assert alarms.texts() == ()


def test_counts_raise_alarms_as_often_as_they_change(alarms, clock):
    """An alarm about a count ends when the count has stood still, and at once when it is zero."""
    alarms.set_for(0, "a", "none", 10.0)
    assert alarms.texts() == ()
    alarms.set_for(1, "a", "one", 10.0)
    clock.now = 9.0
    alarms.set_for(1, "a", "one", 10.0)
    assert alarms.texts() == ("one",)
    clock.now = 10.0
    alarms.set_for(1, "a", "one", 10.0)
    assert alarms.texts() == ()
    alarms.set_for(2, "a", "two", 10.0)
    assert alarms.texts() == ("two",)
    alarms.set_for(0, "a", "none", 10.0)
    assert alarms.texts() == ()
    alarms.set_for(2, "a", "two", 10.0)
    assert alarms.texts() == ("two",)
