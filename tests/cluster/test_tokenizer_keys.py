"""Prompts that are tokenised piece by piece have the tokens and keys of those that are tokenised whole."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import PromptError
from cluster.prompts.prompt_cache import PromptCache
from cluster.prompts.text_splits import Splits
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import Namespace, block_keys
from tests.cluster.tokenizer_kinds import KINDS, build_kind

FRAGMENTS = [
    "the", " of", "Hello", " I'll", "DON'T", "x" * 20, " 12345", "...", "?!\n", "\r\n", "\n\n", " ", "\t",
    "  ", "é", "e\u0301", "東京", " 🚀", "\u00a0", "\u2028", "\x1c", "\x0b", "\u017f", "\u212a", "a b c",
    "</think>", "<think>", "</s>", "[INST]", "<|im_start|>", "<|im_end|>", "<|im_", "<|eot_id|>",
    "<", "|>", "user\n", '"', "{", "\0",
]  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=12).map("".join)
contents = texts | st.lists(texts | texts.map(lambda text: {"type": "text", "text": text}), max_size=3)
calls = st.fixed_dictionaries(
    {
        "id": st.just("1"),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.just("f"), "arguments": st.just('{"a": 7}') | texts}),
    }
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": contents},
    optional={"tool_calls": st.lists(calls, max_size=2)},
)
tools = st.lists(
    st.builds(lambda text: {"type": "function", "function": {"name": "f", "description": text}}, texts),
    max_size=2,
)


@st.composite
def conversations(draw):
    """Chat requests of which each goes on from one before: longer, shorter, changed, or as another branch."""
    history = draw(st.lists(messages, min_size=1, max_size=4))
    options = draw(st.fixed_dictionaries({}, optional={"tools": tools, "add_special_tokens": st.booleans()}))
    requests = [{"messages": history, **options}]
    for _ in range(draw(st.integers(1, 4))):
        before = draw(st.sampled_from(requests))["messages"]
        kept = draw(st.integers(0, len(before)))
        again = before[kept + 1 :] if draw(st.booleans()) else []
        history = [*before[:kept], *draw(st.lists(messages, min_size=1, max_size=2)), *again]
        requests.append({"messages": history, **options})
    return requests


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The tokenizers of all kinds by name."""
    return {
        name: PromptTokenizer(build_kind(kind, tmp_path_factory.mktemp("kind")))
        for name, kind in KINDS.items()
    }


@pytest.fixture(scope="module")
def tokenizers(kinds):
    """All kinds; their parts are short."""
    for tokenizer in kinds.values():
        tokenizer._splits = replace(tokenizer._splits, cut_bytes=8)
    return list(kinds.values())


def root(block_size):
    """Of some namespace."""
    return Namespace("t", block_size).root()


def assert_equal_to_whole(pending, whole, block_size):
    """A prompt's keys and counts are those of its tokens."""
    prompt = pending.finish()
    assert prompt.num_tokens == len(whole.token_ids)
    assert prompt.opening_tokens == whole.opening_tokens
    assert prompt.keys.tolist() == block_keys(root(block_size), whole.token_ids, block_size)


def test_cuts_are_found(kinds):
    """Where nothing speaks against it texts are cut, elsewhere not."""
    for name, tokenizer in kinds.items():
        splits, expected = tokenizer._splits, KINDS[name].cuts
        assert bool(splits.marker) == (expected in ("marker", "both")), name
        assert splits.words == (expected in ("words", "both")), name


@given(conversations(), st.sampled_from([1, 2, 16]))
def test_chats_are_exact(tokenizers, requests, block_size):
    """Whatever is known of a conversation, its tokens, keys and opening are those of the whole prompt.

    With blocks of one token, keys are equal only if tokens are.
    """
    for tokenizer, request in product(tokenizers, requests):
        assert_equal_to_whole(
            tokenizer.keyed_chat(request, root(block_size), block_size), tokenizer.chat(request), block_size
        )


