"""A tokenizer is believed when it agrees with the engine's, and only as long as it does."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster.errors import StartUpError
from cluster.fleet.fleet import Fleet
from cluster.index.block_table import NO_KEYS
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.wire import Lease, Load, ReplicaState
from cluster.settings import load_settings
from router.errors import AttemptFailedError
from router.requests import tokenizers as module
from router.requests.exactness import Exactness, shape_of
from router.requests.prompt_threads import PromptThreads
from router.requests.prompts import PreparedPrompt, prepare
from router.requests.tokenizers import Tokenizers
from router.settings import RouterSettings
from router.upstream.client import Upstream
from tests.router.test_shapes import UNUSUAL, chat
from tests.waiting import eventually


class Engine:
    """Plays `Upstream` for `/tokenize`. ``answers`` holds replicas, by URL, that answer otherwise, and
    ``hanging`` those that answer when an event is set.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.answer = self.right
        self.answers = {}
        self.hanging = {}
        self.asked = asyncio.Event()
        self.urls = []

    def right(self, body):
        """The tokens that the model's own tokenizer gives."""
        return list(self.tokenizer.chat(body).token_ids)

    def wrong(self, body):
        """Tokens that no tokenizer of these tests gives."""
        return [1, 2, 3]

    def away(self, body):
        """No answer."""
        raise AttemptFailedError("away", replica_down=True)

    async def tokenise(self, url, body):
        self.asked.set()
        self.urls.append(url)
        await asyncio.sleep(0)
        if url in self.hanging:
            await self.hanging[url].wait()
        return self.answers.get(url, self.answer)(body)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    """The tiny model's."""
    return PromptTokenizer(tiny_model)


@pytest.fixture
def fleet(tiny_model):
    """One ready replica."""
    fleet = Fleet()
    admit(fleet, model_directory=str(tiny_model))
    return fleet


def admit(fleet, replica="a", model="m", epoch=1, **changes):
    """A ready replica's lease."""
    values = {"url": f"http://{replica}", "state": ReplicaState.READY, **changes}
    fleet.admit(Lease(replica=replica, model=model, **values), epoch, Load())


@pytest.fixture
async def engine(tokenizer):
    """An engine that tokenises as the model does."""
    return Engine(tokenizer)


@pytest.fixture
async def tokenizers(fleet, engine, monkeypatch):
    """Tokenizers that look at the fleet all the time."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.005)
    monkeypatch.setattr(module, "CHANGE_SECONDS", 0.0)
    tokenizers = Tokenizers(fleet, engine, {})
    task = asyncio.create_task(tokenizers.run())
    yield tokenizers
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settled(tokenizers, model="m"):
    """Wait until it is known how the model's prompts are tokenised."""
    await eventually(lambda: tokenizers.settled(model))


async def test_tokenizer_that_agrees_is_used(tokenizers):
    """It is found in the engine's own directory and compared with the engine."""
    await settled(tokenizers)
    assert tokenizers.get("m") is not None
    assert tokenizers.alarms() == {}


async def test_tokenizer_that_differs_is_an_alarm(tokenizers, engine):
    """A difference on a probe switches the model to the ring."""
    engine.answer = engine.wrong
    await settled(tokenizers)
    assert tokenizers.get("m") is None
    alarm = tokenizers.alarms()["m"]
    assert alarm.startswith(
        "the router's tokenizer and that of replica a differ on probe 0, at token 1, at message 0 (user); "
    )
    assert "WARMROUTE_CHAT_OPTIONS" in alarm


async def test_engine_without_tokenize_is_believed(tokenizers, engine):
    """There is nothing to compare with: replies' own counts must do."""
    engine.answer = lambda body: None
    await settled(tokenizers)
    assert tokenizers.get("m") is not None


async def test_unchecked_tokenizer_is_not_used(tokenizers, engine):
    """While the engine does not answer, nothing is keyed; as soon as it does, the model is settled."""
    engine.answer = engine.away
    await asyncio.wait_for(engine.asked.wait(), 5)
    await asyncio.sleep(0.02)
    assert tokenizers.get("m") is None
    assert not tokenizers.settled("m")
    engine.answer = engine.right
    await settled(tokenizers)
    assert tokenizers.get("m") is not None


