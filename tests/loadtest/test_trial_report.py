"""The report of a load test: a page that stands alone, with a verdict that says no more than was shown."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from trial_samples import trial

from loadtest.charts.palette import series_styles
from loadtest.trial.figures import replica_shares
from loadtest.trial.money import Price
from loadtest.trial.plots import plots_of
from loadtest.trial.records import Lag
from loadtest.trial.report import find, write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Strict(HTMLParser):
    """Checks that every element is closed, in order; collects what a page could load, and its text."""

    def __init__(self):
        super().__init__()
        self.open, self.references, self.text, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def with_ours(measured, change):
    """The same trial with other answers of ours."""
    rounds = [
        replace(one, answers=[change(answer) for answer in one.answers]) if one.arm == "warm" else one
        for one in measured.rounds
    ]
    return replace(measured, rounds=rounds)


def analysed(measured, replicas=8):
    """What follows from a trial, with a goal of a second."""
    return find(measured, Price(2.5), 2.0, 1.0, 100_000, replicas)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report in a folder, written once."""
    directory = tmp_path_factory.mktemp("report")
    measured = trial(conversations=80)
    return write_report(measured, analysed(measured), directory)


def test_the_page_is_whole_and_needs_nothing_else(written):
    """Every element is closed, and nothing is loaded from anywhere."""
    page = written.read_text()
    parser = Strict()
    parser.feed(page)
    assert not parser.open
    assert all(reference.startswith("#") for reference in parser.references)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page


def test_the_page_shows_every_part(written):
    """Verdict, distributions, hit rate, replicas, saturation, warm against cold, money, method."""
    parser = Strict()
    parser.feed(written.read_text())
    parts = {
        "verdict",
        "rounds",
        "results",
        "gain",
        "ttft",
        "hit-rate",
        "replicas",
        "saturation",
        "probes",
        "money",
        "method",
    }
    assert parts <= set(parser.ids)
    text = " ".join(parser.text)
    assert "Student's over rounds" in text
    assert "support" not in text  # nothing of another trial


def test_names_are_text_and_not_markup(written):
    """What a user has named cannot become an element."""
    assert "&lt;round-robin&gt;" in written.read_text()
    assert "<round-robin>" not in written.read_text()


def test_json_holds_the_figures(written):
    """Beside the page, with nulls where there is no figure."""
    results = json.loads((written.parent / "results.json").read_text())
    assert {one["figure"]["key"] for one in results["comparisons"]} >= {"ttft_p50", "ttft_p95", "hit_rate"}
    assert results["savings"][0]["money_per_day"]["estimate"] > 0
    assert len(results["sweep"]) == 8
    assert "NaN" not in (written.parent / "results.json").read_text()


def test_reports_are_small(written):
    """They are meant to be kept with the code."""
    assert written.stat().st_size < 400_000


def test_the_verdict_names_the_gain():
    """Twice as fast in the median, in the first sentence, and what each replica saves."""
    findings = analysed(trial(conversations=200))
    [verdict] = findings.verdicts
    assert re.match(
        r"Against round-robin, warm gives the first token [12]\.\d\d times as fast in the median",
        verdict.headline,
    )
    assert any("Replicas needed for what 8 serve with warm" in one for one in findings.sentences)


def test_a_faster_first_token_does_not_hide_slower_answers():
    """If whole answers take longer, the first sentence says so."""
    slow = with_ours(trial(conversations=600), lambda answer: replace(answer, latency=answer.latency * 2))
    [verdict] = analysed(slow).verdicts
    assert "times as fast in the median" in verdict.headline
    assert re.search(r"but whole answers take 1\.\d\d times as long in the median", verdict.headline)
    [line] = [one.sentence for one in verdict.lines if one.label == "Answer p50"]
    found = re.search(r"([\d.]+) times as slowly \(95% interval ([\d.]+) to ([\d.]+)\)", line)
    assert found is not None
    slower, low, high = map(float, found.groups())
    assert 1 < low <= slower <= high


