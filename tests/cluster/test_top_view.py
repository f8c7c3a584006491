"""What ``warmroute top`` shows."""

import io
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cluster.operate.top_view import delivered_rates, frame, sparkline
from router.admin.overview import OverviewAnswer
from tests.cluster.overviews import REASONS, overview, replica, trends


def terminal(width=80, height=40):
    """A terminal that nobody sees."""
    return Console(width=width, height=height, record=True, file=io.StringIO())


def lines(shown, width=80, height=40):
    """Everything as it stands in a terminal of that size."""
    console = terminal(width, height)
    console.print(frame(*shown, console, height))
    return console.export_text().splitlines()


@pytest.mark.parametrize("replicas", [0, 2])
def test_what_is_shown_here_is_what_routers_answer(replicas):
    """The overviews of these tests have the documented shape."""
    msgspec.convert(overview(replicas), OverviewAnswer)


@pytest.mark.parametrize("width", [80, 120])
def test_a_fleet_fits_its_terminal(width):
    """Everything stands in the terminal's columns and lines, and nothing is cut."""
    shown = lines((overview(8, alarms=["r1: lost events"]), trends(), ""), width, 30)
    assert all(len(line) <= width for line in shown)
    assert len(shown) <= 30
    text = "\n".join(shown)
    assert "…" not in text
    assert "8 of 8 ready" in text
    assert re.search(r"available +90\.0% +90\.0%", text)
    assert re.search(r"predicted +88\.0% +88\.0%", text)
    assert re.search(r"delivered +87\.0% +87\.0%", text)
    assert re.search(r"warm +120 ms +360 ms +600 ms", text)
    assert re.search(r"cold +2\.9 s", text)
    assert re.search(r"! \d\d:\d\d r1: lost events", text)
    assert "87.0k tokens, 1 min of prefill" in text


def test_misses_stand_in_the_order_of_their_size():
    """With their shares, and bars as long; reasons without tokens are left out."""
    shown = lines((overview(tail=500, cold=250, evicted=250), None, ""))
    start = next(number for number, line in enumerate(shown) if line.startswith("computed again, 5 min"))
    rows = [line.split() for line in shown[start + 1 : start + 5]]
    assert [row[:3] for row in rows[:3]] == [
        ["tail", "50.0%", "500"],
        ["cold", "25.0%", "250"],
        ["evicted", "25.0%", "250"],
    ]
    assert len(rows[0][3]) == 2 * len(rows[1][3])
    assert rows[3] == []


def test_an_idle_fleet_shows_the_last_hours_misses():
    """When the last minutes have none; without any it says so."""
    idle = overview()
    idle["fleet"]["recent"]["misses"] = dict.fromkeys(REASONS, 0)
    assert any(line.startswith("computed again, 1 h") for line in lines((idle, None, "")))
    assert any(line.startswith("nothing") for line in lines((overview(requests=0), None, "")))


def test_an_empty_fleet():
    """No replicas and no requests: no rates, no times, and it says so."""
    text = "\n".join(lines((overview(0, requests=0), trends(0), "")))
    assert "0 of 0 ready" in text
    assert re.search(r"delivered +- +-", text)
    assert re.search(r"warm +- +- +-", text)
    assert "no replicas" in text
    assert "no history yet" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 60), (120, 40)])
def test_of_many_replicas_the_busiest_are_shown(width, height):
    """As many as fit, those with the longest queues first; the others are counted."""
    shown = lines((overview(256), trends(), ""), width, height)
    assert len(shown) <= height
    replicas = [line.split()[0] for line in shown if line.startswith("replica-")]
    assert replicas == [f"replica-{number:03}" for number in range(255, 255 - len(replicas), -1)]
    assert len(shown) >= height - 2
    assert f"{256 - len(replicas)} replicas with less to do not shown" in shown[-1]


def test_alarms_leave_room():
    """The first five are shown, the others counted."""
    text = "\n".join(lines((overview(alarms=[f"alarm {number}" for number in range(7)]), None, "")))
    assert "alarm 4" in text
    assert "alarm 5" not in text
    assert "and 2 more alarms" in text


def test_states_of_replicas():
    """Drained by an operator, out of reach, and with alarms of its own."""
    fleet = overview(0)
    fleet["replicas"] = [
        replica(3, drained=True),
        replica(2, reachable=False),
        replica(1, alarms=["events lost"]),
        replica(0, state="starting"),
    ]
    rows = [line.split() for line in lines((fleet, None, "")) if line.startswith("replica-")]
    assert [row[1] for row in rows] == ["drained", "unreachable", "ready", "starting"]
    assert rows[2][2] == "!"


def test_nothing_in_an_answer_commands_the_terminal():
    """Neither escape sequences nor markup."""
    fleet = overview(1, alarms=["\x1b[2J[red]gone[/red]"])
    fleet["replicas"][0]["replica"] = "[bold]\x1b]0;title\x07"
    text = "\n".join(lines((fleet, None, "\x1b[2J")))
    assert not {"\x1b", "\x07"} & set(text)
    assert "[red]gone[/red]" in text
    assert "[bold]" in text


@given(st.lists(st.none() | st.floats(0, 1)))
def test_the_sparkline_keeps_order(rates):
    """One cell for each rate, higher for higher rates, blank where there is none."""
    line = sparkline(rates)
    assert len(line) == len(rates)
    assert all((cell == " ") == (rate is None) for cell, rate in zip(line, rates, strict=True))
    known = sorted((rate, cell) for rate, cell in zip(rates, line, strict=True) if rate is not None)
    assert [cell for _, cell in known] == sorted(cell for _, cell in known)


def test_the_fleets_rate_is_weighted_by_tokens():
    """Of all prompt tokens of a step; one without any has no rate."""
    two = {"step_seconds": 300, "end": 600.0, "steps": [{"time": 0.0, "sums": {"1": 400, "4": 100}}]}
    assert delivered_rates(two) == [0.25, None]


@pytest.mark.parametrize(
    ("tokens", "seconds", "priced", "shown"),
    [
        (79_700, None, 0, "79.7k tokens, unknown time of prefill"),
        (79_700, 2.0, 40_000, "79.7k tokens, at least 2 s of prefill"),
        (79_700, 2.0, 79_000, "79.7k tokens, 2 s of prefill"),
        (0, 0.0, 0, "0 tokens, 0 s of prefill"),
    ],
)
def test_savings_say_what_is_known(tokens, seconds, priced, shown):
    """Where the pace of no replica is known the time is not 0."""
    fleet = overview()
    fleet["fleet"]["hour"] |= {"saved_tokens": tokens, "saved_seconds": seconds, "priced_tokens": priced}
    assert shown in "\n".join(lines((fleet, None, "")))


def test_warm_and_cold_are_compared_with_enough_of_both():
    """Else it says how many are missing."""
    fleet = overview()
    assert "24.20x faster (20.00 to 30.00)" in "\n".join(lines((fleet, None, "")))
    ttft = fleet["fleet"]["ttft"]
    ttft["speedup"], ttft["cold"]["count"] = None, 1
    assert "19 more cold to compare" in "\n".join(lines((fleet, None, "")))
