"""Multi-turn conversations with a shared system prompt, the same for every router named, side by side.

    python -m loadtest.studies.conversations --router warm=http://127.0.0.1:8000 --router rr=http://127.0.0.1:8001

Each router gets its own conversations, which differ from the others' in their first words, so that none
finds the blocks of another. Turn by turn, first all conversations of the first router, then those of the
second, and so on.
"""

import asyncio
import random
import secrets
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest.harness.chat_answers import Reply
from loadtest.harness.chat_client import ChatClient, open_session
from loadtest.harness.measure import percentile
from loadtest.scenarios.script import Message

app = typer.Typer(pretty_exceptions_enable=False)

WORDS = """
order refund parcel invoice account password delivery warranty return battery charger screen manual agent
policy customer support question answer device update product repair store price stock colour
""".split()  # noqa: SIM905 - as a list it would fill thirty lines
WORDS_PER_SYSTEM_PROMPT = 800
WORDS_PER_QUESTION = 40
REQUEST_SECONDS = 600.0


@dataclass(slots=True)
class Conversation:
    """One user's conversation so far."""

    messages: list[Message]
    turns: list[Reply] = field(default_factory=list)


@dataclass(slots=True)
class Contestant:
    """One router and the conversations it serves."""

    name: str
    client: ChatClient
    conversations: list[Conversation]


def words(count: int, source: random.Random) -> str:
    """That many words that mean nothing."""
    return " ".join(source.choice(WORDS) for _ in range(count))


def possible_tokens(previous: Reply, turn: Reply, block_size: int) -> int:
    """Most prompt tokens of a turn that its conversation's own last turn can have left in a cache, in full
    blocks.

    The last token of an answer is sampled but never computed; the last token of a prompt is always computed.
    """
    left = previous.prompt_tokens + previous.output_tokens - 1
    return min(left // block_size, (turn.prompt_tokens - 1) // block_size) * block_size


async def compare(
    routers: dict[str, str],
    model: str,
    num_conversations: int,
    num_turns: int,
    concurrency: int,
    max_tokens: int,
    seed: int,
) -> list[Contestant]:
    """Hold all conversations; at most ``concurrency`` turns are under way at once."""
    source = random.Random(seed)
    run = secrets.token_hex(4)
    slots = asyncio.Semaphore(concurrency)
    total = len(routers) * num_conversations * num_turns
    async with open_session(REQUEST_SECONDS) as session:
        contestants = []
        for name, url in routers.items():
            opening = f"Session {run} {name}. " + words(WORDS_PER_SYSTEM_PROMPT, source)
            conversations = [
                Conversation([{"role": "system", "content": opening}]) for _ in range(num_conversations)
            ]
            contestants.append(Contestant(name, ChatClient(session, url), conversations))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("turns", total=total)

            async def hold_turn(conversation: Conversation, client: ChatClient, question: str) -> None:
                async with slots:
                    conversation.messages.append({"role": "user", "content": question})
                    turn = await client.ask(model, conversation.messages, max_tokens)
                    conversation.turns.append(turn)
                    conversation.messages.append({"role": "assistant", "content": turn.text})
                    progress.advance(task)

            for _ in range(num_turns):
                for contestant in contestants:
                    order = source.sample(contestant.conversations, num_conversations)
                    questions = [words(WORDS_PER_QUESTION, source) for _ in order]
                    pairs = zip(order, questions, strict=True)
                    await asyncio.gather(*(hold_turn(one, contestant.client, text) for one, text in pairs))
    return contestants


def results(contestants: list[Contestant], block_size: int) -> Table:
    """One column per router."""
    table = Table("measure", *(contestant.name for contestant in contestants))
    rows = [_figures(contestant, block_size) for contestant in contestants]
    for measure in rows[0]:
        table.add_row(measure, *(row[measure] for row in rows))
    return table


def _figures(contestant: Contestant, block_size: int) -> dict[str, str]:
    turns = [turn for conversation in contestant.conversations for turn in conversation.turns]
    pairs = [
        (previous, turn)
        for conversation in contestant.conversations
        for previous, turn in zip(conversation.turns, conversation.turns[1:], strict=False)
    ]
    later = [turn.first_token for _, turn in pairs]
    first = [conversation.turns[0].first_token for conversation in contestant.conversations]
    possible = sum(possible_tokens(previous, turn, block_size) for previous, turn in pairs)
    delivered = sum(turn.cached_tokens or 0 for _, turn in pairs)
    stayed = sum(previous.replica == turn.replica for previous, turn in pairs)
    replicas = sorted({turn.replica for turn in turns})
    shares = ", ".join(str(sum(turn.replica == replica for turn in turns)) for replica in replicas)
    prompt = sum(turn.prompt_tokens for turn in turns)
    cached = sum(turn.cached_tokens or 0 for turn in turns)
    return {
        "turns": str(len(turns)),
        "turns per replica": shares,
        "later turns on the replica of the turn before": f"{stayed} of {len(pairs)}",
        "hit rate (delivered / prompt tokens), all turns": f"{cached / prompt:.1%}",
        "delivered / possible block for block, later turns": f"{delivered / max(possible, 1):.1%}",
        "TTFT of first turns p50 / p95, ms": _p50_p95(first),
        "TTFT of later turns p50 / p95, ms": _p50_p95(later),
    }


def _p50_p95(seconds: list[float]) -> str:
    return f"{percentile(seconds, 50) * 1000:.0f} / {percentile(seconds, 95) * 1000:.0f}"


@app.command()
def main(
    router: Annotated[list[str], typer.Option(help="NAME=URL; repeatable.")],
    model: str = "SmolLM2-135M-Instruct",
    conversations: int = 12,
    turns: int = 5,
    concurrency: int = 2,
    max_tokens: int = 64,
    block_size: Annotated[int, typer.Option(help="Tokens per KV block of the engines.")] = 128,
    seed: int = 1,
) -> None:
    """Hold the same kind of conversations through every router and print hit rate and TTFT."""
    routers = dict(pair.split("=", 1) for pair in router)
    contestants = asyncio.run(compare(routers, model, conversations, turns, concurrency, max_tokens, seed))
    Console().print(results(contestants, block_size))


if __name__ == "__main__":
    app()
