"""From a body to token counts and keys."""

import asyncio
import json
import time

import pytest
from msgspec import structs

from cluster.fleet.fleet import Fleet
from cluster.prompts.prompt_cache import PromptCache
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import block_keys
from cluster.protocol.wire import Lease, Load, ReplicaState
from router.errors import ContextTooLongError
from router.requests import prompts
from router.requests.prompt_threads import PromptThreads
from router.requests.schema import parse_chat, parse_completion


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    """The tiny model's."""
    return PromptTokenizer(tiny_model)


async def prepare(call, model, tokenizer):
    """For prompts that need no thread."""
    return await prompts.prepare(call, model, tokenizer, PromptThreads(), "client")


def model_of(*limits, max_model_len=0, **changes):
    """A model with one replica, or with one for each limit of the context."""
    values = {"block_size": 4, "publishes_events": True, "state": ReplicaState.READY, "model": "m", **changes}
    fleet = Fleet()
    for name, limit in zip("abc", limits or [max_model_len], strict=False):
        fleet.admit(Lease(replica=name, url="http://a", max_model_len=limit, **values), 1, Load())
    return fleet.models["m"]


def chat(**fields):
    """A chat call."""
    messages = [{"role": "system", "content": "You are"}, {"role": "user", "content": "Tell me about water"}]
    return parse_chat(json.dumps({"model": "m", "messages": messages, **fields}).encode())


def completion(prompt, **fields):
    """A completion call."""
    return parse_completion(json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


async def test_chat_has_exact_tokens_and_keys(tokenizer):
    """Keys are those of the rendered prompt in the model's namespace."""
    model, call = model_of(), chat()
    prepared = await prepare(call, model, tokenizer)
    tokens = tokenizer.chat(call.fields).token_ids
    assert prepared.exact
    assert prepared.prompt_tokens == len(tokens)
    assert prepared.keys.tolist() == block_keys(model.namespace.root(), tokens, 4)
    assert 0 < prepared.opening_tokens < len(tokens)


@pytest.mark.parametrize("limit", ["INLINE_BYTES", "INLINE_PIECES", "INLINE_NEW_BYTES"])
async def test_much_work_is_done_in_a_thread_with_the_same_result(tokenizer, threads, monkeypatch, limit):
    """Where it is done changes nothing."""
    inline = await prepare(chat(), model_of(), tokenizer)
    monkeypatch.setattr(prompts, limit, 1)
    monkeypatch.setattr(prompts, "INLINE_SHAPING_BYTES", 0)
    tokenizer.cache = PromptCache()
    in_thread = asyncio.create_task(prompts.prepare(chat(), model_of(), tokenizer, threads, "client"))
    await asyncio.sleep(0)
    assert len(threads) == 1
    elsewhere = await in_thread
    assert structs.replace(elsewhere, keys=elsewhere.keys.tolist()) == structs.replace(
        inline, keys=inline.keys.tolist()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": ["a"] * 40_000}]},
        {"messages": [{"role": "user", "content": "a"}] * 40_000},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 1_100_000}}]},
        {"messages": [{"role": "user", "content": "7" * 600_000}]},
    ],
    ids=["parts", "messages", "tools", "word"],
)
async def test_what_would_take_too_long_is_guessed(tokenizer, threads, fields):
    """What holds a thread for seconds and cannot be abandoned goes to an engine without keys."""
    call = chat(**fields)
    began = time.perf_counter()
    prepared = await prompts.prepare(call, model_of(), tokenizer, threads, "client")
    assert not prepared.exact
    assert time.perf_counter() - began < 5


async def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(tokenizer, threads, monkeypatch):
    """It has at least as many tokens as its bytes divided by the longest entry of the vocabulary."""
    monkeypatch.setattr("cluster.prompts.prompt_keys.PendingPrompt.finish", None)
    longest = max(map(len, tokenizer._backend.get_vocab()))
    call = completion("7" * (100 * longest))
    with pytest.raises(ContextTooLongError, match="at least 100 tokens"):
        await prompts.prepare(call, model_of(max_model_len=100), tokenizer, threads, "client")


async def test_second_turn_pays_for_its_new_part(tokenizer):
    """What the first turn had is looked up, and a retry of the same prompt has its end to tokenise alone."""
    tokenizer.cache = PromptCache()
    fields = chat(messages=[{"role": "user", "content": "word " * 1000}]).fields
    prompt = tokenizer.keyed_chat(fields, b"12345678", 4)
    everything = prompt.new_bytes
    prompt.finish()
    assert tokenizer.keyed_chat(fields, b"12345678", 4).new_bytes < everything / 3
    assert tokenizer.keyed_chat(fields, b"87654321", 4).new_bytes == everything


