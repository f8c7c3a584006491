"""The wire of KV events, and a stream of them from a publisher that loses, repeats, forgets and restarts."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest

from tests.workers.fake_engine import FakePublisher
from workers.errors import EventFormatError
from workers.events.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EventSource, decode_batch
from workers.events.kv_stream import (
    CaughtUp,
    EngineRestarted,
    EventsLost,
    KVEventStream,
    NotAnswering,
    Received,
    StreamLimits,
)

CLEARED = {"type": "AllBlocksCleared"}


def _encode(*events) -> bytes:
    return msgspec.msgpack.encode([12.5, list(events), 0])


def test_vllm_events_are_read():
    """Integer and byte hashes, with fields at their default left out."""
    stored = {
        "type": "BlockStored",
        "block_hashes": [2**64 - 1, b"\x01\x02"],
        "parent_block_hash": None,
        "token_ids": [1, 2],
        "block_size": 1,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [["salt"], None],
    }
    batch = decode_batch(
        _encode(stored, {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU"}, CLEARED)
    )
    first, second, third = batch.events
    assert batch.timestamp == 12.5
    assert isinstance(first, BlockStored)
    assert first.block_hashes == [2**64 - 1, b"\x01\x02"]
    assert first.extra_keys == [["salt"], None]
    assert isinstance(second, BlockRemoved)
    assert second.group_idx is None
    assert isinstance(third, AllBlocksCleared)


def test_what_later_versions_add_is_tolerated():
    """New fields are ignored, new kinds of events are counted, new elements of a batch do not matter."""
    removed = {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU", "colour": "blue"}
    payload = msgspec.msgpack.encode([1.0, [removed, {"type": "BlockMoved", "to": 3}], 0, "more"])
    batch = decode_batch(payload)
    assert len(batch.events) == 1
    assert batch.unknown == 1


def test_events_by_position_are_read():
    """Engines of before vLLM 0.20 send arrays, the tag first."""
    batch = decode_batch(
        _encode(["BlockStored", [1], None, [5, 6], 2, None], ["BlockRemoved", [1]], ["AllBlocksCleared"])
    )
    assert batch.events == [
        BlockStored(block_hashes=[1], parent_block_hash=None, token_ids=[5, 6], block_size=2),
        BlockRemoved(block_hashes=[1]),
        AllBlocksCleared(),
    ]


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", msgspec.msgpack.encode({"a": 1}), _encode(3), _encode({"type": "BlockStored"})]
)
def test_what_is_no_batch_is_refused(payload):
    """Garbage is an error of this package, whatever it is."""
    with pytest.raises(EventFormatError):
        decode_batch(payload)


class Listener:
    """Collects the outcomes of a stream."""

    def __init__(self, publisher: FakePublisher, check_seconds: float = 0.15) -> None:
        source = EventSource(0, publisher.endpoint, publisher.replay_endpoint, "kv")
        limits = StreamLimits(check_seconds, replay_timeout=0.2, queue=1000)
        self.stream = KVEventStream(source, limits)
        self.outcomes = []
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async with contextlib.aclosing(self.stream.outcomes()) as outcomes:
            async for outcome in outcomes:
                self.outcomes.append(outcome)

    @property
    def sequences(self) -> list[int]:
        return [outcome.sequence for outcome in self.outcomes if isinstance(outcome, Received)]

    def others(self) -> list:
        return [outcome for outcome in self.outcomes if not isinstance(outcome, Received)]

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def make():
    """Publishers and listeners that are closed at the end."""
    folder, opened = Path(tempfile.mkdtemp(prefix="kv")), []

    async def publisher(**options) -> FakePublisher:
        opened.append(FakePublisher(folder, **options))
        return opened[-1]

    async def listener(publisher: FakePublisher, **options) -> Listener:
        opened.append(Listener(publisher, **options))
        return opened[-1]

    publisher.listener = listener
    yield publisher
    for item in reversed(opened):
        await item.close()
    shutil.rmtree(folder)


async def test_a_stream_starts_with_all_that_is_buffered(make, eventually):
    """Replayed batches come first, then it is caught up, then live ones: each once and in order."""
    publisher = await make()
    for _ in range(5):
        await publisher.publish(CLEARED)
    listener = await make.listener(publisher)
    await eventually(lambda: CaughtUp() in listener.outcomes)
    await publisher.publish(CLEARED)
    await eventually(lambda: listener.sequences == [0, 1, 2, 3, 4, 5])
    assert listener.outcomes[5] == CaughtUp()
    assert len(listener.others()) == 1


async def test_gaps_are_filled(make, eventually):
    """Batches lost on the way are replayed before the one that showed it."""
    publisher = await make()
    listener = await make.listener(publisher)
    await eventually(lambda: listener.outcomes == [CaughtUp()])
    for number in range(10):
        await publisher.publish(CLEARED, drop=number in (0, 3, 4, 5, 9))
    await eventually(lambda: listener.sequences == list(range(10)))
    assert listener.others() == [CaughtUp()]


async def test_silence_is_checked(make, eventually):
    """A lost batch that no other follows is found."""
    publisher = await make()
    listener = await make.listener(publisher)
    await eventually(lambda: listener.outcomes == [CaughtUp()])
    await publisher.publish(CLEARED, drop=True)
    await eventually(lambda: listener.sequences == [0])


async def test_repeated_batches_are_ignored(make, eventually):
    """A batch that comes twice is one batch, and no restart."""
    publisher = await make()
    listener = await make.listener(publisher)
    await eventually(lambda: listener.outcomes == [CaughtUp()])
    await publisher.publish(CLEARED)
    await publisher.publish(CLEARED)
    await publisher.repeat(0)
    await publisher.repeat(1)
    await publisher.publish(CLEARED)
    await eventually(lambda: listener.sequences == [0, 1, 2])
    assert listener.others() == [CaughtUp()]


async def test_what_the_buffer_no_longer_has_is_lost(make, eventually):
    """The stream says which batches, and goes on behind them."""
    publisher = await make(buffer_steps=2)
    for _ in range(5):
        await publisher.publish(CLEARED)
    listener = await make.listener(publisher)
    await eventually(lambda: CaughtUp() in listener.outcomes)
    assert listener.outcomes[0] == EventsLost(0, 2)
    assert listener.sequences == [3, 4]
    for _ in range(4):
        await publisher.publish(CLEARED, drop=True)
    await publisher.publish(CLEARED)
    await eventually(lambda: listener.sequences == [3, 4, 8, 9] or listener.sequences[-1] == 9)
    lost = [outcome for outcome in listener.outcomes if isinstance(outcome, EventsLost)]
    seen = {number for loss in lost for number in range(loss.first, loss.last + 1)} | set(listener.sequences)
    assert seen == set(range(10)), "each batch is received or reported"


async def test_a_sequence_that_goes_back_is_another_process(make, eventually):
    """A restarted engine is noticed with its first batch, and ends the stream."""
    publisher = await make()
    for _ in range(3):
        await publisher.publish(CLEARED)
    listener = await make.listener(publisher)
    await eventually(lambda: CaughtUp() in listener.outcomes)
    await publisher.close()
    restarted = await make()
    await restarted.publish(CLEARED)
    await eventually(lambda: listener.outcomes[-1] == EngineRestarted())


async def test_a_restart_that_has_overtaken_is_noticed(make, eventually):
    """A new process that is further than the old one was gives itself away in the replay."""
    publisher = await make()
    for _ in range(3):
        await publisher.publish(CLEARED)
    listener = await make.listener(publisher)
    await eventually(lambda: CaughtUp() in listener.outcomes)
    await publisher.close()
    restarted = await make()
    for _ in range(6):
        await restarted.publish(CLEARED, drop=True)
    await restarted.publish(CLEARED)
    await eventually(lambda: listener.outcomes[-1] == EngineRestarted())
    assert listener.sequences == [0, 1, 2]


async def test_an_idle_restart_is_noticed(make, eventually):
    """A new process that has published nothing answers a replay with nothing."""
    publisher = await make()
    await publisher.publish(CLEARED)
    listener = await make.listener(publisher)
    await eventually(lambda: CaughtUp() in listener.outcomes)
    await publisher.close()
    await make()
    await eventually(lambda: listener.outcomes[-1] == EngineRestarted())


async def test_a_restart_that_has_come_just_as_far_is_noticed(make, eventually):
    """After a lost connection the engine is asked, before a batch with the expected number is believed."""
    publisher = await make()
    listener = await make.listener(publisher, check_seconds=60)
    await eventually(lambda: CaughtUp() in listener.outcomes)
    await publisher.publish(CLEARED)
    await eventually(lambda: listener.sequences == [0])
    await publisher.close()
    restarted = await make()
    await restarted.publish(CLEARED, drop=True)
    await asyncio.sleep(0.5)  # until the subscription is there again
    await restarted.publish(CLEARED)
    await eventually(lambda: listener.outcomes[-1] == EngineRestarted())
    assert listener.sequences == [0]


async def test_silent_replays_are_reported_once(make, eventually):
    """While nobody answers the stream keeps trying, and says when it works again."""
    publisher = await make()
    publisher.answers = False
    listener = await make.listener(publisher)
    await eventually(lambda: len(listener.outcomes) == 1)
    await asyncio.sleep(0.5)
    assert listener.outcomes == [NotAnswering(publisher.replay_endpoint)]
    publisher.answers = True
    await eventually(lambda: listener.outcomes[-1] == CaughtUp())


async def test_without_replay_a_gap_is_a_loss(make, eventually):
    """An engine without a replay endpoint is followed as well as it can be."""
    publisher = await make(replay=False)
    listener = await make.listener(publisher)
    await eventually(lambda: listener.outcomes == [CaughtUp()])
    await publisher.publish(CLEARED, drop=True)
    await asyncio.sleep(0.1)
    await publisher.publish(CLEARED)
    await eventually(lambda: listener.sequences == [1])
    assert EventsLost(0, 0) in listener.outcomes


async def test_an_unreadable_batch_is_a_loss(make, eventually):
    """One batch that cannot be decoded is reported as lost, with the reason, and the stream goes on."""
    publisher = await make()
    listener = await make.listener(publisher)
    await eventually(lambda: listener.outcomes == [CaughtUp()])
    await publisher.publish(payload=b"\xc1")
    await publisher.publish(CLEARED)
    await eventually(lambda: listener.sequences == [1])
    (loss,) = [outcome for outcome in listener.outcomes if isinstance(outcome, EventsLost)]
    assert (loss.first, loss.last) == (0, 0)
    assert "KV events" in loss.reason


async def test_a_replay_that_is_dropped_in_part_is_asked_for_again(make, eventually):
    """vLLM's replay socket queues 1,000 batches and drops the rest of 10,000."""
    publisher = await make()
    for _ in range(300):
        await publisher.publish(CLEARED)
    full = publisher.buffer
    holes = [full.__class__(item for item in full if item[0] < 100 or item[0] % 7 == 0), full]
    publisher.buffer = holes[0]
    listener = await make.listener(publisher)
    await eventually(lambda: len(listener.sequences) >= 100)
    publisher.buffer = full
    await eventually(lambda: listener.sequences == list(range(300)))
    assert not [outcome for outcome in listener.outcomes if isinstance(outcome, EventsLost)]
