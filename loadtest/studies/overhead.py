"""What a router adds to the time to the first token of a warm turn: the same turn through it and without it.

    python -m loadtest.studies.overhead --router http://127.0.0.1:8000 --engine-api-key SECRET

The prompt is first sent through the router, so that one replica holds it. Then it is sent alternately
through the router and straight to that replica.
"""

import asyncio
import random
import secrets
import statistics
from typing import Annotated

import typer
from rich.console import Console

from cluster.operate.status import fetch_replicas
from loadtest.harness.chat_client import ChatClient, open_session
from loadtest.studies.conversations import words

app = typer.Typer(pretty_exceptions_enable=False)

REQUEST_SECONDS = 600.0


async def measure(
    router: str, model: str, engine_api_key: str, rounds: int, num_words: int, max_tokens: int
) -> tuple[list[float], list[float]]:
    """TTFT in seconds of each round, through the router and direct."""
    text = f"{secrets.token_hex(8)} " + words(num_words, random.Random(1))
    messages = [{"role": "user", "content": text}]
    async with open_session(REQUEST_SECONDS) as session:
        through = ChatClient(session, router)
        first = await through.ask(model, messages, max_tokens)
        replicas = (await fetch_replicas(router))["replicas"]
        url = next(replica["url"] for replica in replicas if replica["replica"] == first.replica)
        direct = ChatClient(session, url, engine_api_key)
        await direct.ask(model, messages, max_tokens)
        samples: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds):
            pairs = [(through, samples[0]), (direct, samples[1])]
            for client, ttfts in pairs if number % 2 else reversed(pairs):
                turn = await client.ask(model, messages, max_tokens)
                ttfts.append(turn.first_token)
                if turn.replica not in ("", first.replica) or not turn.cached_tokens:
                    raise SystemExit("the turn was not warm: is somebody else using these replicas?")
    return samples


@app.command()
def main(
    router: str = "http://127.0.0.1:8000",
    model: str = "SmolLM2-135M-Instruct",
    engine_api_key: Annotated[str, typer.Option(envvar="WARMROUTE_ENGINE_API_KEY")] = "",
    rounds: int = 30,
    num_words: Annotated[int, typer.Option("--words", help="Length of the prompt.")] = 1200,
    max_tokens: int = 4,
) -> None:
    """Print median TTFT through the router, direct, and the median of the differences."""
    through, direct = asyncio.run(measure(router, model, engine_api_key, rounds, num_words, max_tokens))
    difference = statistics.median(a - b for a, b in zip(through, direct, strict=True))
    Console().print(
        f"warm TTFT, median of {rounds} interleaved: "
        f"router {statistics.median(through) * 1000:.1f} ms, "
        f"direct {statistics.median(direct) * 1000:.1f} ms, "
        f"median difference {difference * 1000:.1f} ms"
    )


if __name__ == "__main__":
    app()
