"""A simulated engine over real HTTP: replies shaped as vLLM's, a cache that warms, clients that go away."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import msgspec
import pytest
import zmq
import zmq.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import StartUpError
from cluster.prompts.tokenizer import PromptTokenizer
from workers.sim.core import AnswerBook
from workers.sim.engine import serve_engines
from workers.sim.schema import ApiError, parse_chat, parse_completion
from workers.sim.settings import SimSettings, read_settings

LONG_TEXT = "the people look for water and find it over there " * 20
REPOSITORY = Path(__file__).parents[2]


class Client:
    """One engine and an HTTP session to it."""

    def __init__(self, server, session):
        self.core = server.core
        self.url = server.url
        self.session = session

    async def post(self, path, body, **options):
        async with self.session.post(self.url + path, json=body, **options) as response:
            return response.status, await response.json()

    async def get(self, path):
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text()

    async def chat(self, messages, **fields):
        status, reply = await self.post("/v1/chat/completions", {"messages": messages, **fields})
        assert status == 200, reply
        return reply

    async def stream(self, path, body):
        """Post and return the stream's events, the last one being "[DONE]"."""
        async with self.session.post(self.url + path, json={**body, "stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            text = (await response.read()).decode()
        lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("level", [0, 1])
async def test_sleep(tiny_model, level):
    """Asleep it takes requests and does nothing; what was under way has ended; from level 1 on the cache is
    empty afterwards, of which the event goes out with the first step.
    """
    async with engine(tiny_model, dev_mode=True) as client:
        await client.chat(user(LONG_TEXT), max_tokens=1)
        running = asyncio.create_task(client.chat(user("why"), max_tokens=4000))
        await asyncio.sleep(0.05)
        assert json.loads((await client.get("/is_sleeping"))[1]) == {"is_sleeping": False}
        assert (await client.post(f"/sleep?level={level}", {}))[1] == {"status": "sleeping", "level": level}
        assert (await running)["usage"]["completion_tokens"] < 4000
        assert json.loads((await client.get("/is_sleeping"))[1]) == {"is_sleeping": True}
        states = {line for line in (await client.get("/metrics"))[1].splitlines() if "sleep_state" in line}
        assert sum(line.endswith(" 1.0") for line in states) == (1 if level else 0)
        waiting = asyncio.create_task(client.chat(user(LONG_TEXT), max_tokens=1))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert (await client.post("/wake_up", {}))[1] == {"status": "awake", "tags": None}
        cached = (await waiting)["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert (cached == 0) == bool(level)


async def test_adapters_at_run_time(tiny_model):
    """They are loaded and unloaded with vLLM's words."""
    async with engine(tiny_model, lora_updating=True, alias=("other",)) as client:
        adapter = {"lora_name": "new", "lora_path": "/new"}
        assert (await client.post("/v1/chat/completions", {"model": "new", "messages": user("a")}))[0] == 404
        async with client.session.post(client.url + "/v1/load_lora_adapter", json=adapter) as response:
            assert await response.text() == "Success: LoRA adapter 'new' added successfully."
        assert (await client.post("/v1/load_lora_adapter", adapter))[0] == 400
        await client.chat(user("a"), model="new", max_tokens=1)
        await client.chat(user("a"), model="other", max_tokens=1)
        cards = json.loads((await client.get("/v1/models"))[1])["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [
            ("tiny", None),
            ("other", None),
            ("new", "tiny"),
        ]
        async with client.session.post(client.url + "/v1/unload_lora_adapter", json=adapter) as response:
            assert response.status == 200
        assert (await client.post("/v1/unload_lora_adapter", adapter))[0] == 404


def user(text):
    """Build a conversation of one message."""
    return [{"role": "user", "content": text}]


@contextlib.asynccontextmanager
async def engine(model, **overrides):
    """Serve one fast engine and connect to it."""
    options = {"served_model_name": "tiny", "num_blocks": 400, "step_ms": 1, "prefill_rate": 1e6, **overrides}
    configured = SimSettings(model=model, **options)
    async with serve_engines(configured) as servers, aiohttp.ClientSession() as session:
        yield Client(servers[0], session)


@pytest.fixture
async def client(tiny_model):
    """Serve one engine."""
    async with engine(tiny_model) as client:
        yield client


async def test_chat_stream_has_vllms_chunks(client):
    """A stream is a role, one chunk per token, the reason in the last, the usage if asked for, the end."""
    body = {
        "model": "tiny",
        "messages": user("Hello"),
        "max_tokens": 3,
        "stream_options": {"include_usage": True},
    }
    role, *texts, usage, done = await client.stream("/v1/chat/completions", body)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in texts] == [None, None, "length"]
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in texts)
    assert {chunk["object"] for chunk in (role, *texts, usage)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (role, *texts, usage)}) == 1
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert done == "[DONE]"


