"""The benchmark's own parts: its conversations, engines without work, and load generator."""

import asyncio
import json
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import Namespace, block_keys
from loadtest.bench.blocks import EngineBlocks
from loadtest.bench.client import Client, RequestFailedError
from loadtest.bench.engine import EngineProtocol
from loadtest.bench.prompts import BLOCK_SIZE, NOBODYS, NUM_TURNS, Conversations, Tag, request
from loadtest.bench.results import results, with_added_latency
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model without weights."""
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def conversations(directory):
    """The benchmark's conversations in its tokens."""
    return Conversations(directory)


@pytest.fixture
async def engine(conversations):
    """A client of an engine without work, and the engine's blocks."""
    blocks = EngineBlocks()
    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(
        lambda: EngineProtocol(conversations, blocks), sock=listener
    )
    client = Client(listener.getsockname()[1])
    yield client, blocks
    client.close()
    server.close()


def test_engines_know_the_exact_tokens_of_every_turn(directory, conversations):
    """Tokens put together message by message are those of the whole rendered prompt."""
    tokenizer = PromptTokenizer(directory)
    root = Namespace(tokenizer.fingerprint, BLOCK_SIZE).root()
    for turn in range(NUM_TURNS):
        tag = Tag("run", 3, turn)
        exact = tokenizer.chat(json.loads(conversations.body(tag))).token_ids
        prompt = conversations.prompt(tag)
        keys = block_keys(root, exact, BLOCK_SIZE)
        assert prompt.prompt_tokens == len(exact)
        assert prompt.keys[: len(keys)] == keys


def test_a_turn_continues_what_the_engine_holds(conversations):
    """The blocks of a turn and its answer are the first ones of the next turn: later turns can be hits."""
    before, after = (conversations.prompt(Tag("run", 3, turn)).keys for turn in (0, 1))
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_every_run_has_its_own_conversations(conversations):
    """A router finds nothing of an earlier run but the system prompts."""
    assert conversations.body(Tag("one", 0, 0)) == conversations.body(Tag("one", 0, 0))
    one, other = (json.loads(conversations.body(Tag(run, 0, 0)))["messages"] for run in ("one", "other"))
    assert one[0] == other[0]
    assert one[1] != other[1]


@given(st.text("abc -_0", min_size=1), st.lists(st.integers(-1, 10**6), min_size=5, max_size=5))
def test_a_tag_survives_the_way(run, numbers):
    """What a client asks of an engine arrives as it was."""
    tag = Tag(run, *numbers)
    assert Tag.read(str(tag)) == tag


async def test_json_answers_report_the_exact_prompt(engine, conversations):
    """The usage of a known turn is exact, and its blocks are held; a prompt nobody knows has neither."""
    client, blocks = engine
    tag = Tag("run", 0, 1)
    await client.request(conversations.body(tag))
    stored, removed = blocks.take_changes()
    assert stored == conversations.prompt(tag).keys
    assert removed == []
    await client.request(request(Tag("run", NOBODYS, 0), b"[]"))
    assert blocks.take_changes() == ([], [])


async def test_streams_have_the_chunks_and_the_pace_asked_for(engine, conversations):
    """Every chunk comes, at its time, with the moment at which it was sent."""
    client, _ = engine
    started = time.monotonic()
    reply = await client.request(conversations.body(Tag("run", 0, 0, chunks=6, interval_us=20_000)))
    assert time.monotonic() - started >= 0.1
    assert reply.chunks == 6
    assert all(0 <= delay < 1 and moment >= reply.first_byte for moment, delay in reply.delays)


async def test_streams_without_a_pace_are_as_fast_as_their_reader(engine):
    """An answer larger than any buffer arrives whole."""
    client, _ = engine
    reply = await client.request(request(Tag("run", NOBODYS, 0, 10_000, 0, 880), b"[]"))
    assert reply.chunks == 10_000


async def test_refused_requests_are_errors(engine):
    """A measurement cannot count an error as an answer; a connection that fails is one, too."""
    client, _ = engine
    with pytest.raises(RequestFailedError, match=r"400 .*no tag"):
        await client.request(b"{}")
    client.port = 1
    with pytest.raises(RequestFailedError):
        await client.request(b"{}")


def test_blocks_published_are_net_effects(monkeypatch):
    """What is stored was not there, what is removed was, and no more is held than there is room for."""
    monkeypatch.setattr("loadtest.bench.blocks.CAPACITY_BLOCKS", 3)
    blocks = EngineBlocks()
    blocks.hold([1, 2])
    blocks.hold([2, 3])
    assert blocks.take_changes() == ([1, 2, 3], [])
    blocks.hold([3, 4])
    assert blocks.take_changes() == ([4], [1])
    assert blocks.take_changes() == ([], [])
    blocks.hold([5, 6, 7, 8])
    assert blocks.take_changes() == ([6, 7, 8], [2, 3, 4])


def test_added_latency_is_the_difference_within_a_round():
    """What a router adds is taken against the same round without a router, and then the median."""
    figures = {
        "direct": [{"TTFT p50, ms": 1.0}, {"TTFT p50, ms": 5.0}],
        "a": [{"TTFT p50, ms": 3.0, "CPU": 9.0}, {"TTFT p50, ms": 8.0, "CPU": 9.0}],
    }
    added = with_added_latency(figures)["a"]
    assert [values["added TTFT p50, ms"] for values in added] == [2.0, 3.0]
    assert with_added_latency({"a": figures["a"]}) == {"a": figures["a"]}


def test_ratios_are_medians_of_rounds():
    """The table compares with the reference round by round, and leaves out what cannot be compared."""
    table = results(
        {
            "a": [{"cost": 1.0, "rise": -1.0}, {"cost": 30.0, "rise": 1.0}, {"cost": 3.0, "rise": 1.0}],
            "smg-cache-aware": [
                {"cost": 2.0, "rise": 1.0},
                {"cost": 10.0, "rise": 1.0},
                {"cost": 4.0, "rise": 1.0},
            ],
        }
    )
    columns = [list(column.cells) for column in table.columns]
    assert columns == [["cost", "rise"], ["3.0 (0.75x)", "1.0"], ["4.0", "1.0"]]
