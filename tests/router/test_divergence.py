"""What kind of change makes a conversation lose its cache."""

import pytest

from router.explain.divergence import Change, first_change

SYSTEM = {"role": "system", "content": "You are helpful. Today is 2026-11-22. Session 4f9a-1b2c-77aa."}
USER = {"role": "user", "content": "What is a KV cache?"}
ANSWER = {"role": "assistant", "content": "It keeps keys and values."}
NEXT = {"role": "user", "content": "Why?"}
OLD = [SYSTEM, USER, ANSWER, NEXT]


def _said(content, role="system"):
    return {"role": role, "content": content}


def _change(new, old=OLD, **fields):
    return first_change({"messages": old}, {"messages": new, **fields})


def test_a_conversation_that_goes_on_has_not_changed():
    """The earlier turn's messages stand in front of the new ones."""
    assert _change([*OLD, _said("Because.", "assistant"), _said("Go on.", "user")]) is None
    assert _change(OLD) is None


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("Today is 2026-11-22.", "Today is 2026-11-23.", "date"),
        ("Today is November 22, 2026.", "Today is November 23, 2026.", "date"),
        ("Today is 22 Nov 2026", "Today is 1 Dec 2026", "date"),
        ("It is Sunday.", "It is Monday.", "date"),
        ("Now: 2026-11-22T10:00:01Z", "Now: 2026-11-23T11:30:59Z", "date"),
        ("Now: 2026-11-22T10:00:01Z", "Now: 2026-11-22T11:30:59Z", "time"),
        ("Time 10:15 am", "Time 10:16 am", "time"),
        ("Unix 1763820000", "Unix 1763820360", "time"),
        ("Request 4f9a1b2c77aa0f00", "Request 9b8c7d6e5f4a3b2c", "id"),
        (
            "Id 123e4567-e89b-12d3-a456-426614174000",
            "Id 00000000-0000-4000-8000-000000000001",
            "id",
        ),
        ("You have 3 tries left", "You have 2 tries left", "number"),
        ("Be brief.\nBe kind.", "Be brief.\n\nBe  kind. ", "white_space"),
        ("Be brief.", "be Brief.", "case"),
        ("Be brief.\nBe kind.", "Be kind.\nBe brief.", "reordered"),
        ('{"a": 1, "b": "x"}', '{"b": "x", "a": 1}', "reordered"),
        ("Be brief.", "Write long answers.", "edited"),
    ],
)
def test_the_kind_of_a_changed_text(before, after, kind):
    """Each kind is told from the text, the most telling one first."""
    old, new = [_said(before), USER], [_said(after), USER, ANSWER, NEXT]
    assert _change(new, old) == Change(0, "system", kind)


def test_messages_that_went_or_came():
    """Trimmed, removed, inserted, moved: told from which messages are still there."""
    later = [_said("Because.", "assistant"), _said("Go on.", "user")]
    assert _change([SYSTEM, ANSWER, NEXT, *later]) == Change(1, "assistant", "trimmed_history")
    assert _change([SYSTEM, NEXT, *later]) == Change(1, "user", "trimmed_history")
    assert _change([SYSTEM, _said("A document."), USER, ANSWER, NEXT]) == Change(1, "system", "inserted")
    assert _change([SYSTEM, ANSWER, USER, NEXT]) == Change(1, "assistant", "reordered")
    assert _change([SYSTEM, USER]) == Change(1, "user", "removed")


def test_a_role_that_changed():
    """The text is the same, its role is not."""
    new = [{**SYSTEM, "role": "developer"}, USER, ANSWER, NEXT]
    assert _change(new) == Change(0, "developer", "role")


def test_tools_that_changed():
    """They are rendered in front of everything, and are no message."""
    assert _change(OLD, tools=[{"type": "function"}]) == Change(-1, "", "tools")


def test_contents_in_parts_are_compared_as_text():
    """Contents may be lists of parts."""
    old = [{"role": "user", "content": [{"type": "text", "text": "at 10:15"}]}]
    new = [{"role": "user", "content": [{"type": "text", "text": "at 10:16"}]}, ANSWER, NEXT]
    assert _change(new, old) == Change(0, "user", "time")
