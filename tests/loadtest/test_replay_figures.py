"""What a replay's report says: figures, marks, sentences, windows, the table for the terminal."""

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtest.replay.command import results_table
from loadtest.replay.figures import Better, Mark, compare, tabulate, windowed
from loadtest.replay.verdict import judge
from loadtest.simulator.results import Run
from tests.loadtest.replays import PROMPT_TOKENS, answer, experiment, run


def verdict(*runs: Run) -> str:
    """All sentences about these runs."""
    judged = judge(tabulate(experiment(*runs)), "warm", None)
    sentences = [
        judged.headline,
        judged.failures,
        *(text for load in judged.loads for text in load.sentences),
    ]
    return "\n".join(sentences).replace("\u00a0", " ")


class TestFigures:
    def test_one_run(self):
        """TTFT in milliseconds, of requests that got a first token; the other figures over all requests."""
        answers = [answer(ttft=(i + 1) / 1000, hit_tokens=200) for i in range(100)]
        answers.append(answer(failed=True))
        (row,) = tabulate(experiment(run(answers=answers), bound_hit_rate=0.25))
        figures = row.figures
        assert figures["ttft_mean_ms"] == pytest.approx(50.5)
        assert figures["ttft_p50_ms"] == pytest.approx(50.5)
        assert figures["ttft_p95_ms"] == pytest.approx(95.05)
        assert figures["ttft_p99_ms"] == pytest.approx(99.01)
        assert figures["hit_rate"] == pytest.approx(200 * 100 / (101 * PROMPT_TOKENS))
        assert figures["hit_rate_of_bound"] == pytest.approx(figures["hit_rate"] / 0.25)
        assert figures["imbalance"] == pytest.approx(1.5)
        assert figures["utilisation"] == pytest.approx(0.2)
        assert figures["failures"] == 1
        assert row.requests == 101

    def test_several_seeds_give_the_median_of_each_figure(self):
        """One unlucky seed does not decide."""
        runs = [run(seed=seed, answers=[answer(ttft)]) for seed, ttft in ((1, 0.1), (2, 9.0), (3, 0.2))]
        (row,) = tabulate(experiment(*runs))
        assert row.figures["ttft_mean_ms"] == pytest.approx(200)
        assert row.seeds == (1, 2, 3)

    def test_rows_are_sorted_by_load_and_then_by_mean_ttft(self):
        """The fastest policy of a load stands first, one without any answer last."""
        slow, fast, dead = [answer(0.3)], [answer(0.1)], [answer(failed=True)]
        rows = tabulate(
            experiment(
                run("x", 2.0, answers=dead),
                run("y", 2.0, answers=slow),
                run("z", 2.0, answers=fast),
                run("x", 1.0),
            )
        )
        assert [(row.load, row.policy) for row in rows] == [(1.0, "x"), (2.0, "z"), (2.0, "y"), (2.0, "x")]

    def test_marks_compare_policies_at_the_same_load(self):
        """The best of each load is marked, and what is within 2% of it."""
        times = {("a", 1.0): 0.100, ("b", 1.0): 0.1019, ("c", 1.0): 0.103, ("a", 2.0): 0.5, ("b", 2.0): 0.4}
        rows = tabulate(experiment(*(run(p, load, answers=[answer(t)]) for (p, load), t in times.items())))
        marks = {(row.policy, row.load): row.marks["ttft_p99_ms"] for row in rows}
        assert marks == {
            ("a", 1.0): Mark.BEST, ("b", 1.0): Mark.NEAR, ("c", 1.0): Mark.NONE,
            ("a", 2.0): Mark.NONE, ("b", 2.0): Mark.BEST,
        }  # fmt: skip

    @given(st.lists(st.floats(0.001, 1e6) | st.just(math.nan), max_size=12), st.sampled_from(Better))
    def test_a_marked_figure_is_never_worse_than_an_unmarked_one(self, values, better):
        """Whatever the figures, and with any of them missing."""
        marks = compare(values, better)
        ranks = {Mark.BEST: 0, Mark.NEAR: 1, Mark.NONE: 2}
        sign = -1 if better is Better.HIGHER else 1
        known = [
            (ranks[mark], sign * value) for mark, value in zip(marks, values, strict=True) if value == value
        ]
        assert all(mark is Mark.NONE for mark, value in zip(marks, values, strict=True) if value != value)
        assert all(one <= other for rank, one in known for other_rank, other in known if rank < other_rank)

    def test_no_marks_where_most_are_best(self):
        """A mark that nearly everybody has tells nobody apart."""
        assert set(compare([0, 0, 5], Better.LOWER)) == {Mark.NONE}
        assert set(compare([3], Better.LOWER)) == {Mark.NONE}
        assert set(compare([1, 2, 3], Better.NEITHER)) == {Mark.NONE}