async def test_stream_and_whole_reply_say_the_same(client):
    """The answer follows from the prompt: streamed or not, it is the same text."""
    reply = await client.chat(user("Hello"), max_completion_tokens=9)
    chunks = await client.stream("/v1/chat/completions", {"messages": user("Hello"), "max_tokens": 9})
    streamed = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1])
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": streamed}
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + 9


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"enum": ["small", "large"]},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
        "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
    },
    "$defs": {"Part": {"type": "object", "properties": {"number": {"type": ["integer", "null"]}}}},
}
IN_SCHEMA = {"name": "the", "size": "small", "parts": [{"number": 1}], "note": None}


async def test_structured_output_is_what_the_schema_allows(client):
    """The simplest JSON of a schema; the client's limit still holds, and what is no schema is refused."""
    messages = [{"role": "user", "content": "find it"}]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    (choice,) = (await client.chat(messages, response_format=wanted))["choices"]
    assert (json.loads(choice["message"]["content"]), choice["finish_reason"]) == (IN_SCHEMA, "stop")
    (choice,) = (await client.chat(messages, response_format=wanted, max_tokens=2))["choices"]
    assert choice["finish_reason"] == "length"
    (choice,) = (await client.chat(messages, response_format={"type": "json_object"}))["choices"]
    assert choice["message"]["content"] == "{}"
    for schema in (3, {"type": "x"}, {"$ref": "#"}, {"properties": 3}, {"enum": 3}):
        wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
        fields = {"messages": messages, "response_format": wanted}
        status, _ = await client.post("/v1/chat/completions", fields)
        assert status == 400


