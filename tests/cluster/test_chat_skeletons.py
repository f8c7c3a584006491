"""Prompts put together from a skeleton are those that the template renders."""

from datetime import datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import PromptError
from cluster.prompts.chat_rendering import TEMPLATE_ERRORS, ChatRenderer
from tests.cluster.tokenizer_kinds import LLAMA_TEMPLATE, MISTRAL_TEMPLATE, PARTS_TEMPLATE, QWEN_TEMPLATE
from tests.tiny_model import CHAT_TEMPLATE

EACH = "{% for message in messages %}<{{ message.role }}>"
OPEN = {
    "chatml": CHAT_TEMPLATE,
    "trimmed": LLAMA_TEMPLATE,
    "roles": MISTRAL_TEMPLATE,
    "parts": PARTS_TEMPLATE,
    "counting": EACH
    + "{% if loop.index0 % 2 == 0 %}{{ loop.index }}{% endif %}{{ message['content'] }}{% endfor %}",
    "joined": EACH + "{{ bos_token ~ message.content ~ '|' ~ loop.index }}{% endfor %}",
    "hoisted": "{% set ns = namespace(system='') %}{% for m in messages if m.role == 'system' %}"
    "{% set ns.system = ns.system + m.content %}{% endfor %}{{ ns.system }}"
    "{% for m in messages if m.role != 'system' %}[{{ m['role'] }}]{{ m.content.strip() }}{% endfor %}",
    "looking back": EACH
    + "{{ message.content }}{% if not loop.first and loop.previtem.role == message.role %}!"
    "{% endif %}{% if loop.last %}#{{ messages | length }}{% endif %}{% endfor %}",
    "checked": EACH + "{% if message.content is string and message.content %}{{ message.content }}{% endif %}"
    "{% if message.role in ['user', 'tool'] %}?{% endif %}{% endfor %}",
    "twice": EACH + "{{ message.content }}{{ messages[0]['content'] | trim }}{% endfor %}",
}
"""Templates that only print texts."""
LOOKING = {
    "splits": EACH + "{{ message.content.split('</think>')[-1] }}{% endfor %}",
    "searches": EACH + "{% if '</think>' in message.content %}!{% endif %}{{ message.content }}{% endfor %}",
    "is searched": EACH + "{{ message.content in 'a user' }}{{ message.content }}{% endfor %}",
    "is searched by method": EACH + "{{ 'a user'.find(message.content) }}{{ message.content }}{% endfor %}",
    "compares": EACH + "{{ message.content == 'a' }}{{ message.content }}{% endfor %}",
    "measures": EACH + "{{ message.content | length }}{{ message.content }}{% endfor %}",
    "measures a joined text": EACH + "{{ (message.content ~ '') | length }}{{ message.content }}{% endfor %}",
    "measures a block": EACH
    + "{% set text %}{{ message.content }}{% endset %}{{ text | length }}{% endfor %}",
    "measures in a macro": "{% macro f(t) %}{{ t }}{% endmacro %}{% for m in messages %}"
    "{{ f(m.content) | length }}{% endfor %}",
    "formats": EACH + "{{ '%s' % message.content }}{{ ('%s' % (message.content,)) | length }}{% endfor %}",
    "quotes": EACH + "{{ message.content | tojson }}{% endfor %}",
    "quotes all": "{{ messages | tojson }}",
    "changes": EACH + "{{ message.content | upper }}{% endfor %}",
    "slices": EACH + "{{ message.content[:2] }}{% endfor %}",
    "strips more": EACH + "{{ message.content | trim('a') }}{{ message.content.rstrip() }}{% endfor %}",
    "sorts": "{% for m in messages | sort(attribute='content') %}{{ m.content }}{% endfor %}",
    "selects": "{% for m in messages | selectattr('content', 'equalto', 'a') %}{{ m.content }}{% endfor %}",
    "repeats": EACH + "{{ message.content * 2 }}{% endfor %}",
    "notices change": EACH + "{{ loop.changed(message.content) }}{{ message.content }}{% endfor %}",
    "looks for keys": EACH + "{{ {'a': 1}[message.content] }}{% endfor %}",
}
"""Templates that do more."""
TODAY = "{{ strftime_now('%Y-%m-%d') }}" + CHAT_TEMPLATE