async def test_model_without_a_readable_directory_is_an_alarm_that_says_what_to_do(tokenizers, fleet):
    """The operator is told which option helps."""
    admit(fleet, "b", "remote", model_directory="/not/here")
    await settled(tokenizers, "remote")
    assert tokenizers.get("remote") is None
    assert "--tokenizer remote=DIRECTORY" in tokenizers.alarms()["remote"]


async def test_named_directory_wins(fleet, engine, tiny_model, monkeypatch):
    """A directory from the settings is used for the model, its aliases and its adapters."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.005)
    admit(fleet, "b", "remote", aliases=("alias",), adapters=("lora",), model_directory="/not/here")
    tokenizers = Tokenizers(fleet, engine, {"remote": tiny_model})
    task = asyncio.create_task(tokenizers.run())
    for name in ("remote", "alias", "lora"):
        await settled(tokenizers, name)
        assert tokenizers.get(name) is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("name", ["remote", "lora"])
async def test_options_of_the_engines_command_line_count(
    fleet, engine, tiny_model, monkeypatch, tmp_path, name
):
    """They come as JSON, by any name of the model, and its tokens are then the engine's."""
    (tmp_path / "x.jinja").write_text("{{ word }}{{ messages[0].content }}")
    options = {"chat_template": str(tmp_path / "x.jinja"), "default_chat_template_kwargs": {"word": "You"}}
    monkeypatch.setenv("WARMROUTE_CHAT_OPTIONS", json.dumps({"remote": options}))
    settings = load_settings(RouterSettings)
    engine.tokenizer = PromptTokenizer(tiny_model, options=settings.chat_options["remote"])
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.005)
    admit(fleet, "b", "remote", adapters=("lora",), model_directory=str(tiny_model))
    tokenizers = Tokenizers(fleet, engine, {}, settings.chat_options)
    task = asyncio.create_task(tokenizers.run())
    await settled(tokenizers, name)
    tokens = tokenizers.get(name).chat({"messages": [{"role": "user", "content": " are"}]}).token_ids
    assert tokenizers.get(name).decode(tokens) == "You are"
    await settled(tokenizers)
    assert list(tokenizers.alarms()) == ["m"], "of which nothing was said"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("x", "Expecting value"),
        ('{"m": {"chat_template": "/not/here"}}', "no file /not/here"),
        ('{"m": {"chat-template": "x"}}', "Unexpected keyword argument"),
        ('{"m": {"chat_template_content_format": "xml"}}', "'auto', 'string' or 'openai'"),
    ],
)
def test_bad_options_stop_the_start(monkeypatch, given, said):
    """With the name of the setting, and what is wrong."""
    monkeypatch.setenv("WARMROUTE_CHAT_OPTIONS", given)
    with pytest.raises(StartUpError, match=f"WARMROUTE_CHAT_OPTIONS: .*{said}"):
        load_settings(RouterSettings)


async def test_names_of_one_directory_share_its_tokenizer(tokenizers, fleet, tiny_model):
    """Aliases, adapters and other models that are read from there take the memory of one."""
    adapters = tuple(f"lora{number}" for number in range(60))
    admit(fleet, "b", "n", aliases=("alias",), adapters=adapters, model_directory=str(tiny_model))
    for name in ("m", "n", "alias", *adapters):
        await settled(tokenizers, name)
    assert len({id(tokenizers.get(name)) for name in ("m", "n", "alias", *adapters)}) == 1


async def test_model_is_not_settled_before_a_replica_is_ready(tokenizers, fleet, tiny_model):
    """An engine that starts cannot be asked yet."""
    admit(fleet, "b", "late", state=ReplicaState.STARTING, model_directory=str(tiny_model))
    await settled(tokenizers)
    assert not tokenizers.settled("late")
    admit(fleet, "b", "late", model_directory=str(tiny_model))
    await settled(tokenizers, "late")


async def test_model_that_left_is_forgotten(tokenizers, fleet):
    """When it comes back it is checked again."""
    await settled(tokenizers)
    fleet.dismiss("a")
    await asyncio.sleep(0.05)
    assert not tokenizers.settled("m")
    assert tokenizers.get("m") is None


