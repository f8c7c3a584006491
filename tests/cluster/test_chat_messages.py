"""What templates get to see of messages, tools and options: as vLLM 0.32 gives it to them.

`tests/rendering` compares with vLLM itself; here are the rules one by one.
"""

import json
from types import SimpleNamespace

import pytest

from cluster.errors import PromptError
from cluster.prompts.chat_rendering import ChatOptions, ChatRenderer

SHOWS = "{{ messages | tojson }}"
SHOWS_PARTS = "{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}" + SHOWS
KNOWS_DEVELOPER = "{{ messages | tojson if 'developer' }}"
USER = {"role": "user", "content": "x"}
BILLING = "x-anthropic-billing-header: cch=1;"
CALL = {
    "type": "function",
    "id": "1",
    "function": {"name": "f", "arguments": '{"b": 1}', "more": 2},
    "index": 0,
}
SHOWN_CALL = {
    "id": "1", "function": {"arguments": {"b": 1}, "name": "f", "more": 2}, "type": "function", "index": 0
}  # fmt: skip
MADE = {"id": "1", "function": {"name": "f", "arguments": {"b": 1}}, "type": "function"}
"""A call of the Responses API, which templates get as vLLM makes it."""
EFFORT = {"reasoning_effort": "x"}
TOOL = {"function": {"strict": None, "description": "d", "name": "f", "more": 1}, "more": 2}


def renderer(template=SHOWS, **options):
    """Of a template, with options of the engine's command line."""
    tokenizer = SimpleNamespace(chat_template=template, special_tokens_map={"bos_token": "<s>"})
    return ChatRenderer(tokenizer, ChatOptions(**options))


def part(text, **others):
    """A part of a content."""
    return {"type": "text", "text": text, **others}


def say(role, content, **others):
    """A message."""
    return {"role": role, "content": content, **others}


@pytest.mark.parametrize(
    ("template", "messages", "shown"),
    [
        (SHOWS, [{**USER, "unknown": 1, "tool_calls": [CALL]}], [USER]),
        (SHOWS, [{"role": "user"}], [{"role": "user", "content": ""}]),
        (SHOWS, [say("user", [part("a"), part(""), part("b")])], [say("user", "a\nb")]),
        (SHOWS, [{**USER, "name": "A", "task": "t"}], [{**USER, "name": "A", "task": "t"}]),
        (SHOWS_PARTS, [USER], [{"role": "user", "content": [part("x")]}]),
        (
            SHOWS_PARTS,
            [say("user", [part("a", cache_control={}, name="n"), {"type": "refusal", "refusal": "r"}])],
            [say("user", [part("a", cache_control={}), part("r")])],
        ),
        (SHOWS_PARTS, [say("tool", [part("a"), part("b")])], [say("tool", "a\nb")]),
        (
            SHOWS_PARTS,
            [say("tool", [part("a"), {"type": "tool_reference", "name": "f"}])],
            [say("tool", [part("a"), {"type": "tool_reference", "name": "f"}])],
        ),
        (SHOWS, [say("system", f"{BILLING}\nYou are")], [say("system", "You are")]),
        (SHOWS, [say("system", BILLING), USER], [say("system", ""), USER]),
        (SHOWS, [say("user", f"{BILLING}\nx")], [say("user", f"{BILLING}\nx")]),
        (SHOWS, [say("developer", "d")], [say("system", "d")]),
        (
            SHOWS,
            [say("system", "s"), USER, say("developer", "d", tools=[1])],
            [say("system", "s\n\nd"), USER],
        ),
        (
            SHOWS,
            [USER, say("system", "s")],
            [USER, say("system", "s")],
        ),
        (KNOWS_DEVELOPER, [say("developer", "d")], [say("developer", "d", tools=None)]),
        (
            SHOWS,
            [say("assistant", None, reasoning_content="r", tool_calls=[CALL])],
            [say("assistant", "", tool_calls=[SHOWN_CALL], reasoning="r", reasoning_content="r")],
        ),
        (SHOWS, [say("assistant", "a", tool_calls=[])], [say("assistant", "a")]),
        (SHOWS, [say("assistant", "", tool_calls=[MADE])], [say("assistant", "", tool_calls=[MADE])]),
    ],
)  # fmt: skip
def test_messages_are_shown_as_vllm_shows_them(template, messages, shown):
    """In the same order of keys, too: templates may print whole objects."""
    text = renderer(template).render({"messages": messages}).text
    assert text == json.dumps(shown, ensure_ascii=False)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": [part("x", uuid="u")]}],
        [{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]}],
        [{"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}],
    ],
)
def test_what_is_not_rendered_here_has_no_tokens(messages):
    """Pictures, and what vLLM refuses."""
    with pytest.raises(PromptError):
        renderer().render({"messages": messages})


