"""Marks: what tells conversations apart."""

import pytest

from router.explain.conversations import marks_of

QUESTION = {"role": "user", "content": "and now?"}
ANSWER = {"role": "assistant", "content": "well"}


def test_marks_do_not_depend_on_the_opening():
    """The same exchanges have the same marks, whatever came before them."""
    earlier = [{"role": "user", "content": "hello"}, ANSWER, QUESTION]
    assert marks_of([{"role": "system", "content": "Be kind."}, *earlier]) == marks_of(earlier)
    assert len(set(marks_of(earlier))) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"role": "assistant", "content": "fine"},
        {"role": "assistant", "content": "well", "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "well"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "2"}]},
    ],
)
def test_marks_tell_answers_apart(other):
    """By their text, and by whatever else they hold."""
    assert marks_of([other, QUESTION]) != marks_of([ANSWER, QUESTION])
    assert marks_of([other, QUESTION]) == marks_of([dict(other), dict(QUESTION)])
    assert marks_of([other, QUESTION]) != marks_of([{**other, "content": "no"}, QUESTION])