def reply(tokenizers, call, difference=0, conversation=None):
    """A reply to an exact prompt of ten tokens, whose count differs by so many."""
    key = call.conversation_key if conversation is None else conversation
    prompt = PreparedPrompt(
        keys=NO_KEYS, prompt_tokens=10, opening_tokens=0, conversation_key=key, exact=True
    )
    tokenizers.compare("m", call, prompt, 10 + difference)


async def predicted(tokenizers, fleet, call):
    """Whether a request gets keys."""
    tokenizer = tokenizers.for_call("m", call, call.conversation_key)
    prompt = await prepare(call, fleet.models["m"], tokenizer, PromptThreads(), "client")
    return prompt.exact and len(prompt.keys) > 0


async def test_odd_requests_of_one_client_change_nothing_for_others(tokenizers, fleet, tiny_model):
    """Requests of any kind that the engine tokenises otherwise leave an ordinary conversation exact. They go
    by the ring themselves until the engine agrees. The model has no alarm.
    """
    admit(fleet, block_size=4, publishes_events=True, model_directory=str(tiny_model))
    await settled(tokenizers)
    ordinary = chat(messages=[{"role": "user", "content": "Tell me about water"}])
    for fields in UNUSUAL.values():
        odd = chat(**fields)
        for number in range(4):
            assert await predicted(tokenizers, fleet, ordinary)
            reply(tokenizers, ordinary)
            reply(tokenizers, odd, 3, conversation=number)
        assert tokenizers.for_call("m", odd, 5) is None
        assert await predicted(tokenizers, fleet, ordinary)
        [(model, problem)] = tokenizers.shapes()
        assert model == "m"
        assert problem.startswith(f"{shape_of(odd)}: ")
        reply(tokenizers, odd, conversation=5)
        assert tokenizers.for_call("m", odd, 5) is not None
        assert await predicted(tokenizers, fleet, ordinary)
        assert not list(tokenizers.shapes())
        tokenizers._entries["m"].exactness = Exactness()
    assert tokenizers.alarms() == {}


async def test_ordinary_requests_that_differ_are_told_and_harm_nobody(tokenizers):
    """Their conversations go by the ring; a model is not judged by what clients send."""
    await settled(tokenizers)
    for number in range(100):
        reply(tokenizers, chat(), 1, conversation=number)
    assert tokenizers.for_call("m", chat(), 1) is None
    assert tokenizers.for_call("m", chat(), 100) is not None
    assert tokenizers.alarms() == {}
    assert "100 conversations in a row" in dict(tokenizers.shapes())["m"]
    tokenizers.compare("unknown", chat(), None, 2)
    assert tokenizers.for_call("unknown", chat(), 1) is None


async def test_it_is_found_out_where_tokens_part(tokenizers, engine, monkeypatch):
    """Once for each kind of request, by the next check."""
    monkeypatch.setattr(module, "DIFFERENCE_SECONDS", 0.0)
    await settled(tokenizers)
    odd = chat(documents=[])
    engine.answer = lambda body: [*engine.right(body), 1] if "documents" in str(body) else engine.right(body)
    for number in range(3):
        reply(tokenizers, odd, 1, conversation=number)
    await eventually(lambda: "at token" in "".join(dict(tokenizers.shapes()).values()))
    [(_, problem)] = tokenizers.shapes()
    assert "they part at token" in problem
    assert problem.endswith("after the last message); such requests go by their texts")
    asked = len(engine.urls)
    for number in range(3, 6):
        reply(tokenizers, odd, 1, conversation=number)
    assert tokenizers._entries["m"].odd is None
    await asyncio.sleep(0.05)
    assert len(engine.urls) - asked <= 2, "the probes alone"


@pytest.fixture
def quick(monkeypatch):
    """Alarmed models are checked again after 10 ms, then 20, and at last every 40."""
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.01)
    monkeypatch.setattr(module, "RECHECK_LIMIT_SECONDS", 0.04)


