"""A fleet of which everything is known: operators are shown it within 2%, or that it is not known."""

import io
import re

import msgspec
import pytest
from rich.console import Console

from cluster.fleet.fleet import Fleet
from cluster.operate.top_view import frame
from cluster.store.store import connect
from router.explain.conversations import Conversations
from router.explain.explainer import Explainer
from router.history.tallies import FIRST_BIN
from router.history.trends import BIN_SECONDS
from router.observe.accounting import Accounts
from router.observe.explanations import Explanations
from router.observe.metrics import Metrics
from tests.cluster.overviews import overview
from tests.router.conftest import NO_REDIS
from tests.router.finished_requests import NOON, Clock, finished
from tests.router.history_party import Party
from tests.router.test_accounting import samples

PACE = {"fast": 0.0001, "slow": 0.0004, "new": 0.0}
"""Seconds per token; not measured yet for the last."""
WARM, COLD = 0.13, 0.91
REQUESTS = 60
PROMPT, CACHED = 5000, 4000
FAILED, REFUSED = 6, 9
SAVED = {replica: REQUESTS * CACHED * pace for replica, pace in PACE.items()}


class Quiet:
    """A router without troubles."""

    def degradations(self):
        """None."""
        return iter(())


@pytest.fixture
async def party():
    """A router's history; nobody shares it."""
    redis = connect(NO_REDIS)
    yield Party(redis, "r", Clock())
    await redis.aclose()


@pytest.fixture
def metrics(party, monkeypatch):
    """The planted fleet has served, and this is what the router counts of it."""
    monkeypatch.setattr("router.observe.accounting.time.time", lambda: NOON)
    fleet = Fleet()
    metrics = Metrics(fleet, Quiet(), party.history.tallies)
    explanations = Explanations(party.redis, party.keys, "r")
    accounts = Accounts(Explainer(fleet, Conversations(1 << 20)), metrics, explanations, party.history)

    def serve(replica, cached, seconds, **changes):
        record = finished(replica, PROMPT, cached, status=200, seconds_per_token=PACE[replica], **changes)
        record.first_byte = record.started + seconds
        accounts.finish(record)

    for number in range(REQUESTS):
        spread = 1 + (number - (REQUESTS - 1) / 2) / REQUESTS
        for replica in PACE:
            serve(replica, CACHED, WARM * spread)
            serve(replica, 0, COLD * spread)
        serve("fast", 0, 9.0, stream=False)
    for _ in range(FAILED):
        serve("slow", 0, 1.0, outcome="broken")
    for _ in range(REFUSED):
        accounts.finish(finished("", usage=None, outcome="refused", status=404, model=""))
    return metrics


def near(value):
    """Within 2%."""
    return pytest.approx(value, rel=0.02)


def test_overview_says_what_is_so(party, metrics):
    """Ratio of warm and cold, savings, errors: what the page and ``top`` show."""
    ttft = party.history.ttft(None)
    assert (ttft.warm.count, ttft.cold.count) == (3 * REQUESTS, 3 * REQUESTS)
    assert ttft.speedup.ratio == near(COLD / WARM)
    assert ttft.speedup.low < COLD / WARM < ttft.speedup.high
    for replica, seconds in SAVED.items():
        rates = party.history.rates(replica, 300)
        assert rates.saved_tokens == REQUESTS * CACHED
        assert rates.saved_seconds == (near(seconds) if PACE[replica] else None)
    assert party.history.fleet_rates(300).failures == FAILED
    assert party.history.fleet_rates(300).saved_seconds == near(sum(SAVED.values()))
    assert party.history.fleet_rates(300).priced_tokens == 2 * REQUESTS * CACHED


def test_metrics_say_what_is_so(metrics):
    """A replica whose pace is not known has no counter of seconds, and not one of 0."""
    found = samples(metrics)
    for replica, seconds in SAVED.items():
        name = f'warmroute_saved_prefill_seconds_total{{replica="{replica}"}}'
        assert found.get(name) == (near(seconds) if PACE[replica] else None)
    outcomes = {
        outcome: sum(value for name, value in found.items() if f'outcome="{outcome}"' in name)
        for outcome in ("broken", "refused")
    }
    assert outcomes == {"broken": FAILED, "refused": REFUSED}
    streams = sum(value for name, value in found.items() if "time_to_first_token_seconds_count" in name)
    assert streams == 6 * REQUESTS + FAILED


def test_top_says_what_is_so(party, metrics):
    """The same in a terminal."""
    shown = overview()
    encoded = msgspec.json.encode((party.history.ttft(None), party.history.fleet_rates(3600)))
    shown["fleet"]["ttft"], shown["fleet"]["hour"] = msgspec.json.decode(encoded)
    stream = io.StringIO()
    console = Console(file=stream, width=100, height=50)
    console.print(frame(shown, None, "", console, 50))
    text = stream.getvalue()
    assert float(re.search(r"([\d.]+)x faster", text)[1]) == near(COLD / WARM)
    assert f"at least {sum(SAVED.values()) // 60:.0f} min" in text


async def test_trends_say_what_is_so(party, metrics):
    """What charts draw: requests by status exactly, times to the first token within their bins."""
    party.history.finish()
    number = int(NOON // 10)
    read = party.history.trends.read(party.store, 10, range(number, number + 1))
    sums = [counts async for _, by_labels in read for counts in by_labels.values()]
    total = {name: sum(counts.get(name, 0) for counts in sums) for each in sums for name in each}
    assert (total[200], total[404], total[599]) == (7 * REQUESTS, REFUSED, FAILED)
    seconds, ratio = BIN_SECONDS
    fastest = seconds * ratio ** (min(name for name in total if name >= FIRST_BIN) - FIRST_BIN)
    assert fastest == pytest.approx(WARM / 2, rel=0.07)
