"""How answers, faults and logs are judged."""

import time
from types import SimpleNamespace

from tests.chaos.faults import plan_round
from tests.chaos.ledger import Ledger, breaks, path
from tests.chaos.report import Report, percentiles
from tests.chaos.traffic import Outcome, Traffic


def test_the_ledger_knows_what_was_out_when():
    """Any overlap counts, with a little slack after the end; other names do not."""
    ledger = Ledger()
    before = time.monotonic() - 1
    with ledger.out("router0", "path"):
        during = time.monotonic()
        assert ledger.was_out("router0", during, during)
        assert not ledger.was_out("router1", during, during)
        assert not ledger.was_out("path", before, before + 0.5)
    after = time.monotonic()
    assert ledger.was_out("path", before, after)
    assert ledger.was_out("path", after, after + 1)
    assert not ledger.was_out("path", after + 1, after + 2)
    assert ledger.num_out(("path", "router0", "router1"), before, after) == 2


def test_a_request_may_fail_only_when_two_engines_broke_off_under_it():
    """What holds a request up is no excuse, nor is one engine, nor what happened to another router."""
    ledger, fleet = Ledger(), SimpleNamespace(engines=[SimpleNamespace(replica=f"e{n}") for n in range(4)])
    traffic, router = Traffic(fleet, ledger, 1), SimpleNamespace(name="router0")

    def outcome(status, streamed=False):
        answer = SimpleNamespace(status=status, complete=True, error="", streamed=streamed, replica="e0")
        return traffic._judge(answer, router, time.monotonic(), left=False, hung=False)

    with ledger.out(path("router0", "e0"), path("router0", "e1"), breaks("router1", "e1")):
        assert outcome(502) is Outcome.FAILED
        with ledger.out(breaks("router0", "e0")):
            assert outcome(502) is Outcome.FAILED
            with ledger.out(breaks("router0", "e1")):
                assert outcome(502) is Outcome.ENGINES_DIED
                assert outcome(503) is Outcome.FAILED
                assert outcome(504) is Outcome.FAILED


def test_a_run_passes_only_without_violations():
    """Nothing tried is nothing passed; one violation is enough to fail, and is told with its round."""
    report = Report(3, 2.0)
    assert not report.passed
    round_ = report.begin_round(plan_round(3, 0), 0.0)
    round_.converged = 0.5
    assert report.passed
    assert "PASSED" in report.text()
    report.add(0, "router0 died by itself", "exit 1", {"router0": "last words"})
    assert not report.passed
    assert "round 0: router0 died by itself: exit 1" in report.text()
    assert "router0 | last words" in report.text()


def test_percentiles():
    """Of nothing, of one, of many."""
    assert percentiles([]) == "none measured"
    assert percentiles([1.0]) == "p50 1.00, p95 1.00, max 1.00 (1)"
    assert percentiles([float(n) for n in range(100)]) == "p50 50.00, p95 95.00, max 99.00 (100)"