async def test_text_completions(client):
    """Text prompts and token ids work, several at once as well, and 16 tokens are the default."""
    _, reply = await client.post("/v1/completions", {"prompt": ["Hello", "water"], "n": 2})
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert reply["usage"]["completion_tokens"] == 64
    first, *_, done = await client.stream("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 2})
    assert (first["object"], done) == ("text_completion", "[DONE]")
    assert first["choices"][0]["text"]


async def test_second_turn_hits_prompt_and_answer(client):
    """A turn that repeats the conversation hits all its full blocks, the engine's own answer included."""
    first = await client.chat(user(LONG_TEXT), max_tokens=40)
    answer = first["choices"][0]["message"]["content"]
    turn = [*user(LONG_TEXT), {"role": "assistant", "content": answer}, *user("and now?")]
    second = await client.chat(turn, max_tokens=1)
    computed = first["usage"]["total_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == computed // 16 * 16
    _, metrics = await client.get("/metrics")
    assert f'vllm:prefix_cache_hits_total{{engine="0",model_name="tiny"}} {computed // 16 * 16}.0' in metrics


async def test_cache_salt_separates(client):
    """A prompt under another salt finds nothing."""
    await client.chat(user(LONG_TEXT))
    salted = await client.chat(user(LONG_TEXT), cache_salt="tenant")
    again = await client.chat(user(LONG_TEXT), cache_salt="tenant")
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_adapters_are_further_models(tiny_model):
    """A LoRA adapter is listed, served under its name, and shares no blocks with the base model."""
    async with engine(tiny_model, lora=("adapter",)) as client:
        _, models = await client.get("/v1/models")
        await client.chat(user(LONG_TEXT))
        reply = await client.chat(user(LONG_TEXT), model="adapter")
    base, adapter = json.loads(models)["data"]
    assert (base["id"], base["root"], base["max_model_len"]) == ("tiny", str(tiny_model), 6400)
    assert (adapter["id"], adapter["parent"]) == ("adapter", "tiny")
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_reset_forgets_the_cache(client):
    """After a reset the same prompt is cold."""
    await client.chat(user(LONG_TEXT))
    assert await client.post("/reset_prefix_cache", None) == (200, {"success": True})
    reply = await client.chat(user(LONG_TEXT))
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_tokenize_agrees_with_the_tokenizer(client, tiny_model):
    """`/tokenize` gives the tokens that a request would be billed for."""
    expected = list(PromptTokenizer(tiny_model).chat({"messages": user("Hello")}).token_ids)
    _, reply = await client.post("/tokenize", {"messages": user("Hello")})
    assert (reply["tokens"], reply["count"], reply["max_model_len"]) == (expected, len(expected), 6400)
    _, reply = await client.post("/tokenize", {"prompt": "Hello"})
    assert await client.post("/detokenize", {"tokens": reply["tokens"]}) == (200, {"prompt": "Hello"})
    assert (await client.post("/detokenize", {"tokens": "Hello"}))[0] == 400
    assert reply["count"] == 1


async def test_forwarded_tokens_replace_tokenisation(client):
    """Token ids in ``kv_transfer_params`` are taken as they are."""
    reply = await client.chat(user("x"), kv_transfer_params={"prompt_token_ids": list(range(50))})
    assert reply["usage"]["prompt_tokens"] == 50


async def test_events_tell_what_is_cached(client):
    """A subscriber that finds the endpoints through the API learns the prompt's blocks."""
    _, sources = await client.get("/kv_event_sources")
    source = json.loads(sources)["0"]
    assert (source["publisher"], source["topic"], source["buffer_steps"]) == ("zmq", "kv", 10_000)
    reply = await client.chat(user(LONG_TEXT), max_tokens=1)
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(source["replay_endpoint"])
        await dealer.send_multipart([b"", bytes(8)])
        _, _, sequence, payload = await dealer.recv_multipart()
    event = msgspec.msgpack.decode(payload)[1][0]
    assert (sequence, event["type"], event["block_size"]) == (bytes(8), "BlockStored", 16)
    assert len(event["block_hashes"]) == reply["usage"]["prompt_tokens"] // 16


async def test_no_events_when_switched_off(tiny_model):
    """An engine without events has no sources, and serves all the same."""
    async with engine(tiny_model, kv_events=False) as client:
        assert await client.get("/kv_event_sources") == (200, "{}")
        await client.chat(user("Hello"))


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_frees_everything(tiny_model, stream):
    """A disconnect, streaming or not, ends the request at once: nothing runs, waits or holds blocks."""
    async with engine(tiny_model, max_num_seqs=1, step_ms=20) as client:
        body = {"messages": user(LONG_TEXT), "max_tokens": 1000, "stream": stream}
        calls = [asyncio.create_task(client.post("/v1/chat/completions", body)) for _ in range(2)]
        scheduler = client.core.scheduler
        await until(lambda: scheduler.running and scheduler.waiting)
        for call in calls:
            call.cancel()
        await until(lambda: not scheduler.has_work)
        assert client.core.blocks.usage == 0
        scheduler.check_integrity()


async def test_stopping_breaks_streams_off(tiny_model):
    """A stream that an engine cannot finish ends without its final chunk: the client sees an error."""
    configured = SimSettings(model=tiny_model, num_blocks=400, step_ms=20)
    async with serve_engines(configured) as servers, aiohttp.ClientSession() as session:
        body = {"messages": user("Hello"), "max_tokens": 1000, "stream": True}
        async with session.post(servers[0].url + "/v1/chat/completions", json=body) as response:
            await response.content.readline()
            await asyncio.wait_for(servers[0].stop(), 2)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


REFUSED = (
    ({"messages": user("x"), "model": "other"}, 404, "model"),
    ({"messages": []}, 400, "messages"),
    ({}, 400, "messages"),
    ({"messages": [{"content": "x"}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
    ({"messages": user("x"), "max_tokens": 0}, 400, "max_tokens"),
    ({"messages": user("x"), "max_tokens": 10_000}, 400, "max_tokens"),
    ({"messages": user("x"), "n": "2"}, 400, "n"),
    ({"messages": user("x"), "cache_salt": ""}, 400, "cache_salt"),
    ({"messages": user("x"), "stream_options": {}}, 400, "stream_options"),
    ({"messages": user("water " * 7000)}, 400, "input_tokens"),
    ([], 400, None),
)


async def test_bad_requests_name_the_field(client):
    """A refused request gets vLLM's error object, and nothing reaches the scheduler."""
    for body, status, param in REFUSED:
        actual, reply = await client.post("/v1/chat/completions", body)
        assert actual == status, body
        assert reply["error"].keys() == {"message", "type", "param", "code"}
        assert (reply["error"]["code"], reply["error"]["param"]) == (status, param)
    assert client.core.scheduler.counters.queried_tokens == 0


async def test_malformed_bodies_are_refused(client):
    """What is not JSON, or not declared as such, is a 400."""
    for data, content_type in (
        (b"{", "application/json"),
        (b"\xff", "application/json"),
        *((b'{"a":%b' % (b"[" * depth + b"]" * depth + b"}"), "application/json") for depth in (960, 5_000)),
        (b"{}", "text/plain"),
    ):
        headers = {"content-type": content_type}
        async with client.session.post(
            client.url + "/v1/completions", data=data, headers=headers
        ) as response:
            assert response.status == 400
    assert (await client.get("/nowhere"))[0] == 404


async def test_api_key_guards_v1_only(tiny_model):
    """With a key, ``/v1`` needs the bearer token; health and metrics stay open, as in vLLM."""
    async with engine(tiny_model, api_key="secret") as client:
        assert (await client.get("/v1/models"))[0] == 401
        assert (await client.get("/health"))[0] == 200
        assert (await client.get("/metrics"))[0] == 200
        headers = {"Authorization": "bearer secret"}
        body = {"messages": user("Hello")}
        assert (await client.post("/v1/chat/completions", body, headers=headers))[0] == 200
        wrong = {"Authorization": "Bearer wrong"}
        assert (await client.post("/v1/chat/completions", body, headers=wrong))[0] == 401


def test_answers_survive_retokenisation(tiny_model):
    """An answer's text becomes exactly the tokens that were generated."""
    tokenizer = PromptTokenizer(tiny_model)
    answer = AnswerBook(tokenizer).answer([1, 2, 3], 0)
    tokens, texts = zip(*(next(answer) for _ in range(300)), strict=True)
    assert list(tokenizer.completion("".join(texts), add_special_tokens=False).token_ids) == list(tokens)
    assert tokenizer.decode(tokens) == "".join(texts)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        *("messages", "prompt", "max_tokens", "n", "stream", "stream_options", "cache_salt", "tools"),
        *("kv_transfer_params", "chat_template_kwargs", "add_special_tokens", "reasoning_effort"),
    ]
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "reasoning", "name"]), VALUES),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(NAMES, VALUES), messages=st.none() | MESSAGES)
def test_any_body_is_parsed_or_refused(tiny_tokenizer, body, messages):
    """No JSON body makes the parser fail with anything but an `ApiError`."""
    if messages is not None:
        body["messages"] = messages
    for parse in (parse_chat, parse_completion):
        with contextlib.suppress(ApiError):
            parse(body, tiny_tokenizer, "tiny", 1000)


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_model):
    """Load the tokenizer once."""
    return PromptTokenizer(tiny_model)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--block-size", "0"], "--block-size"),
        (["--prefill-rate", "fast"], "--prefill-rate"),
        (["--port", "65535", "--engines", "2"], "port"),
    ],
)
def test_bad_settings_are_named(tiny_model, arguments, complaint):
    """A wrong setting stops the start, and the message names its option."""
    with pytest.raises(StartUpError, match=complaint):
        read_settings(["--model", str(tiny_model), *arguments])


async def test_occupied_port_is_a_start_up_error(client, tiny_model):
    """A port in use is reported with its address."""
    port = int(client.url.rpartition(":")[2])
    with pytest.raises(StartUpError, match=str(port)):
        async with serve_engines(SimSettings(model=tiny_model, port=port)):
            pass


@pytest.mark.integration
def test_command_line_serves_and_exits(tiny_model):
    """The process prints one line per engine when ready, and ends on SIGTERM within two seconds."""
    command = [sys.executable, "-m", "workers.sim.engine", "--model", str(tiny_model), "--engines", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=dict(os.environ)) as process:
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(2) == 0
    assert [line["engine"] for line in lines] == [0, 1]
    assert len({line["url"] for line in lines}) == 2


async def until(condition, seconds=5.0):
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.005)