@given(st.lists(texts, min_size=1, max_size=4), st.booleans(), st.sampled_from([1, 4]))
def test_completions_are_exact(tokenizers, parts, special, block_size):
    """A text that grows, with and without the special tokens around it."""
    for tokenizer, number in product(tokenizers, range(len(parts) + 1)):
        text = "".join(parts[:number])
        assert_equal_to_whole(
            tokenizer.keyed_completion(text, root(block_size), block_size, special),
            tokenizer.completion(text, special),
            block_size,
        )


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_words_are_exact(tokenizers, text):
    """Tokens from memory, the first time and the second."""
    for tokenizer, _ in product(tokenizers, range(2)):
        tokenizer.cache = PromptCache()
        pending = tokenizer.keyed_completion(text, root(1), 1, False)
        assert_equal_to_whole(pending, tokenizer.completion(text, False), 1)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=9), st.integers(0, 3000), st.sampled_from([1, 3, 16]))
def test_token_ids_are_exact(chatml, tokens, repeats, block_size):
    """Prompts that are tokens already are cut anywhere."""
    prompt = tokens * repeats if len(tokens) * repeats < 5000 else tokens
    for _ in range(2):
        assert_equal_to_whole(
            chatml.keyed_completion(prompt, root(block_size), block_size),
            chatml.completion(prompt),
            block_size,
        )


@pytest.fixture(scope="module")
def chatml(tiny_model):
    """The tiny model's tokenizer."""
    return PromptTokenizer(tiny_model)


def turns(number):
    """A conversation up to one of its turns."""
    history = [{"role": "system", "content": "You are a helpful assistant. " * 20}]
    for turn in range(number):
        history.append({"role": "user", "content": f"Tell me about water, {turn}. " * 10})
        history.append({"role": "assistant", "content": f"Water is {turn}. " * 10})
    return {"messages": history[:-1]}


def test_turn_costs_what_is_new(chatml):
    """Of the third turn only the answer, the new message and the place for the next answer are encoded."""
    chatml.cache = PromptCache()
    for number in (1, 2):
        chatml.keyed_chat(turns(number), root(16), 16).finish()
    new = sum(len(message["content"]) for message in turns(3)["messages"][-2:])
    assert new < chatml.keyed_chat(turns(3), root(16), 16).new_bytes < new + 150


def test_system_prompt_is_tokenised_once(chatml):
    """Another conversation finds it, unless its tenant has another salt."""
    chatml.cache = PromptCache()
    chatml.keyed_chat(turns(1), root(16), 16).finish()
    other = turns(1)
    other["messages"][1] = {"role": "user", "content": "Hello!"}
    assert chatml.keyed_chat(other, root(16), 16).new_bytes < 100
    salted = Namespace("t", 16, cache_salt="s").root()
    assert chatml.keyed_chat(other, salted, 16).new_bytes > 500


def test_long_text_is_cut_at_words(chatml):
    """A text without special tokens that grows costs its last part and what is new."""
    chatml.cache = PromptCache()
    text = "Tell me about water. " * 1000
    chatml.keyed_completion(text, root(16), 16).finish()
    assert chatml.keyed_completion(text + "Now!", root(16), 16).new_bytes < 2 * 2048 + 50


def test_pauses_change_nothing(chatml):
    """A worker thread gives others their turn and comes to the same end."""
    request = turns(60)
    chatml.cache = PromptCache()
    quick = chatml.keyed_chat(request, root(16), 16).finish()
    chatml.cache, chatml._splits = PromptCache(), Splits()
    slow = chatml.keyed_chat(request, root(16), 16).finish(pause=lambda: None)
    assert (slow.num_tokens, slow.opening_tokens) == (quick.num_tokens, quick.opening_tokens)
    assert slow.keys.tolist() == quick.keys.tolist()


def test_half_a_surrogate_pair_is_a_prompt_error(chatml):
    """A tool's arguments can smuggle one in that the body's parser would have refused."""
    with pytest.raises(PromptError, match="Unicode"):
        chatml.keyed_completion("\ud800", root(16), 16)
    with pytest.raises(PromptError, match="Unicode"):
        chatml.completion("\ud800")