def test_text_of_special_tokens_alone_has_few_parts(tokenizer):
    """A part per special token took seconds and hundreds of megabytes for one body."""
    text = b"<|im_start|>" * 100_000
    cuts = list(tokenizer._splits.cuts(text))
    assert cuts[-1] == len(text)
    assert len(cuts) <= 1024 + len(text) / 2048 + 1


async def test_cache_salt_separates_keys_and_conversations(tokenizer):
    """Tenants with different salts never share a block or a place on the ring."""
    plain, salted = [await prepare(chat(**salt), model_of(), tokenizer) for salt in ({}, {"cache_salt": "s"})]
    assert not set(plain.keys.tolist()) & set(salted.keys.tolist())
    assert plain.conversation_key != salted.conversation_key


async def test_conversation_is_the_same_with_and_without_a_tokenizer(tokenizer):
    """A router that cannot tokenise yet gives it the same place on the ring, and in an experiment."""
    call = chat(cache_salt="s")
    keys = [(await prepare(call, model_of(), known)).conversation_key for known in (tokenizer, None)]
    assert keys[0] == keys[1]


async def test_without_a_tokenizer_the_length_is_guessed():
    """Its load is estimated, and its keys are of texts, which begin alike in every turn."""
    call = chat()
    prepared = await prepare(call, model_of(), None)
    assert not prepared.exact
    assert (
        prepared.prompt_tokens
        == sum(len(text) for message in call.messages for text in message.values()) // 4
    )
    longer = chat(messages=[*call.messages, {"role": "assistant", "content": "I am."}])
    keys = prepared.keys.tolist()
    assert keys
    assert (await prepare(longer, model_of(), None)).keys.tolist()[: len(keys)] == keys


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4_000_000}}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        (
            {"messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "x" * 400}]}]},
            1024 + 103,
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "x" * 400}, PICTURE, PICTURE]}
                ]
            },
            2151,
        ),
        ({"metadata": {"a": "x" * 4_000_000}}, 9),
        ({"x": "x" * 4_000_000, "tools": [{"function": {"name": "f" * 400}}]}, 109),
        ({"tools": [{"type": "function", "function": {"parameters": {"file": {"type": "x" * 400}}}}]}, 111),
        ({"input": [{"content": [{"type": "input_image", "image_url": "x" * 4_000_000}]}]}, 1033),
        ({"system": "x" * 400, "x": [PICTURE]}, 109),
        (
            {"messages": [{"role": "u", "content": [{"type": "image", "source": {"data": "x" * 4_000}}]}]},
            1024,
        ),
        ({"input": [[1, 2, 3], [4]]}, 13),
        ({"query": "x" * 400, "documents": ["y" * 400] * 3}, 409),
        ({"documents": ["y" * 400] * 5_000}, 505_034),
    ],
)
def test_only_text_counts_as_text(fields, tokens):
    """A picture counts by itself and not by its bytes, and what is no part of a prompt does not count."""
    assert prompts.guess(chat(**fields)).prompt_tokens == pytest.approx(tokens, abs=2)


async def test_keys_of_texts_are_those_of_a_namespace(tokenizer):
    """They never equal keys of tokens, nor another tenant's, and without a namespace there are none."""
    texts, salted, exact = [
        set((await prepare(chat(**fields), model_of(), known)).keys.tolist())
        for fields, known in (({}, None), ({"cache_salt": "s"}, None), ({}, tokenizer))
    ]
    assert texts.isdisjoint(salted | exact)
    assert not len((await prepare(chat(), model_of(publishes_events=False), None)).keys)


@pytest.mark.parametrize("body", [{"messages": [3]}, {"messages": "x"}, {"messages": [{"content": "x"}]}])
async def test_what_only_the_engine_can_judge_has_no_keys(body):
    """It may be anything."""
    prepared = await prepare(parse_chat(json.dumps(body).encode()), model_of(), None)
    assert not prepared.exact
    assert not len(prepared.keys)


async def test_a_picture_weighs_no_more_than_its_hash():
    """What follows a picture is looked at, however many bytes that has."""
    part = {"type": "image_url", "image_url": {"url": "x" * 10**6}}
    texts = [{"type": "text", "text": word * 50} for word in ("before ", "behind ")]
    call = chat(messages=[{"role": "user", "content": [texts[0], part, texts[1]]}])
    keys = (await prepare(call, model_of(), None)).keys.tolist()
    assert 10 < len(keys) < 400
    other = chat(messages=[{"role": "user", "content": [texts[0], {**part, "image_url": "y"}, texts[1]]}])
    parted = (await prepare(other, model_of(), None)).keys.tolist()
    assert (keys[0], keys[-1]) == (parted[0], keys[-1])
    assert keys[-1] not in parted


