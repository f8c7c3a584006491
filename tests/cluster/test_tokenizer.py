"""Rendering and tokenising as the engine does it."""

import json
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import PromptError, TokenizerUnavailableError
from cluster.prompts.tokenizer import PromptTokenizer, tokenizer_fingerprint

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    """The tiny model's."""
    return PromptTokenizer(tiny_model)


@pytest.fixture
def templated(tiny_model, tmp_path):
    """Makes a tokenizer with another chat template."""

    def make(template):
        directory = tmp_path / "model"
        shutil.copytree(tiny_model, directory, dirs_exist_ok=True)
        config = json.loads((directory / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        if template is not None:
            config["chat_template"] = template
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        (directory / "chat_template.jinja").unlink(missing_ok=True)
        return PromptTokenizer(directory)

    return make


def text_of(tokenizer, prompt):
    """A prompt's tokens as text, special tokens included."""
    return tokenizer._backend.decode(list(prompt.token_ids), skip_special_tokens=False)


def user(content, **more):
    """A user message."""
    return {"role": "user", "content": content, **more}


def test_chat_is_rendered_with_the_models_template(tokenizer):
    """Roles and texts stand between the template's markers, and the answer is asked for."""
    prompt = tokenizer.chat({"messages": [{"role": "system", "content": "You are"}, user("Hello!")]})
    assert text_of(tokenizer, prompt) == (
        "<|im_start|>system\nYou are<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    )


def test_options_reach_the_template(tokenizer):
    """Without a generation prompt, and going on with the last message."""
    request = {"messages": [user("a"), {"role": "assistant", "content": "b"}]}
    plain = tokenizer.chat({**request, "add_generation_prompt": False})
    assert text_of(tokenizer, plain).endswith("b<|im_end|>\n")
    going_on = tokenizer.chat({**request, "add_generation_prompt": False, "continue_final_message": True})
    assert text_of(tokenizer, going_on).endswith("assistant\nb")


@pytest.mark.parametrize(
    "content", [[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], ["one", "two"]]
)
def test_content_parts_are_joined_by_lines(tokenizer, content):
    """A template that reads strings gets the parts as one string, as in vLLM."""
    assert list(tokenizer.chat({"messages": [user(content)]}).token_ids) == list(
        tokenizer.chat({"messages": [user("one\ntwo")]}).token_ids
    )


def test_template_that_reads_parts_gets_parts(templated):
    """A template that loops over content gets a list, also for a plain string."""
    tokenizer = templated(
        "{% for message in messages %}{% for part in message['content'] %}[{{ part['text'] }}]"
        "{% endfor %}{% endfor %}"
    )
    assert text_of(tokenizer, tokenizer.chat({"messages": [user("one")]})) == "[one]"
    assert (
        text_of(tokenizer, tokenizer.chat({"messages": [user(["one", {"type": "text", "text": "two"}])]}))
        == "[one][two]"
    )


def test_tools_and_tool_calls_reach_the_template(templated):
    """Tools are complete, arguments are objects."""
    tokenizer = templated(
        "{% for tool in tools or [] %}{{ tool.function.name }}{{ tool.function.description }};{% endfor %}"
        "{% for message in messages %}{% for call in message.tool_calls or [] %}"
        "{{ call.function.arguments.a }}{% endfor %}{% endfor %}"
    )
    messages = [
        user("x"),
        {"role": "assistant", "tool_calls": [call_of('{"a": 7}')]},
    ]
    assert text_of(tokenizer, tokenizer.chat({"messages": messages, "tools": [TOOL]})) == "fd;7"
    bare = {"type": "function", "function": {"name": "g"}}
    assert text_of(tokenizer, tokenizer.chat({"messages": messages, "tools": [bare]})) == "gNone;7"


def call_of(arguments):
    """A call of a tool."""
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize("arguments", ["not json", "[1]", "", "null", "5"])
def test_bad_tool_arguments_become_an_empty_object(templated, arguments):
    """What is no JSON object is an empty one."""
    tokenizer = templated(
        "{% for message in messages %}{% for call in message.tool_calls or [] %}"
        "{{ call.function.arguments | length }}{% endfor %}{% endfor %}"
    )
    message = {"role": "assistant", "content": "", "tool_calls": [call_of(arguments)]}
    assert text_of(tokenizer, tokenizer.chat({"messages": [message]})) == "0"


def test_opening_is_what_stands_before_the_first_user_message(tokenizer):
    """The system prompt and the user's header are shared, the user's text is not."""
    system = {"role": "system", "content": "You are a helpful assistant."}
    prompt = tokenizer.chat({"messages": [system, user("Tell me"), user("more")]})
    opening = tokenizer._backend.decode(
        list(prompt.token_ids[: prompt.opening_tokens]), skip_special_tokens=False
    )
    assert opening == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"


@pytest.mark.parametrize("content", ["a", "You", "helpful assistant", "system"])
def test_opening_is_not_cut_short_by_a_user_who_repeats_the_system_prompt(tokenizer, content):
    """A short first message is found behind the system prompt: in its place, or at worst in its header."""
    system = {"role": "system", "content": "You are a helpful assistant."}
    other = tokenizer.chat({"messages": [system, user("Tell me")]})
    opening = tokenizer.chat({"messages": [system, user(content)]}).opening_tokens
    assert other.opening_tokens - 4 < opening <= other.opening_tokens


@pytest.mark.parametrize("messages", [[{"role": "system", "content": "You"}], [user("")], [user(None)]])
def test_opening_is_zero_when_there_is_no_user_text(tokenizer, messages):
    """Nothing is taken for shared that may not be."""
    assert tokenizer.chat({"messages": messages}).opening_tokens == 0


def test_turns_extend_each_other(tokenizer):
    """The tokens of a turn are a prefix of the next turn's: that is what makes caching worth it."""
    first = tokenizer.chat({"messages": [user("Hello!")], "add_generation_prompt": False})
    second = tokenizer.chat(
        {"messages": [user("Hello!"), {"role": "assistant", "content": "I"}, user("you")]}
    )
    assert list(second.token_ids[: len(first.token_ids)]) == list(first.token_ids)


def test_completion_prompts_are_text_or_tokens(tokenizer):
    """Text is tokenised, tokens pass through, and text survives the round trip."""
    prompt = tokenizer.completion("Tell me about prefix caching, 东京!")
    assert tokenizer.decode(prompt.token_ids) == "Tell me about prefix caching, 东京!"
    assert list(tokenizer.completion([5, 6]).token_ids) == [5, 6]
    assert prompt.opening_tokens == 0


@pytest.mark.parametrize(
    "request_body",
    [
        {"messages": [user([{"type": "image_url", "image_url": {"url": "http://x"}}])]},
        {"messages": [user([{"type": "text", "text": 5}])]},
        {"messages": [user("x")], "chat_template_kwargs": {"tokenize": True}},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": "abc"}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": 5}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"function": "f"}]}]},
        {"messages": [user("x")], "tools": [{"type": "function", "function": "f"}]},
        {"messages": [user("x")], "continue_final_message": True},
    ],
)
def test_what_cannot_be_rendered_is_one_kind_of_error(tokenizer, request_body):
    """Images, wrong shapes and contradictions are the engine's business; here they are `PromptError`."""
    with pytest.raises(PromptError):
        tokenizer.chat(request_body)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant", "tool", "system", "x"]),
                "content": st.none() | st.text(max_size=9) | st.lists(json_values, max_size=3),
            },
            optional={"tool_calls": json_values, "reasoning": json_values, "name": json_values},
        ),
        min_size=1,
        max_size=4,
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "tools": st.lists(
                st.dictionaries(st.sampled_from(["function", "type"]), json_values, max_size=2)
            ),
            "documents": json_values,
            "reasoning_effort": json_values,
            "add_generation_prompt": json_values,
            "continue_final_message": json_values,
            "add_special_tokens": json_values,
            "chat_template_kwargs": st.dictionaries(st.text(max_size=5), json_values, max_size=2),
        },
    ),
)
def test_any_request_gives_a_prompt_or_a_prompt_error(tokenizer, messages, options):
    """Whatever passes the schema never raises anything else."""
    try:
        prompt = tokenizer.chat({"messages": messages, **options})
    except PromptError:
        return
    assert 0 <= prompt.opening_tokens <= len(prompt.token_ids)


