"""The reports of a diagnosis: what stands in them, and what must not."""

import io
import json
import re

import pytest
from doctor_examinations import diagnose
from doctor_logs import NAMES, interleaved, long_chat, planted
from rich.console import Console

from loadtest.doctor.report_html import as_html
from loadtest.doctor.report_json import as_json
from loadtest.doctor.report_text import print_report


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
    """Of a log with a name and a time in front of the instructions."""
    lines = interleaved(planted(1, "value", "time", conversations=6), 1)
    lines += interleaved(planted(2, "value", conversations=48), 2, names="d")  # openings that hold a name
    return diagnose([*lines, b"<broken & shown>"], tmp_path_factory.mktemp("log"))


def as_text(diagnosis) -> str:
    """The report for a terminal."""
    file = io.StringIO()
    print_report(diagnosis, Console(file=file, width=110, highlight=False))
    return file.getvalue()


def test_the_verdict_stands_first_in_every_report(diagnosis):
    """How much could be reached instead of what, and what it takes."""
    verdict = json.loads(as_json(diagnosis))["verdict"]
    assert re.fullmatch(r"You could reach \d+% instead of [\d.]+%; .+\.", verdict)
    assert as_text(diagnosis).strip().startswith(verdict)
    assert f"<h1>{verdict}</h1>" in as_html(diagnosis, "warmroute doctor x")


def test_findings_come_by_value(diagnosis):
    """The most valuable fix first, each with its advice and what it wins."""
    findings = json.loads(as_json(diagnosis))["findings"]
    tokens = [max(one["tokens_alone"], one["tokens_last"]) for one in findings]
    assert tokens == sorted(tokens, reverse=True)
    text = " ".join(as_text(diagnosis).split())
    for finding in findings:
        assert finding["title"] in text
        assert finding["advice"] in text


def test_no_report_shows_names(diagnosis):
    """Names and times of the log are masked in all formats, in examples and in shared openings."""
    assert any("talking to Xx" in opening.excerpt for opening in diagnosis.openings)
    for report in (as_text(diagnosis), as_json(diagnosis), as_html(diagnosis, "")):
        assert "9:99" in report
        assert not re.search(rf"\b({'|'.join(NAMES)})\b", report)


def test_openings_that_look_alike_are_one_row(diagnosis):
    """What differs between them is masked, so nobody could tell one row from the next."""
    rows = [(opening.tokens, opening.role, opening.excerpt) for opening in diagnosis.openings]
    assert len(rows) == len(set(rows)) > 0
    assert all(opening.conversations >= 3 for opening in diagnosis.openings)


def test_the_page_needs_nothing_else(diagnosis):
    """No script, no address, and everything that came from the log is escaped."""
    page = as_html(diagnosis, "warmroute doctor '<log>'")
    assert "<log>" not in page
    assert "&lt;log&gt;" in page
    assert not re.search(r"<script|<link|https?://|@import", page)
    assert page.count("<svg") == 1


def test_a_clean_log_has_a_short_report(tmp_path):
    """Nothing to mend: the reports say so, and still size the caches."""
    diagnosis = diagnose(interleaved(long_chat(2, 6), 2), tmp_path)
    assert as_text(diagnosis).strip().startswith("Nothing breaks the prefixes of this log")
    assert "What breaks prefixes" not in as_html(diagnosis, "")
    assert json.loads(as_json(diagnosis))["sizing"]["need"]["working_set_blocks"] > 0


def test_broken_lines_are_mentioned(diagnosis):
    """How many, and which."""
    assert re.search(r"1 broken lines? (was|were) left out \(line \d+: no valid JSON\)", as_text(diagnosis))
