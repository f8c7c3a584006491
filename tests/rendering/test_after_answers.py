"""What a template writes after an answer: it must not depend on the answer."""

from functools import lru_cache

import pytest

from cluster.errors import PromptError
from cluster.prompts.chat_rendering import ChatOptions
from cluster.prompts.tokenizer import PromptTokenizer
from tests.rendering.comparison import OPTIONS
from tests.small_model import small_model

USER = {"role": "user", "content": "Hello!"}
CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": {"a": 1}}}
ANSWERS = {
    "text": ({"role": "assistant", "content": " yes \n"}, {"role": "user", "content": "Why?"}),
    "thoughts": ({"role": "assistant", "content": "<think>\nWell\n</think>\n\nyes"}, USER),
    "reasoning": ({"role": "assistant", "content": "yes", "reasoning_content": "Well"}, USER),
    "call": (
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "water", "tool_call_id": "c"},
    ),
}
ENDS = "{% for m in messages %}{{ m.role + m.content }}<|im_end|>{% endfor %}"


@lru_cache
def tokenizer_of(style):
    """With its template."""
    return PromptTokenizer(small_model(weights=False), options=OPTIONS[style])


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("style", ["smollm2", "qwen3"])
def test_prompts_end_with_it(style, kind):
    """Whatever the answer is, and however the template writes it."""
    tokenizer = tokenizer_of(style)
    answer, last = ANSWERS[kind]
    if style == "smollm2":
        answer = answer | {"content": answer["content"] or "none"}
    request = {"messages": [USER, ANSWERS["text"][0], USER, answer, last]}
    after, prompt = tokenizer.tokens_after(request, 3), list(tokenizer.chat(request).token_ids)
    assert prompt[-len(after) :] == after
    assert after.count(after[0]) == 2  # the end of the answer, and that of the last message


@pytest.mark.parametrize(
    ("why", "template"),
    [
        ("depends", ENDS + "{{ messages[1].content | length }}"),
        ("depends", "{% for m in messages %}<|im_end|>{{ m.content if m.role == 'user' }}{% endfor %}"),
        ("special", ENDS.replace("<|im_end|>", "END")),
        ("refuses", ENDS + "{% if messages[1].content != 'yes' %}{{ raise_exception('no') }}{% endif %}"),
    ],
)
def test_templates_that_allow_no_continuation(tiny_model, tmp_path, why, template):
    """What comes later depends on the answer, the answer is not shown, ends with a text, or is refused."""
    path = tmp_path / "template.jinja"
    path.write_text(template)
    tokenizer = PromptTokenizer(tiny_model, options=ChatOptions(path))
    request = {"messages": [USER, {"role": "assistant", "content": "yes"}, USER]}
    with pytest.raises(PromptError, match=why):
        tokenizer.tokens_after(request, 1)
