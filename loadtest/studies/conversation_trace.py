"""A closed trace of multi-turn conversations: the same for every run with the same seed.

Each user holds conversations one after the other and thinks before every turn. Conversations share a few
system prompts. What a user says, how long it thinks and which router its turn goes to are drawn in advance;
answers are the engines' own.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from loadtest.harness.chat_answers import Reply, RequestFailedError
from loadtest.harness.chat_client import ChatClient
from loadtest.harness.processes import MODEL_NAME
from loadtest.studies.conversations import words

SYSTEM_WORDS = 400
QUESTION_WORDS = (60, 240)
TURNS = (2, 6)


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """What a user does next."""

    think_seconds: float
    question: str
    draw: float
    """Which of the routers it goes to, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class ScriptedConversation:
    """One conversation, without the answers."""

    system: str
    turns: tuple[ScriptedTurn, ...]


Script = tuple[ScriptedConversation, ...]
"""All conversations of one user."""


def write_scripts(
    num_users: int, turns_per_user: int, num_systems: int, think_seconds: float, seed: int
) -> list[Script]:
    """Scripts of all users. All have as many turns, so that they end at about the same time."""
    source = random.Random(seed)
    systems = [f"Product {number}. " + words(SYSTEM_WORDS, source) for number in range(num_systems)]

    def turn() -> ScriptedTurn:
        question = words(source.randint(*QUESTION_WORDS), source)
        return ScriptedTurn(source.expovariate(1 / think_seconds), question, source.random())

    def script() -> Script:
        conversations, left = [], turns_per_user
        while left:
            count = min(left, source.randint(*TURNS))
            turns = tuple(turn() for _ in range(count))
            conversations.append(ScriptedConversation(source.choice(systems), turns))
            left -= count
        return tuple(conversations)

    return [script() for _ in range(num_users)]


@dataclass(slots=True)
class Played:
    """What became of all turns."""

    turns: list[Reply] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


async def play(
    scripts: Sequence[Script], session: aiohttp.ClientSession, routers: Sequence[str], max_tokens: int
) -> Played:
    """Hold all conversations, each turn through the router that it drew."""
    played = Played()
    clients = [ChatClient(session, url) for url in routers]
    await asyncio.gather(*(_play_user(script, clients, max_tokens, played) for script in scripts))
    return played


async def _play_user(script: Script, clients: Sequence[ChatClient], max_tokens: int, played: Played) -> None:
    for conversation in script:
        messages = [{"role": "system", "content": conversation.system}]
        for turn in conversation.turns:
            await asyncio.sleep(turn.think_seconds)
            messages.append({"role": "user", "content": turn.question})
            client = clients[int(turn.draw * len(clients))]
            try:
                answer = await client.ask(MODEL_NAME, messages, max_tokens)
            except RequestFailedError as error:
                played.errors[str(error)] += 1
                break
            played.turns.append(answer)
            messages.append({"role": "assistant", "content": answer.text})