@pytest.mark.parametrize(
    ("tool", "shown"),
    [
        (TOOL, {"type": "function", "function": {"name": "f", "description": "d", "parameters": None}}),
        (
            {"type": "function", "defer_loading": True, "function": {"name": "f", "strict": False}},
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": None,
                    "parameters": None,
                    "strict": False,
                    "defer_loading": True,
                },
                "defer_loading": True,
            },
        ),
    ],
)
def test_tools_are_shown_as_vllm_shows_them(tool, shown):
    """All fields that it knows, in its order; switches that are not set are left out."""
    text = renderer("{{ tools[0] | tojson }}").render({"messages": [USER], "tools": [tool]}).text
    assert text == json.dumps(shown)


@pytest.mark.parametrize(
    ("name", "fields", "shown"),
    [
        ("add_generation_prompt", {"chat_template_kwargs": {"add_generation_prompt": False}}, "True"),
        ("enable_thinking", {}, "default"),
        ("enable_thinking", {"chat_template_kwargs": {"enable_thinking": None}}, "default"),
        ("enable_thinking", {"chat_template_kwargs": {"enable_thinking": "auto"}}, "default"),
        ("enable_thinking", {"chat_template_kwargs": {"enable_thinking": 3}}, "3"),
        ("enable_thinking", {"reasoning_effort": "none"}, "False"),
        ("enable_thinking", {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": 3}}, "3"),
        ("reasoning_effort", {"reasoning_effort": "low", "chat_template_kwargs": EFFORT}, "low"),
        ("reasoning_effort", {"chat_template_kwargs": EFFORT}, "x"),
        ("documents", {"documents": [], "chat_template_kwargs": {"documents": [{"text": "x"}]}}, "[]"),
        ("bos_token", {"chat_template_kwargs": {"bos_token": "B"}}, "B"),
        ("bos_token", {}, "<s>"),
        ("tools", {"tools": [TOOL], "chat_template_kwargs": {"tools": [{"a": 1}]}}, "[{'a': 1}]"),
        ("tools", {"tools": [TOOL], "tool_choice": "none"}, "None"),
    ],
)  # fmt: skip
def test_who_wins(name, fields, shown):
    """A field of the request, then its arguments for the template, then the engine's defaults."""
    engine = renderer(
        f"{{{{ {name} }}}}",
        default_chat_template_kwargs={"enable_thinking": "default"},
        exclude_tools_when_tool_choice_none=True,
    )
    assert engine.render({"messages": [USER], **fields}).text == shown


@pytest.mark.parametrize(
    "fields",
    [
        {"add_generation_prompt": "no"},
        {"continue_final_message": 1},
        {"chat_template_kwargs": {"tokenize": True}},
        {"tools": [{"function": {"name": "f", "strict": "yes"}}]},
    ],
)
def test_options_that_engines_read_in_ways_of_their_own_have_no_tokens(fields):
    """They are declared not exact instead of guessed."""
    with pytest.raises(PromptError):
        renderer().render({"messages": [USER], **fields})


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages[1:] %}{% for p in m['content'] | list %}{% endfor %}{% endfor %}", True),
        ("{% set all = messages %}{% for m in all %}{% for p in m.content %}{% endfor %}{% endfor %}", True),
        ("{% for content in messages %}{% for p in content %}{% endfor %}{% endfor %}", True),
        ("{% for m in other %}{% for p in m.content %}{% endfor %}{% endfor %}", False),
        ("{% macro f(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ f(1) }}", False),
        (
            "{% macro f(c) %}{% for p in c %}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ f(m.content) }}{% endfor %}",
            True,
        ),
        (
            "{% macro f(a, c) %}{% for p in c %}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ f(1, c=m.content) }}{% endfor %}",
            True,
        ),
        ("{% for a, b in messages %}{% for p in content %}{% endfor %}{% endfor %}", False),
    ],
)
def test_whether_a_template_reads_parts(template, parts):
    """As vLLM detects the content format, with all that it overlooks."""
    assert renderer(template)._template.parts_as_objects is parts


def test_the_content_format_can_be_said():
    """As on the engine's command line."""
    engine = renderer(SHOWS, chat_template_content_format="openai")
    assert json.loads(engine.render({"messages": [USER]}).text) == [{"role": "user", "content": [part("x")]}]


def test_a_template_of_the_command_line_wins(tmp_path):
    """Over the model's own, of which there may be two: the second one is for requests with tools."""
    named = {"default": "plain", "tool_use": "{{ tools | length }} tools"}
    assert renderer(named).render({"messages": [USER]}).text == "plain"
    assert renderer(named).render({"messages": [USER], "tools": [TOOL]}).text == "1 tools"
    file = tmp_path / "x.jinja"
    file.write_text("given")
    assert renderer(named, chat_template=file).render({"messages": [USER], "tools": [TOOL]}).text == "given"