def test_a_lower_hit_rate_is_said_as_a_loss():
    """How many points less, and the interval of that, both without a sign."""
    less = with_ours(
        trial(conversations=200),
        lambda answer: replace(answer, cached_tokens=answer.cached_tokens // 4 - answer.turn),
    )
    [verdict] = analysed(less).verdicts
    [line] = [one.sentence for one in verdict.lines if one.label == "Hit rate"]
    found = re.search(r": ([\d.]+) points less \(95% interval ([\d.]+) to ([\d.]+) points\)", line)
    assert found is not None, line
    loss, low, high = map(float, found.groups())
    assert 0 < low <= loss <= high


def test_an_idle_replica_is_shown_as_idle():
    """A replica that an arm never chose counts as one with nothing to do; the others keep their numbers."""
    herding = with_ours(trial(), lambda answer: replace(answer, replica="replica-1"))
    shares = replica_shares(herding, "warm", ["replica-0", "replica-1"])
    assert [one.requests for one in shares] == [0, 240]


def test_too_few_conversations_are_not_judged():
    """The headline says so, and how many are needed."""
    [verdict] = analysed(trial(conversations=12)).verdicts
    assert verdict.headline.startswith(
        "No conclusion against round-robin: 6 rounds with 12 conversations are too few."
    )
    assert all("not enough to conclude" in line.sentence for line in verdict.lines)
    assert all(
        "At least 40 conversations are needed; here were 12" in line.sentence for line in verdict.lines
    )


def test_one_round_is_not_judged():
    """However many conversations it has: rounds are the unit of noise."""
    [verdict] = analysed(trial(conversations=500, rounds=1)).verdicts
    assert verdict.headline.startswith("No conclusion against round-robin: 1 rounds with 500 conversations")
    assert all("At least 4 rounds of each arm are needed; here were 1" in x.sentence for x in verdict.lines)


def test_an_undecided_figure_says_what_it_takes():
    """The number of rounds that find the difference that is looked for, whatever was seen."""
    findings = analysed(trial(conversations=120, our_speed=0.2))
    [verdict] = findings.verdicts
    [more] = [one for one in findings.sentences if "--max-rounds" in one]
    assert re.search(r"(\d+) more, in about \d+ min\.", more), more
    [line] = [one.sentence for one in verdict.lines if one.label == "TTFT p50"]
    assert re.search(r"To find 10.0% nearly always, (\d+|more than 1,000) rounds of each arm", line), line


def test_disturbed_rounds_are_told():
    """How many, of which arm, and why; each round's row says it too."""
    measured = trial()
    late = replace(measured, rounds=[replace(measured.rounds[0], lag=Lag(0.5, 1.0)), *measured.rounds[1:]])
    [warning] = analysed(late).warnings
    assert warning.startswith("1 of 12 rounds were disturbed (1 of round-robin, 0 of warm), the first when")
    assert not analysed(measured).warnings


def test_cold_starts_are_shown_apart():
    """What is asked in the first third of a round, and after it, beside all of it."""
    groups = {one.group: one.requests for one in analysed(trial()).figures if one.arm == "warm"}
    start = groups["Cold start: the first third of each round"]
    assert 0 < start <= groups["All requests"]
    assert start + groups.get("After the cold start", 0) == groups["All requests"]


def test_failures_are_told_with_their_reason():
    """How many, of which arm, and the first message."""
    measured = trial()
    first, *others = measured.rounds
    broken = replace(first.answers[0], error="503 no replica is ready")
    failed = replace(measured, rounds=[replace(first, answers=[broken, *first.answers]), *others])
    assert (
        "1 request of round-robin failed, the first with: 503 no replica is ready"
        in analysed(failed).warnings
    )


def test_servers_that_report_no_cached_tokens_are_told():
    """Then nothing can be said of hit rates, replicas and money; there is a verdict all the same."""
    measured = trial()
    blind = replace(
        measured,
        probes=(),
        rounds=[
            replace(one, answers=[replace(answer, cached_tokens=0, replica="") for answer in one.answers])
            for one in measured.rounds
        ],
    )
    findings = analysed(blind)
    assert any("No server reports cached tokens" in one for one in findings.warnings)
    assert not findings.savings
    styles = series_styles(blind.arms, blind.ours)
    shown = [plot.name for plot in plots_of(blind, findings.comparisons, findings.steps, styles)]
    assert shown == ["gain", "ttft", "hit-rate", "saturation"]


def test_a_sweep_alone_makes_a_report(tmp_path):
    """Without rounds there is nothing to compare, but what each arm serves."""
    alone = replace(trial(), rounds=())
    page = write_report(alone, analysed(alone), tmp_path).read_text()
    assert 'id="saturation"' in page
    assert 'id="results"' not in page
