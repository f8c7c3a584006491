"""The files of a replay's report: the page, the plots, the figures for machines."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loadtest.charts.drawing import panel_svg
from loadtest.charts.palette import css_variables, series_styles
from loadtest.charts.panels import spread
from loadtest.replay.figures import CapacityPoint, tabulate
from loadtest.replay.plots import plots_of
from loadtest.replay.report import write_report
from tests.loadtest.replays import answer, experiment, run


class Page(HTMLParser):
    """Collects tags, headings and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside == "h2" and data.strip():
            self.headings.append(data.strip())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with everything in it, and names that must be escaped."""
    names = ("warm", "<script>x</script>", "a&b $1$")
    runs = [
        run(name, load, seed, [answer(0.1 * load * (place + 1), 100, i / 5) for i in range(30)])
        for place, name in enumerate(names)
        for load in (1.0, 2.0)
        for seed in (1, 2)
    ]
    whole = experiment(
        *runs,
        title="trace <1>",
        command="warmroute replay --trace 'a & b'",
        facts={"Event lag": "<5 ms"},
        bound_hit_rate=0.2,
        capacity=[CapacityPoint(name, blocks, blocks / 1e5) for name in names for blocks in (1000, 2000)],
        changes=runs[:2],
        change_times={"join": 2.0, "death": 4.0},
    )
    path = write_report(whole, tmp_path_factory.mktemp("report") / "new" / "folder")
    return path, path.read_text()


class TestReport:
    def test_page_needs_nothing_else(self, full):
        """No address, script, image or style sheet outside the page: it works without a network."""
        _, text = full
        assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
        assert not {tag for tag, _ in Page(text).tags} & {"script", "link", "img", "iframe", "object"}

    def test_names_are_escaped(self, full):
        """Titles, commands, facts and policies are text, wherever they come from."""
        _, text = full
        for escaped in (
            "trace &lt;1&gt;",
            "&#39;a &amp; b&#39;",
            "&lt;5 ms",
            "&lt;script&gt;x",
            "a&amp;b $1$",
        ):
            assert escaped in text

    def test_every_plot_can_be_read_aloud(self, full):
        """Each has a description; the table has headers for its columns, its rows and its loads."""
        _, text = full
        tags = Page(text).tags
        plots = [attributes for tag, attributes in tags if tag == "svg" and attributes.get("role") == "img"]
        assert len(plots) == 2 + 2 + 2 + 2 + 2
        assert all(len(plot["aria-label"]) > 40 for plot in plots)
        scopes = [attributes["scope"] for tag, attributes in tags if tag == "th"]
        assert (scopes.count("col"), scopes.count("row"), scopes.count("rowgroup")) == (10, 6, 2)

    def test_plots_take_their_colours_from_the_page(self, full):
        """So they can be read on dark ground too: no colour is fixed, and each has two values."""
        _, text = full
        for svg in re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL):
            assert not re.findall(r"#[0-9a-f]{6}\b", svg)
        for name in set(re.findall(r"var\(--([a-z0-9-]+)\)", text)):
            assert len(re.findall(rf"--{name}:", text)) == 2

    def test_png_files(self, full):
        """One picture per plot."""
        path, _ = full
        pictures = sorted(path.parent.glob("*.png"))
        assert [picture.stem for picture in pictures] == [
            "balance",
            "changes",
            "hit-rate",
            "ttft-cdf",
            "ttft-load",
        ]
        for picture in pictures:
            with Image.open(picture) as image:
                image.verify()
                assert image.format == "PNG"
                assert min(image.size) > 400

    def test_json_has_all_figures(self, full):
        """Those of the table, of every run, of all capacities and of the changes."""
        path, _ = full
        results = json.loads((path.parent / "results.json").read_text())
        first = results["rows"][0]
        assert (first["policy"], first["load"], first["seeds"]) == ("warm", 1.0, [1, 2])
        assert first["ttft_mean_ms"] == pytest.approx(100)
        assert first["hit_rate_of_bound"] == pytest.approx(0.5)
        assert first["marks"]["ttft_p99_ms"] == "best"
        assert len(results["runs"]) == 12
        assert results["capacity"][0] == {"policy": "warm", "blocks_per_replica": 1000, "hit_rate": 0.01}
        assert results["changes"]["times"] == {"join": 2.0, "death": 4.0}
        (series,) = results["changes"]["series"]
        assert series["time"] == [1.0, 3.0, 5.0]
        assert series["hit_rate"] == pytest.approx([0.1, 0.1, 0.1])
        assert series["ttft_p99_ms"] == pytest.approx([100, 100, 100])

    @pytest.mark.parametrize("failed", [False, True])
    def test_one_policy_at_one_load(self, tmp_path, failed):
        """What cannot be compared is not drawn and has no heading, even when nothing was answered."""
        text = write_report(experiment(run(answers=[answer(failed=failed)])), tmp_path).read_text()
        assert Page(text).headings == [
            "Verdict",
            "Results",
            "Time to the first token",
            "How to read this",
            "How it was made",
        ]
        (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
        assert row["ttft_mean_ms"] == (None if failed else pytest.approx(100))

    def test_one_load(self):
        """Several policies at one load become bars, the best first, each with its value."""
        whole = experiment(run(answers=[answer(0.25)]), run("other", answers=[answer(0.125)]))
        styles = series_styles(whole.policies(), "warm")
        (mean,) = [
            plot.panels[0] for plot in plots_of(whole, tabulate(whole), styles) if plot.name == "ttft-load"
        ]
        words = re.findall(r">([^<>\s]+)</text>", panel_svg(mean, css_variables(styles)))
        assert words.index("other") < words.index("warm")
        assert {"250", "125"} <= set(words)


class TestLook:
    def test_a_policy_looks_the_same_everywhere_and_like_no_other(self):
        """Up to two dozen policies differ in colour or in dash; the default is emphasised."""
        styles = series_styles([*(f"policy-{i}" for i in range(23)), "warm"], "warm")
        assert len({(style.light, style.dash) for style in styles.values()}) == 24
        assert next(iter(styles)) == "warm"
        assert styles["warm"].width > max(style.width for name, style in styles.items() if name != "warm")

    @given(st.lists(st.floats(0, 1), max_size=15).map(sorted), st.floats(0.01, 0.06))
    def test_names_do_not_overlap(self, heights, apart):
        """Names at the ends of lines keep their order and their distance, inside the plot's top."""
        placed = spread(heights, apart)
        assert len(placed) == len(heights)
        assert all(upper - lower >= apart - 1e-9 for lower, upper in pairwise(placed))
        assert all(height <= 1 for height in placed)

    def test_names_with_room_stay_at_their_lines(self):
        """Only those that would overlap are moved, evenly to both sides."""
        assert spread([0.1, 0.5, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.45, 0.55, 0.9])