@pytest.mark.parametrize(
    ("fields", "skips"),
    [
        ({"prompt_logprobs": 0}, True),
        ({"echo": True}, True),
        ({"prompt_logprobs": None, "echo": False}, False),
    ],
)
async def test_nothing_is_predicted_for_what_skips_the_cache(tokenizer, fields, skips):
    """vLLM computes the whole prompt anew where it is to report on it: no replica is better than another."""
    prepared = await prepare(chat(**fields), model_of(), tokenizer)
    assert prepared.exact
    assert (not len(prepared.keys)) is skips


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"chat_template": "{{ messages }}"},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": "abc"}]},
    ],
)
async def test_what_cannot_be_rendered_here_is_guessed(tokenizer, fields):
    """Images, foreign templates and odd shapes go to an engine without keys."""
    assert not (await prepare(chat(**fields), model_of(), tokenizer)).exact


async def test_model_without_namespace_has_lengths_but_no_keys(tokenizer):
    """Load is exact also where caches cannot be seen."""
    prepared = await prepare(chat(), model_of(publishes_events=False), tokenizer)
    assert prepared.exact
    assert prepared.keys.tolist() == []


async def test_several_prompts_add_up(tokenizer):
    """The first prompt gives the keys, all of them the load."""
    one, two = "Hello! how other", "water than call"
    prepared = await prepare(completion([one, two]), model_of(), tokenizer)
    lengths = [len(tokenizer.completion(text).token_ids) for text in (one, two)]
    assert prepared.prompt_tokens == sum(lengths)
    alone = await prepare(completion(one), model_of(), tokenizer)
    assert prepared.keys.tolist() == alone.keys.tolist()


async def test_token_ids_pass_through(tokenizer):
    """Nothing is tokenised that is tokens already."""
    model = model_of()
    prepared = await prepare(completion(list(range(10))), model, tokenizer)
    assert prepared.prompt_tokens == 10
    assert prepared.keys.tolist() == block_keys(model.namespace.root(), range(10), 4)


async def test_empty_prompt_has_no_keys(tokenizer):
    """An empty text is no tokens."""
    prepared = await prepare(completion(""), model_of(), tokenizer)
    assert (prepared.prompt_tokens, prepared.keys.tolist()) == (0, [])


@pytest.mark.parametrize(("limit", "fits"), [(9, False), (10, False), (11, True), (0, True)])
async def test_prompt_must_leave_room_for_an_answer(tokenizer, limit, fits):
    """A prompt as long as the context is refused, naming both lengths; an unknown limit refuses nothing."""
    prepared = prepare(completion(list(range(10))), model_of(max_model_len=limit), tokenizer)
    if fits:
        assert (await prepared).prompt_tokens == 10
        return
    with pytest.raises(ContextTooLongError, match=rf"{limit} tokens.* 10 tokens") as caught:
        await prepared
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("call", "needed"),
    [
        (completion([1] * 30), 31),
        (completion([[1] * 30, [1] * 40]), 41),
        (completion([1] * 30, max_tokens=60), 60),
        (completion([1] * 30, max_tokens=60, max_completion_tokens=90), 60),
        (completion([1] * 30, max_tokens=1000), 100),
        (completion([1] * 30, max_tokens="60"), 31),
        (chat(max_tokens=60), 60),
        (chat(max_tokens=60, max_completion_tokens=70), 70),
        (chat(max_tokens=60, max_completion_tokens=None), 60),
        (chat(chat_template="x", max_tokens=70), 70),
        (chat(messages=[{"role": "user", "content": "x" * 1000}], chat_template="x"), 100),
    ],
)
async def test_what_an_engine_must_have_room_for(tokenizer, call, needed):
    """The prompt and one token, or an answer's limit alone: the engine lowers it to what the prompt leaves.

    A prompt whose length is a guess is never refused for it: at worst it goes where most fits. Where all
    replicas have the same limit nothing is asked.
    """
    assert (await prepare(call, model_of(max_model_len=100), tokenizer)).context_tokens == 0
    assert (await prepare(call, model_of(50, 100), tokenizer)).context_tokens == needed


async def test_a_prompt_is_refused_only_where_it_fits_no_replica(tokenizer):
    """The message names the largest context; a replica that names none may take it."""
    call = completion([1] * 100)
    with pytest.raises(ContextTooLongError, match="100 tokens"):
        await prepare(call, model_of(50, 100), tokenizer)
    assert (await prepare(call, model_of(50, 101), tokenizer)).context_tokens == 101
    assert (await prepare(call, model_of(50, 0), tokenizer)).context_tokens == 101


async def test_each_of_several_prompts_must_fit(tokenizer):
    """The limit holds for one prompt, not for their sum."""
    model = model_of(max_model_len=11)
    assert (await prepare(completion([[1] * 10, [1] * 10]), model, tokenizer)).prompt_tokens == 20
    with pytest.raises(ContextTooLongError):
        await prepare(completion([[1], [1] * 11]), model, tokenizer)
