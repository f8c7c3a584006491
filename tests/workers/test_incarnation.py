"""What one incarnation says of its engine: each degraded state has an alarm, and a way back."""

import asyncio
import contextlib
import shutil

import pytest

from cluster.prompts.tokenizer import tokenizer_fingerprint
from workers.agent.incarnation import Incarnation
from workers.engines.engine import EngineClient
from workers.errors import IncarnationOverError

TOKENS = list(range(12))


class Listener:
    """Counts what an incarnation reports."""

    def __init__(self):
        self.changes, self.replaced, self.leases = [], 0, 0

    def mirror_changed(self, change):
        self.changes.append(change)

    def mirror_replaced(self):
        self.replaced += 1

    def lease_changed(self):
        self.leases += 1


@pytest.fixture
async def follow(engine, settings):
    """Follows the engine as it is now, without Redis; ``task`` ends with what ends the incarnation."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(fingerprint="f", **changes):
            changed = settings.model_copy(update=changes)
            client = await stack.enter_async_context(EngineClient(engine.url, "", 0.3))
            found = await client.discover()
            incarnation = Incarnation(client, found, fingerprint, changed, Listener())
            incarnation.task = asyncio.create_task(incarnation.run())
            stack.push_async_callback(_end, incarnation.task)
            return incarnation

        yield start


async def _end(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _says(incarnation, text):
    return any(text in alarm for alarm in incarnation.alarms.texts())


async def test_an_engine_without_events_is_not_believed(engine, follow, eventually):
    """The alarm names the cause; events that appear make it another incarnation, without the alarm."""
    engine.publishes = False
    incarnation = await follow()
    assert _says(incarnation, "publishes no KV events")
    assert not incarnation.believes_events
    engine.publishes = True
    await eventually(incarnation.task.done)
    with pytest.raises(IncarnationOverError, match="publishes its events elsewhere"):
        incarnation.task.result()
    again = await follow()
    await eventually(lambda: again.believes_events)
    assert again.alarms.texts() == ()


async def test_events_that_vanish_are_noticed(engine, follow, eventually):
    """An engine that stops publishing is another incarnation, which is not believed."""
    incarnation = await follow()
    await eventually(lambda: incarnation.believes_events)
    engine.publishes = False
    await eventually(incarnation.task.done)
    again = await follow()
    assert _says(again, "publishes no KV events")
    assert not again.believes_events


async def test_silent_replays_are_not_believed(engine, follow, eventually):
    """While the replay endpoint does not answer nobody knows what was lost; the alarm names it."""
    incarnation = await follow()
    await eventually(lambda: incarnation.believes_events)
    engine.publisher.answers = False
    await eventually(lambda: not incarnation.believes_events)
    assert _says(incarnation, engine.publisher.replay_endpoint)
    leases = incarnation._listener.leases
    engine.publisher.answers = True
    await eventually(lambda: incarnation.believes_events)
    assert incarnation.alarms.texts() == ()
    assert incarnation._listener.leases > leases


async def test_an_engine_without_replays_says_so(engine, follow, eventually):
    """It is believed, since what is lost empties the mirror, but an operator should know."""
    await engine.renew_publisher(replay=False)
    incarnation = await follow()
    await eventually(lambda: incarnation.believes_events)
    assert _says(incarnation, "no replay_endpoint")


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "503"])
async def test_an_engine_that_publishes_lives(engine, follow, eventually, silent):
    """While KV events come, failed health checks say that it is busy; without events, that it is away. Events
    also bring it back.
    """
    incarnation = await follow()
    await eventually(lambda: incarnation.believes_events)

    async def publish_until(condition):
        while not condition():
            await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
            await asyncio.sleep(0.01)

    checks = engine.health_checks
    engine.answers.clear() if silent else setattr(engine, "healthy", False)
    await publish_until(lambda: engine.health_checks > checks + 4)
    assert incarnation.reachable
    await eventually(lambda: not incarnation.reachable)
    assert _says(incarnation, "does not answer")
    await publish_until(lambda: incarnation.reachable)
    assert incarnation.alarms.texts() == ()
    engine.healthy, checks = True, engine.health_checks
    engine.answers.set()
    await eventually(lambda: engine.health_checks > checks + 2)
    assert incarnation.reachable
    assert not incarnation.task.done()


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_engine_that_sleeps_holds_what_it_did_not_discard(engine, follow, eventually, level):
    """From level 1 on its blocks are gone at once, though it says so only with its first step after it."""
    incarnation = await follow()
    await eventually(lambda: incarnation.believes_events)
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: len(incarnation.mirror.owned()) == 1)
    engine.sleep_level = level
    await eventually(lambda: incarnation.gauges.asleep)
    assert len(incarnation.mirror.owned()) == (0 if level else 1)
    engine.sleep_level = None
    await eventually(lambda: not incarnation.gauges.asleep)
    await engine.publisher.publish({"type": "AllBlocksCleared"}, engine.stored([2], None, TOKENS[4:8]))
    await eventually(lambda: len(incarnation.mirror.owned()) == 1)
    assert not incarnation.task.done()


async def test_engine_that_pauses_is_asked(engine, follow, eventually):
    """Where it offers ``/is_sleeping``: pauses are in no metric."""
    engine.paused = True
    incarnation = await follow()
    assert incarnation.gauges.asleep
    engine.paused = False
    await eventually(lambda: not incarnation.gauges.asleep)
    engine.paused = True
    await eventually(lambda: incarnation.gauges.asleep)


async def test_names_are_read_with_every_reading(engine, follow, eventually):
    """An adapter that was just loaded is announced before the next discovery."""
    incarnation = await follow(rediscover_seconds=60)
    leases = incarnation._listener.leases
    engine.adapters.append("lora-b")
    await eventually(lambda: incarnation.description.names.adapters == ("lora-a", "lora-b"))
    assert incarnation._listener.leases > leases


async def test_events_on_all_interfaces_are_an_alarm(engine, follow):
    """Whoever reaches them reads the tokens of prompts."""
    engine.publisher.endpoint = "tcp://*:1"
    incarnation = await follow()
    assert _says(incarnation, "open to the network")


async def test_another_block_size_is_taken_from_events(engine, follow, eventually):
    """Events know it better than metrics do: keys are theirs, and an alarm tells both sizes for a while."""
    incarnation = await follow(alarm_seconds=0.3)
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:8], block_size=8))
    await eventually(lambda: len(incarnation.mirror) == 1)
    assert incarnation.block_size == 8
    assert _says(incarnation, "blocks of 8 tokens, the engine's metrics say 4")
    assert incarnation._listener.replaced == 1
    await eventually(lambda: not incarnation.alarms.texts())


async def test_two_block_sizes_are_an_alarm(engine, follow, eventually):
    """Once blocks are published, those of another size are left out; the alarm ends when no more come."""
    incarnation = await follow(alarm_seconds=0.3)
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await engine.publisher.publish(engine.stored([2], None, TOKENS[:8], block_size=8))
    await eventually(lambda: _says(incarnation, "1 blocks of 8 instead of 4 tokens"))
    assert len(incarnation.mirror) == 1
    assert incarnation.believes_events
    await eventually(lambda: not incarnation.alarms.texts())
    await engine.publisher.publish(engine.stored([2], None, TOKENS[:8], block_size=8))
    await eventually(lambda: _says(incarnation, "2 blocks of 8 instead of 4 tokens"))


async def test_contradictory_events_are_an_alarm_that_ends(engine, follow, eventually):
    """Events that contradict themselves are counted and told for as long as they come."""
    incarnation = await follow(alarm_seconds=0.3)
    await engine.publisher.publish(engine.stored([1, 2], None, TOKENS))
    await eventually(lambda: _says(incarnation, "2 blocks in contradictory"))
    await eventually(lambda: not incarnation.alarms.texts())
    await engine.publisher.publish(engine.stored([3], None, TOKENS[:4]))
    await eventually(lambda: len(incarnation.mirror) == 1)
    assert incarnation.alarms.texts() == ()


async def test_unknown_events_are_an_alarm_that_ends(engine, follow, eventually):
    """Kinds of events of a later version are told for as long as they come."""
    incarnation = await follow(alarm_seconds=0.3)
    await engine.publisher.publish({"type": "BlockMoved"})
    await eventually(lambda: _says(incarnation, "kinds of KV events"))
    await eventually(lambda: not incarnation.alarms.texts())


async def test_orphans_are_an_alarm_until_their_parent_comes(engine, follow, eventually):
    """Blocks that wait are told; when none waits any more the alarm ends at once."""
    incarnation = await follow()
    await engine.publisher.publish(engine.stored([2], 1, TOKENS[4:8]))
    await eventually(lambda: _says(incarnation, "1 blocks follow blocks that were never announced"))
    await engine.publisher.publish(engine.stored([1], None, TOKENS[:4]))
    await eventually(lambda: len(incarnation.mirror) == 2)
    assert incarnation.alarms.texts() == ()


async def test_orphans_given_up_are_an_alarm_that_ends(engine, follow, eventually):
    """What was given up is over: it is told for a while only."""
    incarnation = await follow(alarm_seconds=0.3, max_parked_blocks=1)
    await engine.publisher.publish(*(engine.stored([n + 50], n, TOKENS[:4]) for n in range(3)))
    await eventually(lambda: _says(incarnation, "3 blocks follow"))
    await eventually(lambda: not incarnation.alarms.texts())


async def test_tokenizer_files_that_appear_are_read(engine, follow, eventually, tmp_path):
    """All keys depend on them, so that they make it another incarnation."""
    model, engine.model = engine.model, tmp_path / "model"
    incarnation = await follow(fingerprint="")
    assert _says(incarnation, "no tokenizer files")
    shutil.copytree(model, engine.model)
    assert tokenizer_fingerprint(engine.model)
    await eventually(incarnation.task.done)
    with pytest.raises(IncarnationOverError, match="can be read now"):
        incarnation.task.result()
