"""A tokenizer is believed when it agrees with the engine's, and only as long as it does."""

import asyncio

import pytest

from cluster.fleet import Fleet
from cluster.tokenizer import PromptTokenizer
from cluster.wire import Lease, Load, ReplicaState
from router import tokenizers as module
from router.errors import AttemptFailedError
from router.tokenizers import Tokenizers
from tests.waiting import eventually


class Engine:
    """Plays `Upstream` for `/tokenize`."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.answer = self.right
        self.asked = asyncio.Event()

    def right(self, body):
        """The tokens that the model's own tokenizer gives."""
        return list(self.tokenizer.chat(body).token_ids)

    async def tokenise(self, _url, body):
        self.asked.set()
        await asyncio.sleep(0)
        return self.answer(body)


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


def admit(fleet, replica="a", model="m", **changes):
    """A ready replica's lease."""
    values = {"url": "http://a", "state": ReplicaState.READY, **changes}
    fleet.admit(Lease(replica=replica, model=model, **values), 1, Load())


@pytest.fixture
async def engine(tokenizer):
    """An engine that tokenises as the model does."""
    return Engine(tokenizer)


@pytest.fixture
async def tokenizers(fleet, engine, monkeypatch):
    """Tokenizers that look at the fleet all the time."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.005)
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
    engine.answer = lambda body: [1, 2, 3]
    await settled(tokenizers)
    assert tokenizers.get("m") is None
    assert "differ on probe 0" in tokenizers.alarms()["m"]


async def test_engine_without_tokenize_is_believed(tokenizers, engine):
    """There is nothing to compare with: replies' own counts must do."""
    engine.answer = lambda body: None
    await settled(tokenizers)
    assert tokenizers.get("m") is not None


async def test_unchecked_tokenizer_is_not_used(tokenizers, engine):
    """While the engine does not answer, nothing is keyed; as soon as it does, the model is settled."""

    def fail(_body):
        raise AttemptFailedError("away", replica_down=True)

    engine.answer = fail
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


async def test_counts_that_differ_again_and_again_are_an_alarm(tokenizers):
    """One odd reply is passed over, the third one switches the model to the ring."""
    await settled(tokenizers)
    tokenizers.compare("m", 10, 10)
    for _ in range(module.MISMATCHES_ALLOWED):
        tokenizers.compare("m", 10, 11)
    assert tokenizers.get("m") is not None
    tokenizers.compare("m", 10, 11)
    assert tokenizers.get("m") is None
    assert "counted 11" in tokenizers.alarms()["m"]
    tokenizers.compare("unknown", 1, 2)
