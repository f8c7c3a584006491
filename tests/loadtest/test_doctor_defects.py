"""The doctor finds the defects that are there, and no others."""

import random

import pytest
from doctor_examinations import diagnose, kinds_in
from doctor_logs import CLEAN, PLANTED, interleaved, long_chat, planted, rag

pytestmark = pytest.mark.integration  # no processes, but half a minute of work


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_defect_is_found_and_no_other(kind, tmp_path):
    """One kind of defect in the log is the one kind in the report, with its place and what it costs."""
    diagnosis = diagnose(interleaved(planted(1, kind, conversations=10), 1), tmp_path)
    assert kinds_in(diagnosis) == {kind}
    finding = diagnosis.findings[0]
    assert finding.requests >= 5
    assert finding.tokens > 0
    assert diagnosis.hit_rates.mended > diagnosis.hit_rates.now
    assert finding.role == {"tools": "tools", "trimmed-history": "user"}.get(kind, finding.role)


@pytest.mark.parametrize("named", [True, False])
def test_all_defects_together_are_found(named, tmp_path):
    """Defects hide each other, and are found all the same."""
    lines = interleaved(planted(2, *PLANTED, conversations=8), 2, named)
    assert kinds_in(diagnose(lines, tmp_path)) == set(PLANTED)


@pytest.mark.parametrize("kind", CLEAN)
@pytest.mark.parametrize("named", [True, False])
def test_nothing_is_found_in_a_clean_log(kind, named, tmp_path):
    """Traffic that is as it should be gets a clean bill of health."""
    diagnosis = diagnose(interleaved(CLEAN[kind](3), 3, named), tmp_path)
    assert diagnosis.findings == []
    assert diagnosis.hit_rates.mended == diagnosis.hit_rates.now > 0.5


def test_mending_wins_what_the_clean_log_has(tmp_path):
    """The simulated fix of a timestamp reaches the hit rate of the same log without timestamps, nearly."""
    clean = diagnose(interleaved(long_chat(4, 10), 4), tmp_path)
    ill = diagnose(interleaved(planted(4, "time", conversations=10), 4), tmp_path)
    assert ill.hit_rates.now < 0.05
    assert ill.hit_rates.mended == pytest.approx(clean.hit_rates.now, abs=0.02)


def test_documents_in_changing_order_are_found(tmp_path):
    """The same documents in another order than before are a defect of their own."""
    dice, logs = random.Random(5), rag(5, 30)
    for log in logs:
        question = log[0]["messages"][-1]
        head, *documents, tail = question["content"].split("\n\n")
        dice.shuffle(documents)
        question["content"] = "\n\n".join([head, *documents, tail])
    assert kinds_in(diagnose(interleaved(logs, 5), tmp_path)) == {"document-order"}


def test_a_user_who_tries_again_is_no_defect(tmp_path):
    """The last message sent again, or edited before it was answered, rewrites no history."""
    logs = long_chat(6, 10)
    for log in logs:
        again = {
            "model": "m",
            "messages": [*log[1]["messages"][:-1], {"role": "user", "content": "No, wait."}],
        }
        log[2:] = [again, log[1]]
    assert kinds_in(diagnose(interleaved(logs, 6), tmp_path)) == set()


def test_long_logs_are_sampled_by_conversation(tmp_path):
    """A sample of the conversations finds the defect, scales it up, and leaves the hit rate exact."""
    lines = interleaved(planted(7, "time", conversations=30), 7)
    whole = diagnose(lines, tmp_path)
    part = diagnose(lines, tmp_path, sample_bytes=sum(map(len, lines)) // 3)
    assert 0.15 < part.facts.sample_share < 0.55
    assert part.hit_rates.now == whole.hit_rates.now
    assert kinds_in(part) == {"time"}
    assert part.findings[0].tokens == pytest.approx(whole.findings[0].tokens, rel=0.1)
