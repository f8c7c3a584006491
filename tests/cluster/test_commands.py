"""Commands of many tasks in few round trips, each with its own answer."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from cluster.errors import StoreRefusesError, StoreUnavailableError
from cluster.store.commands import MAX_PIPELINED, Commands
from cluster.store.store import connect


class Client:
    """Plays a client: answers with the command's number, and can be held up."""

    def __init__(self):
        self.round_trips = []
        self.error = None

    async def execute_command(self, *command):
        return (await self._answer([command]))[0]

    def pipeline(self, transaction):
        assert not transaction
        return Pipeline(self)

    async def _answer(self, commands):
        self.round_trips.append(len(commands))
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return [command[1] for command in commands]


class Pipeline:
    """Plays a pipeline."""

    def __init__(self, client):
        self._client = client
        self._commands = []

    def execute_command(self, *command):
        self._commands.append(command)

    async def execute(self, raise_on_error):
        assert not raise_on_error
        return await self._client._answer(self._commands)


async def test_one_command_goes_out_alone():
    """Nobody waits for company."""
    client = Client()
    assert await Commands.of(client).execute("ECHO", 7) == 7
    assert client.round_trips == [1]


async def test_commands_that_come_meanwhile_go_together():
    """Each gets its own answer, in order, and no round trip is larger than its bound."""
    client = Client()
    number = 2 * MAX_PIPELINED
    answers = await asyncio.gather(*(Commands.of(client).execute("ECHO", i) for i in range(number)))
    assert answers == list(range(number))
    assert len(client.round_trips) <= 3
    assert max(client.round_trips) == MAX_PIPELINED


async def test_lost_connection_reaches_everybody():
    """Nobody is left waiting, and the next command is sent again."""
    client = Client()
    client.error = RedisConnectionError("gone")
    calls = [Commands.of(client).execute("ECHO", i) for i in range(3)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3
    client.error = None
    assert await Commands.of(client).execute("ECHO", 1) == 1


async def test_task_that_gives_up_harms_nobody():
    """Its command may still be carried out; the others get their answers."""
    client = Client()
    first, second = (asyncio.create_task(Commands.of(client).execute("ECHO", i)) for i in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.integration
async def test_error_of_one_command_is_its_own(shared_redis):
    """A real pipeline in which one command is refused."""
    client = connect(shared_redis.url)
    commands = Commands.of(client)
    answers = await asyncio.gather(
        commands.execute("ECHO", "a"),
        commands.execute("ECHO", "b"),
        commands.execute("NONSENSE"),
        commands.execute("ECHO", "c"),
        return_exceptions=True,
    )
    assert [answers[0], answers[1], answers[3]] == [b"a", b"b", b"c"]
    assert isinstance(answers[2], StoreRefusesError)
    await client.aclose()


async def test_sender_that_is_cancelled_leaves_nobody_waiting():
    """Those that wait are told, and the next command goes out."""
    client = Client()
    ended = asyncio.Event()

    async def answers(self, commands):
        await asyncio.sleep(0)
        if not ended.is_set():
            ended.set()
            raise asyncio.CancelledError
        return [command[1] for command in commands]

    client._answer = answers.__get__(client)
    commands = Commands.of(client)
    async with asyncio.timeout(2):
        waiting = await asyncio.gather(
            *(commands.execute("ECHO", number) for number in range(3)), return_exceptions=True
        )
        assert [type(answer) for answer in waiting] == [StoreUnavailableError] * 3
        assert await commands.execute("ECHO", 7) == 7