class TestVerdict:
    def test_the_default_wins(self):
        """Named as the best, with the distance of the next."""
        text = verdict(run(answers=[answer(0.1, 300)]), run("other", answers=[answer(0.125, 297)]))
        assert (
            "At load 1 warm is the best, or within 2% of the best, in mean TTFT, p99 TTFT and hit rate."
            in text
        )
        assert "The lowest p99 TTFT is that of warm, 100 ms; other follows with 125 ms, 25% above it." in text
        assert "The highest hit rate is that of warm, 0.300; other follows with 0.297, 1.0% below it." in text
        assert "No request failed." in text

    def test_the_default_loses(self):
        """It says in which comparisons, by how much, and to whom."""
        text = verdict(
            run(answers=[answer(0.1)]), run("other", answers=[answer(0.2)]),
            run(load=3.0, answers=[answer(0.15)]), run("other", load=3.0, answers=[answer(0.1)]),
        )  # fmt: skip
        assert "warm is the best, or within 2% of the best, in 4 of 6 comparisons" in text
        assert (
            "not in mean TTFT at load 3 (50% above other) and p99 TTFT at load 3 (50% above other)." in text
        )
        assert "The lowest mean TTFT is that of other, 100 ms; warm has 150 ms, 50% above it." in text

    def test_failures_are_named(self):
        """A policy that drops requests looks fast, so the summary says that it did."""
        text = verdict(run(), run("other", load=1.0, answers=[answer(), answer(failed=True)]))
        assert "Requests failed: 1 with other at load 1." in text

    def test_nothing_was_answered(self):
        """The default then has no figure; that is no victory."""
        text = verdict(run(answers=[answer(failed=True)]), run("other"))
        assert "mean TTFT at load 1 (no figure)" in text
        assert "The mean TTFT of other is 100 ms." in text

    def test_without_anything_to_compare(self):
        """Alone the default is not called the best; without it nothing is said of it."""
        assert "nothing to compare it with" in verdict(run())
        assert "The default policy, warm, is not part of this replay." in verdict(run("other"))


class TestWindows:
    def test_figures_by_time_of_arrival(self):
        """Each window has its own p99 and hit rate; one with too few requests has none."""
        early = [answer(0.1, 500, arrival=0.5)] * 10
        late = [answer(0.4, 250, arrival=2.5)] * 9 + [answer(failed=True, hit_tokens=250, arrival=2.5)]
        lone = [answer(9.0, 0, arrival=1.5)]
        (series,) = windowed([replace(run(answers=early + lone + late), seconds=4.0)])
        np.testing.assert_allclose(series.times, [0.5, 1.5, 2.5])
        np.testing.assert_allclose(series.ttft_p99_ms, [100, math.nan, 400])
        np.testing.assert_allclose(series.hit_rate, [0.5, math.nan, 0.25])


class TestTable:
    def test_terminal(self):
        """All rows with their marks, in no more than 100 columns."""
        name = "least-predicted-work"
        runs = [run(load=2.0, answers=[answer(0.1)]), run(name, load=2.0, answers=[answer(0.101)])]
        runs.append(run("[red]", load=2.0, answers=[answer(12.345)]))
        output = StringIO()
        Console(file=output, width=100).print(
            results_table(tabulate(experiment(*runs, bound_hit_rate=0.2)), "warm")
        )
        lines = {line.split()[0]: line for line in output.getvalue().splitlines() if line.strip()}
        assert "100●" in lines["warm"]
        assert "101○" in lines[name]
        assert "12,345 " in lines["[red]"]
        assert "load 2" in output.getvalue()