@pytest.fixture
def sampled(monkeypatch):
    """Tokenizers that agree are compared again all the time."""
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 0.0)


async def test_alarm_ends_when_the_engine_agrees_again(quick, tokenizers, engine):
    """A model switched to the ring is checked again by itself, and comes back."""
    engine.answer = engine.wrong
    await settled(tokenizers)
    assert tokenizers.get("m") is None
    engine.answer = engine.right
    await eventually(lambda: tokenizers.get("m") is not None)
    assert tokenizers.alarms() == {}


async def test_corrected_files_are_read_again(quick, tokenizers, fleet, tiny_model, tmp_path):
    """A tokenizer that could not be loaded, or was half written, is loaded once its files are right."""
    admit(fleet, "b", "late", model_directory=str(tmp_path / "late"))
    await settled(tokenizers, "late")
    assert "no usable tokenizer" in tokenizers.alarms()["late"]
    shutil.copytree(tiny_model, tmp_path / "late")
    await eventually(lambda: tokenizers.get("late") is not None)


@pytest.mark.parametrize("garbage", ["", "[]", '{"version": "1.0", "model": {"type": "Nope"}}'])
async def test_broken_files_are_an_alarm_and_no_end(quick, tokenizers, fleet, tiny_model, tmp_path, garbage):
    """Whatever the library raises for a file, the model is an alarm, and others are looked after."""
    directory = tmp_path / "broken"
    shutil.copytree(tiny_model, directory)
    (directory / "tokenizer.json").write_text(garbage)
    admit(fleet, "b", "broken", model_directory=str(directory))
    admit(fleet, "c", "z", model_directory=str(tiny_model))
    await settled(tokenizers, "broken")
    await settled(tokenizers, "z")
    assert tokenizers.get("broken") is None
    assert "tokenizer" in tokenizers.alarms()["broken"]
    shutil.copy(tiny_model / "tokenizer.json", directory)
    await eventually(lambda: tokenizers.get("broken") is not None)


async def test_new_files_replace_a_tokenizer_that_no_longer_agrees(
    sampled, tokenizers, engine, fleet, tiny_model, tmp_path
):
    """Before it raises an alarm the router reads the files again: the engine may have newer ones."""
    directory = tmp_path / "model"
    shutil.copytree(tiny_model, directory)
    fleet.dismiss("a")
    admit(fleet, model_directory=str(directory))
    await eventually(lambda: tokenizers.get("m") is not None)
    before = tokenizers.get("m")
    config = directory / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "chat_template": "new:" + settings["chat_template"]}))
    engine.tokenizer = PromptTokenizer(directory)
    await eventually(lambda: tokenizers.get("m") not in (None, before))
    assert tokenizers.alarms() == {}


@pytest.mark.parametrize(
    "change", [{"epoch": 2}, {"tokenizer_fingerprint": "new"}, {"model_directory": "/elsewhere"}]
)
async def test_alarmed_model_is_checked_at_once_when_a_replica_changes(tokenizers, engine, fleet, change):
    """An engine that starts again with other files need not wait for the next periodic check."""
    tokenizers._directories = {"m": Path(fleet.replicas["a"].lease.model_directory)}
    engine.answer = engine.wrong
    await settled(tokenizers)
    engine.answer = engine.right
    await asyncio.sleep(0.03)
    assert tokenizers.get("m") is None, "the pause is seconds"
    admit(fleet, **{"model_directory": fleet.replicas["a"].lease.model_directory, **change})
    await eventually(lambda: tokenizers.get("m") is not None)


async def test_changes_do_not_lead_to_checks_without_end(tokenizers, engine, fleet, tiny_model, monkeypatch):
    """Replicas that restart all the time have the files read no more often than the bound says."""
    monkeypatch.setattr(module, "CHANGE_SECONDS", 60.0)
    engine.answer = engine.wrong
    await settled(tokenizers)
    asked = len(engine.urls)
    for epoch in range(2, 10):
        admit(fleet, epoch=epoch, model_directory=str(tiny_model))
        await asyncio.sleep(0.01)
    assert len(engine.urls) == asked


