"""A fixed rate of requests, whether answers come or not (open loop), and what became of each.

python -m loadtest.studies.steady --router http://127.0.0.1:8000 --rate 50 --seconds 60 --prompt-tokens 1500
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.harness.chat_answers import RequestFailedError
from loadtest.harness.chat_client import ChatClient, open_session
from loadtest.harness.measure import percentile
from loadtest.studies.conversations import words

app = typer.Typer(pretty_exceptions_enable=False)

REQUEST_SECONDS = 60.0
TOKENS_PER_WORD = 1.35
"""Tokens of a word in `loadtest.studies.conversations`, with SmolLM2's tokenizer."""


@dataclass(slots=True)
class Outcome:
    """Everything that was measured."""

    ttfts: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    replicas: Counter[str] = field(default_factory=Counter)
    lags: list[float] = field(default_factory=list)
    """Seconds by which requests were sent later than planned: the generator's own lag."""


async def _one(client: ChatClient, model: str, text: str, max_tokens: int, outcome: Outcome) -> None:
    try:
        reply = await client.ask(model, [{"role": "user", "content": text}], max_tokens)
    except RequestFailedError as error:
        outcome.errors[str(error)] += 1
        return
    outcome.ttfts.append(reply.first_token)
    outcome.replicas[reply.replica] += 1


async def run(
    router: str,
    model: str,
    rate: float,
    seconds: float,
    prompt_tokens: int,
    conversations: int,
    max_tokens: int,
    seed: int = 1,
) -> Outcome:
    """Send ``rate`` requests a second, each continuing one of the conversations' prompts."""
    source = random.Random(seed)
    count = round(prompt_tokens / TOKENS_PER_WORD)
    prompts = [words(count, source) for _ in range(conversations)]
    outcome = Outcome()
    total = round(rate * seconds)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=total)
        async with open_session(REQUEST_SECONDS) as session, asyncio.TaskGroup() as tasks:
            client = ChatClient(session, router)
            begin = time.perf_counter()
            for number in range(total):
                planned = begin + number / rate
                await asyncio.sleep(max(0.0, planned - time.perf_counter()))
                outcome.lags.append(time.perf_counter() - planned)
                text = f"{source.choice(prompts)} {number}"
                tasks.create_task(_one(client, model, text, max_tokens, outcome))
                progress.advance(task)
    return outcome


@app.command()
def main(
    router: str = "http://127.0.0.1:8000",
    model: str = "SmolLM2-135M-Instruct",
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 50.0,
    seconds: float = 60.0,
    prompt_tokens: int = 1500,
    conversations: Annotated[int, typer.Option(help="Distinct prompts that requests repeat.")] = 64,
    max_tokens: int = 16,
) -> None:
    """Print errors, TTFT, and the generator's own lag; exit with 1 when a request failed."""
    outcome = asyncio.run(run(router, model, rate, seconds, prompt_tokens, conversations, max_tokens))
    console = Console()
    if outcome.ttfts:
        console.print(
            f"{len(outcome.ttfts)} answered; TTFT p50 {percentile(outcome.ttfts, 50) * 1000:.0f} ms, "
            f"p99 {percentile(outcome.ttfts, 99) * 1000:.0f} ms; "
            f"generator's lag p99 {percentile(outcome.lags, 99) * 1000:.1f} ms"
        )
    console.print(f"requests per replica: {dict(sorted(outcome.replicas.items()))}")
    console.print(f"errors: {dict(outcome.errors) or 'none'}")
    raise SystemExit(1 if outcome.errors else 0)


if __name__ == "__main__":
    app()
