"""Templates of prompts: where variables may stand, and that everybody's request gets the same tokens."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store.prompts import Template
from router.errors import InvalidRequestError
from router.prefixes.templates import fixed_part, normalised, segments_of, variable_part


def system(text):
    """A system message."""
    return {"role": "system", "content": text}


def template(*texts, **fields):
    """A template with these fixed messages."""
    return Template(messages=[system(text) for text in texts], **fields)


TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object"}},
}
REVERSED = {"function": dict(reversed(TOOL["function"].items())), "type": "function"}
SAME = [
    (template("a\nb"), template("a \r\nb\t\r\n\r\n")),
    (template("a", tools=[TOOL]), template("a", tools=[REVERSED])),
    (
        template("a", tools=[TOOL, {**TOOL, "function": {"name": "ask"}}]),
        template("a", tools=[{**TOOL, "function": {"name": "ask"}}, TOOL]),
    ),
    (
        Template(messages=[system("a"), {"role": "user", "content": "b"}]),
        Template(messages=[{"content": "b", "role": "user"}, system("a")]),
    ),
    (
        Template(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
        Template(messages=[{"role": "user", "content": [{"type": "text", "text": "a\r\n"}]}]),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_different_writing_makes_the_same_template(one, other):
    """Line ends, spaces at ends, the order of roles, of tools and of their fields."""
    assert msgspec.json.encode(normalised(one)) == msgspec.json.encode(normalised(other))


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_normalising_again_changes_nothing(text):
    """So a file that was pushed and read back is the same version."""
    once = normalised(template(text.replace("{{", ""), tools=[TOOL]))
    assert normalised(once) == once


def test_properties_keep_their_order():
    """It is the author's, and models heed it."""
    parameters = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    made = normalised(
        template("x", tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    )
    assert list(made.tools[0]["function"]["parameters"]["properties"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        (template("Hello {{name}}."), "messages[0].content"),
        (template("a", tools=[{**TOOL, "description": "for {{ name }}"}]), "tools[0].description"),
        (template("a", segments={"language": ["de"]}), "segments"),
        (Template(messages=[{"role": "system"}]), "messages"),
        (Template(messages=[{"content": "x"}]), "messages"),
    ],
)
def test_variables_stand_behind_the_fixed_part(wrong, param):
    """The place is named."""
    with pytest.raises(InvalidRequestError) as refused:
        normalised(wrong)
    assert refused.value.param == param


def test_segments_and_variables_are_filled():
    """Each value of a segment makes a fixed part; what a variable holds is not looked into."""
    made = normalised(
        template(
            "Answer in {{language}}.",
            segments={"language": ["German", "English"]},
            variable_messages=[{"role": "user", "content": "I am {{name}}, {{ name }}!"}],
        )
    )
    assert segments_of(made, {}) == {"language": "German"}
    given_segments = segments_of(made, {"language": "English"})
    assert fixed_part(made, given_segments) == ([system("Answer in English.")], [])
    [message] = variable_part(made, {"name": "{{language}}"})
    assert message["content"] == "I am {{language}}, {{language}}!"


@pytest.mark.parametrize("variables", [{"language": "Klingon"}, {"language": 1}, {"language": ["German"]}])
def test_other_segments_are_refused(variables):
    """Whatever their type."""
    made = normalised(template("{{language}}", segments={"language": ["German", "English"]}))
    with pytest.raises(InvalidRequestError, match="German, English"):
        segments_of(made, variables)


@pytest.mark.parametrize("variables", [{}, {"name": 1}, {"name": None}])
def test_missing_variables_are_refused(variables):
    """With their names."""
    made = template("a", variable_messages=[{"role": "user", "content": "{{name}}"}])
    with pytest.raises(InvalidRequestError, match="'name'"):
        variable_part(made, variables)