def test_errors_inside_a_template_are_prompt_errors(templated):
    """A template's own complaint and its own mistakes look alike."""
    for template in (
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.nothing.here }}",
        "{{ messages | tojson }}{{ messages['x'] + 1 }}",
    ):
        with pytest.raises(PromptError):
            templated(template).chat({"messages": [user("x")]})


def test_deeply_nested_tools_are_a_prompt_error(templated):
    """A request nested almost as deep as JSON may be does not end in a crash."""
    nested = current = {}
    for _ in range(5000):
        current["a"] = {}
        current = current["a"]
    tool = {"type": "function", "function": {"name": "f", "parameters": nested}}
    with pytest.raises(PromptError):
        templated("{{ tools | tojson }}").chat({"messages": [user("x")], "tools": [tool]})


def test_model_without_a_template_serves_completions_only(templated):
    """Chat cannot be rendered, completions can."""
    tokenizer = templated(None)
    assert not tokenizer.has_chat_template
    assert tokenizer.completion("Hello!").token_ids
    with pytest.raises(PromptError):
        tokenizer.chat({"messages": [user("x")]})


def test_fingerprint_changes_with_tokenizer_and_template(tiny_model, tmp_path):
    """The same files give the same fingerprint anywhere; other files or another template another one."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert tokenizer_fingerprint(copy) == tokenizer_fingerprint(tiny_model)
    (copy / "config.json").write_text("{}")
    assert tokenizer_fingerprint(copy) == tokenizer_fingerprint(tiny_model)
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert tokenizer_fingerprint(copy) != tokenizer_fingerprint(tiny_model)
    assert tokenizer_fingerprint(tmp_path / "nothing") == ""
    assert PromptTokenizer(tiny_model).fingerprint == tokenizer_fingerprint(tiny_model)


def test_directory_without_a_tokenizer_is_an_error(tmp_path):
    """The message names the directory."""
    with pytest.raises(TokenizerUnavailableError, match="no usable tokenizer in"):
        PromptTokenizer(tmp_path)
    with pytest.raises(TokenizerUnavailableError):
        PromptTokenizer(tmp_path / "missing")


@pytest.mark.parametrize("content", ["[]", "{", '{"model": {"type": "unknown"}}'])
def test_broken_tokenizer_files_are_one_kind_of_error(tiny_model, tmp_path, content):
    """Whatever the files make their parsers raise, the caller has one error to expect."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerUnavailableError, match="no usable tokenizer in"):
        PromptTokenizer(broken)


@pytest.mark.integration
def test_many_threads_load_tokenizers_at_once(tiny_model):
    """A router loads those of several models side by side, and none finds its library half imported."""
    program = (
        "import sys, pathlib, concurrent.futures as futures; "
        "from cluster.prompts.tokenizer import PromptTokenizer, forgo_torch; forgo_torch(); "
        "list(futures.ThreadPoolExecutor(4).map(PromptTokenizer, [pathlib.Path(sys.argv[1])] * 4))"
    )
    command = [sys.executable, "-c", program, tiny_model]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