async def test_replica_with_another_tokenizer_is_noticed_and_named(tokenizers, engine, fleet, tiny_model):
    """Each distinct tokenizer among the ready replicas is compared; when the odd one leaves, all is well."""
    await settled(tokenizers)
    engine.answers["http://b"] = engine.wrong
    admit(fleet, "b", tokenizer_fingerprint="other", model_directory=str(tiny_model))
    await eventually(lambda: "replica b" in tokenizers.alarms().get("m", ""))
    assert tokenizers.get("m") is None
    fleet.dismiss("b")
    await eventually(lambda: tokenizers.get("m") is not None)


async def test_one_replica_of_each_kind_is_asked(tokenizers, engine, fleet, tiny_model):
    """A hundred replicas with one tokenizer are no reason for a hundred questions."""
    fleet.dismiss("a")
    for number in range(20):
        admit(fleet, f"r{number}", tokenizer_fingerprint="same", model_directory=str(tiny_model))
    admit(fleet, "x", tokenizer_fingerprint="other", model_directory=str(tiny_model))
    await eventually(lambda: "http://x" in engine.urls and tokenizers.get("m") is not None)
    assert len(set(engine.urls)) <= 3, engine.urls


async def test_many_kinds_take_turns(sampled, tokenizers, engine, fleet, tiny_model):
    """However many tokenizers there are, one check asks a few replicas, and all are asked in time."""
    for number in range(2 * module.MAX_PROBED):
        admit(fleet, f"r{number}", tokenizer_fingerprint=f"{number}", model_directory=str(tiny_model))
    await eventually(lambda: len(set(engine.urls)) == 2 * module.MAX_PROBED + 1)


async def test_tokenizer_that_agrees_is_sampled(sampled, quick, tokenizers, engine, fleet, tiny_model):
    """Replicas are compared again in turn, so that one that differs without saying so is found."""
    admit(fleet, "b", model_directory=str(tiny_model))
    await eventually(lambda: {"http://a", "http://b"} <= set(engine.urls))
    assert tokenizers.get("m") is not None
    engine.answers["http://b"] = engine.wrong
    await eventually(lambda: "replica b" in tokenizers.alarms().get("m", ""))
    engine.urls.clear()
    await eventually(lambda: len(engine.urls) >= 3)
    assert set(engine.urls) == {"http://b"}, "a replica that agrees does not end the alarm of another"
    del engine.answers["http://b"]
    await eventually(lambda: tokenizers.get("m") is not None)


async def test_replica_that_does_not_answer_is_left_out(tokenizers, engine, fleet, tiny_model):
    """Whoever answers decides, and the next in turn is asked where one is away."""
    engine.answers["http://b"] = engine.away
    admit(fleet, "b", tokenizer_fingerprint="other", model_directory=str(tiny_model))
    await settled(tokenizers)
    assert tokenizers.get("m") is not None


async def test_alarm_stays_while_nobody_answers(quick, tokenizers, engine):
    """Silence is no agreement."""
    engine.answer = engine.wrong
    await settled(tokenizers)
    engine.answer, engine.urls = engine.away, []
    await eventually(lambda: len(engine.urls) >= 3)
    assert "replica a" in tokenizers.alarms()["m"]
    engine.answer = engine.right
    await eventually(lambda: tokenizers.get("m") is not None)


async def test_engine_that_really_differs_is_found_out_by_a_reply(monkeypatch, tokenizers, engine):
    """A reply that differs makes the next check due at once, and it is the check that raises the alarm."""
    monkeypatch.setattr(module, "DIFFERENCE_SECONDS", 0.0)
    await settled(tokenizers)
    engine.answer = engine.wrong
    await asyncio.sleep(0.03)
    assert tokenizers.alarms() == {}
    reply(tokenizers, chat(), 1)
    await eventually(lambda: "replica a" in tokenizers.alarms().get("m", ""))


async def test_replies_do_not_lead_to_checks_without_end(tokenizers, engine):
    """A client whose requests differ all the time makes the router ask no more often than the bound says."""
    await settled(tokenizers)
    asked = len(engine.urls)
    for number in range(20):
        reply(tokenizers, chat(), 1, conversation=number)
        await asyncio.sleep(0.002)
    assert len(engine.urls) == asked


