"""Playing traffic: what is sent, what is measured, and what bad options and servers lead to."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from cluster.errors import StartUpError
from cluster.settings import load_settings
from loadtest.harness.chat_answers import RequestFailedError
from loadtest.harness.chat_client import ChatClient
from loadtest.scenarios.scenario import load_scenario
from loadtest.trial.player import Player, Traffic, tagged
from loadtest.trial.settings import TrialSettings

PAUSE = 0.05
USAGE = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 32}}


def event(**fields):
    """One streamed event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def text(content):
    """An event with text."""
    return event(choices=[{"delta": {"content": content}}])


class Server:
    """Answers as vLLM does: an empty event first, text after a pause, usage at the end."""

    def __init__(self, status=200, end=b"data: [DONE]\n\n", middle=b"", words=("one", " two")):
        self.bodies, self._status, self._end, self._middle, self._words = [], status, end, middle, words

    async def __aenter__(self):
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._answer)
        application.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self._runner.cleanup()

    async def _models(self, _request):
        return web.json_response({"data": [{"id": "tiny"}]})

    async def _answer(self, request):
        self.bodies.append(await request.json())
        if self._status != 200:
            return web.json_response({"error": {"message": "no replica is ready"}}, status=self._status)
        response = web.StreamResponse(headers={"x-warmroute-replica": "r1"})
        await response.prepare(request)
        await response.write(event(choices=[{"delta": {"role": "assistant", "content": ""}}]))
        await asyncio.sleep(PAUSE)
        for word in self._words:
            await response.write(text(word))
        await response.write(self._middle + event(choices=[], usage=USAGE) + self._end)
        return response


async def ask(server):
    """One request."""
    return await ChatClient(server.session, server.url + "/v1").ask(
        "tiny", [{"role": "user", "content": "?"}], 8
    )


async def test_time_to_the_first_token_with_text():
    """The empty event before it does not count; counts and replica are the server's."""
    async with Server() as server:
        reply = await ask(server)
    assert PAUSE * 0.9 <= reply.ttft <= reply.latency
    assert (reply.text, reply.replica) == ("one two", "r1")
    assert (reply.prompt_tokens, reply.cached_tokens, reply.output_tokens) == (40, 32, 3)


async def test_an_answer_without_text_has_no_first_token():
    """A model may end at once."""
    async with Server(words=()) as server:
        assert (await ask(server)).ttft is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"status": 503}, "503 no replica is ready"),
        ({"end": b""}, "the stream ended without"),
        ({"middle": event(error={"message": "engine died"})}, "in the stream: .*engine died"),
        ({"middle": b"data: {nonsense\n\n"}, "not what the API promises"),
    ],
)
async def test_broken_answers_fail_with_their_reason(broken, message):
    """Errors of HTTP, of the stream, and of its format."""
    async with Server(**broken) as server:
        with pytest.raises(RequestFailedError, match=message):
            await ask(server)


async def test_nobody_there_is_an_error_that_names_the_url():
    """Before anything is measured."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(RequestFailedError, match=r"nothing answers at http://127\.0\.0\.1:9"):
            await ChatClient(session, "http://127.0.0.1:9").models()


def traffic(**values):
    """A second of the support bot, without think times."""
    scenario = load_scenario("support-bot")
    return Traffic(
        **{"scenario": scenario, "seed": 1, "seconds": 1.0, "rate": 6.0, "think_scale": 0.0, **values}
    )


async def play(server, **values):
    """One round."""
    client = ChatClient(server.session, server.url)
    told = []
    player = Player(client, "tiny", traffic(**values), "Order price. ", told.append)
    one = await player.play("warm", 0, lambda: None)
    assert told == list(one.answers)
    return one


async def test_a_round_holds_every_conversation_to_its_end():
    """All turns of all conversations of the scenario; every prompt begins with the round's words, and
    histories hold what was answered."""
    async with Server() as server:
        one = await play(server)
    sessions = traffic().sessions()
    assert len(one.good) == len(one.answers) == sum(len(session.turns) for session in sessions) > 4
    assert {answer.conversation for answer in one.good} == {f"support:{s.number}" for s in sessions}
    assert all(body["messages"][0]["content"].startswith("Order price. ") for body in server.bodies)
    second = [body for body in server.bodies if len(body["messages"]) == 4]
    assert second[0]["messages"][2] == {"role": "assistant", "content": "one two"}
    assert one.lag.p99 <= one.lag.most


async def test_users_hold_one_conversation_after_the_other():
    """Two users, each with numbers of their own."""
    async with Server() as server:
        one = await play(server, users=2, seconds=1.0)
    numbers = {int(answer.conversation.partition(":")[2]) for answer in one.good}
    assert {0, 1, 2, 3} <= numbers


async def test_failed_conversations_end_and_are_counted():
    """A conversation ends with its first failed request."""
    async with Server(status=503) as server:
        one = await play(server)
    assert one.answers
    assert not one.good
    assert len(one.answers) == len(traffic().sessions())


async def test_what_is_open_at_the_end_of_the_sweep_is_cut_off():
    """A round that may not wait does not."""
    async with Server() as server:
        one = await play(server, think_scale=1.0, drain_seconds=0.0)
    assert one.cut_off > 0
    assert one.duration < 5


def test_the_tag_leaves_the_original_alone():
    """Histories are kept without it."""
    messages = [{"role": "user", "content": "why"}]
    assert tagged(messages, "Order. ")[0]["content"] == "Order. why"
    assert messages[0]["content"] == "why"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": "http://x:1"}, "--a and --b belong together"),
        ({"a": "http://x:1", "b": "http://x:1"}, "different names"),
        ({"a": "nonsense", "b": "http://x:1"}, "--a nonsense: not a URL"),
        ({"a": "http://x:1", "b": "http://y:1", "replicas": 2}, "--replicas: not with --a and --b"),
        ({"router_url": "http://x:1", "engine": "vllm"}, "--engine: not with --router-url"),
        ({"router_url": "x"}, "--router-url x: not a URL"),
        ({"control": "fastest"}, "unknown policy fastest"),
        ({"control": "warm"}, "other policies than warm"),
        ({"rounds": 0}, "--rounds 0 measures nothing"),
        ({"users": 3, "sweep": "1,2"}, "--sweep raises the rate"),
        ({"users": 3, "rate": 2.0}, "either --rate or --users"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    """Are refused before anything starts, with the flag's name."""
    with pytest.raises(StartUpError, match=message):
        load_settings(TrialSettings, **options).arms()


def test_unknown_scenarios_are_refused():
    """With the names of those that there are."""
    with pytest.raises(StartUpError, match="support-bot"):
        load_settings(TrialSettings, scenario="nonsense").read_scenario()


@pytest.mark.parametrize("options", [{"seconds": 0}, {"rate": -1}, {"sweep": "1,x"}, {"gpu_hour_price": -1}])
def test_senseless_numbers_are_refused(options):
    """By the setting's name."""
    with pytest.raises(StartUpError, match=f"WARMROUTE_{next(iter(options)).upper()}"):
        load_settings(TrialSettings, **options)


def test_arms_end_with_ours():
    """Controls first; URLs may have names."""
    arms = load_settings(TrialSettings, control="round-robin,consistent-hash").arms()
    assert [arm.name for arm in arms] == ["round-robin", "consistent-hash", "Warmroute"]
    assert arms[-1].policy == "warm"
    arms = load_settings(TrialSettings, a="theirs=http://x:1/v1", b="http://y:2").arms()
    assert [(arm.name, arm.url) for arm in arms] == [("theirs", "http://x:1/v1"), ("y:2", "http://y:2")]
