"""Plays a simulator's workload against a real router over HTTP, in real time.

Prompts are sent as token ids, a block of them for each key; answers are the engines' own.
"""

import asyncio
import hashlib
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec
import xxhash

from cluster.prompts.tokenizer import PromptTokenizer
from loadtest.harness.chat_answers import RequestFailedError
from loadtest.harness.chat_client import ChatClient
from loadtest.harness.processes import MODEL_NAME
from loadtest.simulator.workload import Session, Turn, Workload

CONVERSATION_TOKENS = 512
"""How many tokens of a prompt stand for its conversation: `router.requests.schema.parse_completion`."""
LAG_EVERY_SECONDS = 0.01

Place = tuple[int, int]
"""Numbers of a session in its workload, and of a turn in its session."""


class TokenTexts:
    """The tokens behind block keys: those of an answer as it came, all others made up from the key."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._answered: dict[int, Sequence[int]] = {}

    def prompt(self, turn: Turn, place: Place) -> list[int]:
        """The token ids of a turn's prompt. What follows its last full block is unlike everything else."""
        num_full = turn.prompt_tokens // self._block_size
        tokens = [token for key in turn.keys[:num_full] for token in self._block(key)]
        tail = _made_up(repr(place).encode(), turn.prompt_tokens - len(tokens))
        return [*tokens, *tail]

    def answer(self, turn: Turn, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Learn what the blocks hold that an answer has filled."""
        size, tokens = self._block_size, [*prompt, *answer]
        for block in range(len(prompt) // size, len(turn.keys)):
            self._answered[turn.keys[block]] = tokens[block * size : (block + 1) * size]

    def _block(self, key: int) -> Sequence[int]:
        return self._answered.get(key) or _made_up(key.to_bytes(8, "little"), self._block_size)


def _made_up(seed: bytes, count: int) -> Sequence[int]:
    """Token ids of no vocabulary: simulated engines never look at what they mean."""
    return array("H", hashlib.shake_128(seed).digest(2 * count))


def conversation_key(tokens: Sequence[int]) -> int:
    """The key of a conversation, as the router computes it for a prompt of token ids."""
    return xxhash.xxh3_64_intdigest(msgspec.json.encode(tokens[:CONVERSATION_TOKENS]))


@dataclass(slots=True)
class Played:
    """What came of all turns that were really sent."""

    ttfts: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    conversation_keys: dict[Place, int] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    lags: list[float] = field(default_factory=list)
    """Seconds by which this process's event loop woke too late."""


class Player:
    """Sends a workload's turns to a router in real time."""

    def __init__(self, session: aiohttp.ClientSession, router: str, tokenizer: PromptTokenizer) -> None:
        self._client = ChatClient(session, router)
        self._tokenizer = tokenizer
        self._num_probes = 0

    async def probe(self, prompt_tokens: int) -> float:
        """Seconds to the first token of a prompt of this length that nobody has sent before."""
        self._num_probes += 1
        prompt = _made_up(f"probe {self._num_probes}".encode(), prompt_tokens)
        return (await self._client.complete(MODEL_NAME, list(prompt), 1)).first_token

    async def play(self, workload: Workload) -> Played:
        """Hold all sessions, to the last answer."""
        played, texts = Played(), TokenTexts(workload.block_size)
        lagging = asyncio.create_task(_watch_lag(played.lags))
        begin = time.perf_counter()
        await asyncio.gather(
            *(
                self._hold(number, session, begin, texts, played)
                for number, session in enumerate(workload.sessions)
            )
        )
        lagging.cancel()
        return played

    async def _hold(
        self, number: int, session: Session, begin: float, texts: TokenTexts, played: Played
    ) -> None:
        await asyncio.sleep(begin + session.start - time.perf_counter())
        for index, turn in enumerate(session.turns):
            await asyncio.sleep(turn.think_seconds)
            prompt = texts.prompt(turn, (number, index))
            played.conversation_keys[number, index] = conversation_key(prompt)
            try:
                reply = await self._client.complete(MODEL_NAME, prompt, turn.output_tokens)
            except RequestFailedError as error:
                played.errors[str(error)] += 1
                return
            played.ttfts.append(reply.first_token)
            played.prompt_tokens += reply.prompt_tokens
            played.cached_tokens += reply.cached_tokens or 0
            if index + 1 < len(session.turns):
                answer = self._tokenizer.completion(reply.text, add_special_tokens=False).token_ids
                if len(answer) != turn.output_tokens:
                    played.errors["an answer's text does not lead back to its tokens"] += 1
                texts.answer(turn, prompt, answer)


async def _watch_lag(lags: list[float]) -> None:
    while True:
        planned = time.perf_counter() + LAG_EVERY_SECONDS
        await asyncio.sleep(LAG_EVERY_SECONDS)
        lags.append(time.perf_counter() - planned)