async def test_new_tokenizer_is_not_judged_by_the_old_ones_replies(
    sampled, tokenizers, engine, fleet, tiny_model, tmp_path
):
    """What replies have shown is about the files that were used then."""
    await settled(tokenizers)
    for number in range(3):
        reply(tokenizers, chat(documents=[]), 1, conversation=number)
    assert list(tokenizers.shapes())
    engine.answer = engine.wrong
    await eventually(lambda: tokenizers.alarms())
    engine.answer = engine.right
    fleet.dismiss("a")
    admit(fleet, "b", model_directory=str(tiny_model))
    await eventually(lambda: tokenizers.get("m") is not None)
    assert not list(tokenizers.shapes())


@pytest.mark.parametrize("model", ["m", "other"])
async def test_engine_that_hangs_delays_nobody(fleet, engine, tiny_model, monkeypatch, model):
    """While one engine does not answer, others are asked: those of its own model, and those of others."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.005)
    engine.hanging["http://a"] = hang = asyncio.Event()
    admit(fleet, "b", model, tokenizer_fingerprint="b", model_directory=str(tiny_model))
    tokenizers = Tokenizers(fleet, engine, {})
    task = asyncio.create_task(tokenizers.run())
    await eventually(lambda: {"http://a", "http://b"} <= set(engine.urls))
    if model == "other":
        await settled(tokenizers, "other")
    assert not tokenizers.settled("m")
    hang.set()
    await settled(tokenizers)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_checks_at_the_same_time_are_bounded(monkeypatch, fleet, engine, tiny_model):
    """However many models there are, and all of them are checked in the end."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.005)
    monkeypatch.setattr(module, "MAX_CHECKS", 2)
    hang = asyncio.Event()
    for name in "abcde":
        engine.hanging[f"http://{name}"] = hang
        admit(fleet, name, f"m{name}", model_directory=str(tiny_model))
    tokenizers = Tokenizers(fleet, engine, {})
    task = asyncio.create_task(tokenizers.run())
    await eventually(lambda: len(set(engine.urls)) == 2)
    await asyncio.sleep(0.05)
    assert len(set(engine.urls)) == 2
    hang.set()
    for name in "abcde":
        await settled(tokenizers, f"m{name}")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("steady", [False, True])
def test_pauses_grow_until_it_has_agreed_for_long(monkeypatch, steady):
    """A tokenizer that agrees and differs by turns comes and goes ever more slowly."""
    entry = module._Entry()
    now, pauses = 1000.0, []
    for _ in range(9):
        assert entry.differs(now, "differs")
        pauses.append(entry.due - now)
        now = entry.due
        assert entry.agrees(now, everybody=True)
        now += module.RECHECK_LIMIT_SECONDS if steady else 1.0
    assert pauses == [5.0] * 9 if steady else [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


@pytest.mark.parametrize("garbage", [RuntimeError("garbage"), RecursionError()])
async def test_nothing_ends_the_checks(quick, tokenizers, engine, garbage):
    """An engine, or a client of it, that fails in an unexpected way is an alarm that goes away, too."""

    def fail(_body):
        raise garbage

    engine.answer = fail
    await settled(tokenizers)
    assert type(garbage).__name__ in tokenizers.alarms()["m"]
    engine.answer = engine.right
    await eventually(lambda: tokenizers.get("m") is not None)


@pytest.mark.parametrize(
    "reply",
    [b"", b"\xff\xfe", b"[]", b'{"tokens": "x"}', b'{"tokens": [1.5]}', b'{"tokens": {}}', b"[" * 10_000],
)
async def test_garbage_from_tokenize_is_as_good_as_no_answer(reply):
    """The real client takes an unreadable answer for an engine without ``/tokenize``."""

    async def answer(_request):
        return web.Response(body=reply, content_type="application/json")

    app = web.Application()
    app.router.add_post("/tokenize", answer)
    upstream = Upstream(RouterSettings())
    try:
        async with TestServer(app) as server:
            assert await upstream.tokenise(str(server.make_url("")).rstrip("/"), {}) is None
    finally:
        await upstream.close()