texts = st.text(max_size=6) | st.sampled_from(
    ["a", " a ", "user", "x</think>y", "\n", "{{ 7 }}", "a\x1c", "\u00a0é"]
)
conversations = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts | st.none()},
        optional={"name": st.just("n"), "extra": st.integers()},
    ),
    min_size=1,
    max_size=5,
)


def renderer_of(template):
    """A renderer of this template."""
    return ChatRenderer(SimpleNamespace(chat_template=template, special_tokens_map={"bos_token": "<s>"}))


RENDERERS = {
    name: renderer_of(template) for name, template in {**OPEN, **LOOKING, "qwen": QWEN_TEMPLATE}.items()
}


def chat(*texts, roles=("system", "user", "assistant", "user")):
    """A request."""
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


@pytest.mark.parametrize("name", OPEN)
def test_template_that_prints_has_a_skeleton(name):
    """Whatever it makes of roles, numbers and its surroundings."""
    assert RENDERERS[name]._skeleton(("system", "user", "assistant", "user"), True) is not None


@pytest.mark.parametrize("name", LOOKING)
def test_template_that_looks_at_texts_has_none(name):
    """Even where it does so by a detour."""
    assert RENDERERS[name]._skeleton(("system", "user"), True) is None


@given(st.sampled_from(sorted(RENDERERS)), conversations, st.booleans())
def test_prompts_are_those_of_the_template(name, messages, generate):
    """For all conversations, also such as have no skeleton; an error stays an error."""
    renderer, request = RENDERERS[name], {"messages": messages, "add_generation_prompt": generate}
    try:
        expected = renderer._render(request).text
    except (PromptError, *TEMPLATE_ERRORS):
        with pytest.raises(PromptError):
            renderer.render(request)
    else:
        assert renderer.render(request).text == expected


def test_shape_decides_over_skeletons():
    """A template that looks at some roles' texts only has skeletons for the other conversations."""
    renderer = RENDERERS["qwen"]
    assert renderer._skeleton(("system", "user"), True) is not None
    assert renderer._skeleton(("user", "assistant", "user"), True) is None


def test_long_roles_are_not_remembered():
    """Clients choose them: what is known of a template stays within its bound in bytes."""
    renderer = RENDERERS["chatml"]
    known = renderer._skeleton.cache_info().currsize
    for role, remembered in (("r" * 17, 0), ("r" * 16, 1)):
        assert role in renderer.render(chat("hi", roles=[role])).text
        assert renderer._skeleton.cache_info().currsize == known + remembered


def test_date_is_asked_for_each_time():
    """A template with the date in it is rendered in full, and shows today's."""
    renderer = renderer_of(TODAY)
    assert renderer._skeleton(("user",), True) is None
    assert renderer.render(chat("hi", roles=["user"])).text.startswith(f"{datetime.now():%Y-%m-%d}")


def test_fields_that_shape_a_prompt_are_not_lost():
    """Tools, tool calls and options go to the template itself."""
    renderer = RENDERERS["trimmed"]
    plain = chat("s", "hello")
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    called = {"role": "assistant", "content": "x", "tool_calls": [call]}
    assert "look_up" in renderer.render({**plain, "tools": tools}).text
    assert "look_up" in renderer.render({"messages": [*plain["messages"], called]}).text
    assert "assistant" not in renderer.render({**plain, "add_generation_prompt": False}).text


def test_opening_is_where_the_first_user_message_begins():
    """Also where its text occurs before, or loses its white space, or does not occur at all."""
    renderer = RENDERERS["chatml"]
    text, position = renderer.render(chat("user", "  user ", "user", "x"))
    assert text[:position].endswith("<|im_start|>user\n  ")
    text, position = RENDERERS["trimmed"].render(chat("s", "\n u", "a", "u"))
    assert text[position:].startswith("u<|eot_id|>")
    assert renderer.render(chat("s", "a", roles=["system", "assistant"])).opening_at == -1


def test_marks_in_a_text_are_text():
    """What a text contains never becomes a hole."""
    text = "\ue0000:\ue001 \ue000"
    assert RENDERERS["chatml"].render(chat(text, text)).text.count(text) == 2
