"""Fits an `EngineProfile` to a running engine.

    python -m loadtest.studies.fit_profile --engine-url http://127.0.0.1:8001

Measures an otherwise idle OpenAI-compatible engine: the time to the first token of prompts of different
lengths, and the time between tokens for different numbers and lengths of requests that decode together. No
prompt begins like another, so a prefix cache is of no use. The coefficients, none below 0, are those with the
smallest sum of squared relative errors.
"""

import asyncio
import itertools
import math
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import aiohttp
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from loadtest.simulator.profiles import EngineProfile

app = typer.Typer(pretty_exceptions_enable=False)

Matrix: TypeAlias = NDArray[np.float64]

REQUEST_SECONDS = 600.0
TOKEN_IDS = (1_000, 20_000)
"""Ordinary tokens in the vocabulary of every model in use."""
DECODED_TOKENS = 24
"""About as many tokens of each request are measured."""
COEFFICIENTS = (
    "step_seconds",
    "prefill_seconds",
    "decode_seconds",
    "prefill_context_seconds",
    "decode_context_seconds",
    "request_seconds",
)
"""The columns of `Sample.terms`. The last is no part of a profile: what HTTP adds to each request."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured time, and how often each coefficient is in it."""

    what: str
    seconds: float
    terms: tuple[float, ...]
    """One for each of `COEFFICIENTS`."""


def first_token(prompt_tokens: int, seconds: float, max_batched_tokens: int) -> Sample:
    """The time to the first token of one uncached prompt on an idle engine."""
    steps = -(-prompt_tokens // max_batched_tokens)
    terms = (steps, prompt_tokens, 0, prompt_tokens**2 / 2, 0, 1)
    return Sample(f"first token of {prompt_tokens:,}", seconds, terms)


def next_token(batch: int, context: float, seconds: float) -> Sample:
    """The time between two tokens while so many requests decode, each with ``context`` tokens before it."""
    return Sample(f"{batch} decoding at {context:,.0f}", seconds, (1, 0, batch, 0, batch * context, 0))


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients, and what they make of the samples."""

    coefficients: dict[str, float]
    """Seconds, by name."""
    predicted: Matrix
    """Seconds, one for each sample."""
    errors: Matrix
    """Predicted over measured, less 1."""
    r_squared: float
    """The share of the variance of the seconds that is explained."""

    def profile(self, num_blocks: int, max_batched_tokens: int, max_num_seqs: int) -> EngineProfile:
        """The profile of the engine that was measured."""
        return EngineProfile(
            step_seconds=self.coefficients["step_seconds"],
            prefill_seconds=self.coefficients["prefill_seconds"],
            decode_seconds=self.coefficients["decode_seconds"],
            prefill_context_seconds=self.coefficients["prefill_context_seconds"],
            decode_context_seconds=self.coefficients["decode_context_seconds"],
            num_blocks=num_blocks,
            max_batched_tokens=max_batched_tokens,
            max_num_seqs=max_num_seqs,
        )


def fit(samples: Sequence[Sample]) -> Fit:
    """Non-negative least squares over relative errors, so that short times count as much as long ones."""
    seconds = np.array([sample.seconds for sample in samples])
    terms = np.array([sample.terms for sample in samples])
    values = _non_negative_least_squares(terms / seconds[:, None], np.ones(len(samples)))
    predicted = terms @ values
    unexplained = float(((seconds - predicted) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum())
    coefficients = dict(zip(COEFFICIENTS, values.tolist(), strict=True))
    return Fit(coefficients, predicted, predicted / seconds - 1, 1 - unexplained)


def _non_negative_least_squares(matrix: Matrix, target: Matrix) -> Matrix:
    """With so few columns every set of those that are not 0 can be tried."""
    columns = matrix.shape[1]
    best, best_loss = np.zeros(columns), float(target @ target)
    for size in range(1, columns + 1):
        for kept in itertools.combinations(range(columns), size):
            scale = np.linalg.norm(matrix[:, kept], axis=0)
            if not scale.all():
                continue
            solution = np.linalg.lstsq(matrix[:, kept] / scale, target)[0] / scale
            loss = float(((matrix[:, kept] @ solution - target) ** 2).sum())
            if (solution >= 0).all() and loss < best_loss:
                best, best_loss = np.zeros(columns), loss
                best[list(kept)] = solution
    return best


@dataclass(frozen=True, slots=True)
class MeasurementPlan:
    """What is measured, and how often."""

    lengths: Sequence[int]
    """Tokens of the prompts whose first token is waited for."""
    batches: Sequence[int]
    """How many requests decode together."""
    contexts: Sequence[int]
    """Tokens of their prompts."""
    rounds: int


class Engine:
    """An engine under measurement, over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, seed: int) -> None:
        self._session = session
        self._url = url
        self._model = model
        self._random = random.Random(seed)

    async def token_times(self, prompt_tokens: int, max_tokens: int) -> list[float]:
        """Seconds from the sending of a new prompt to each event of its answer."""
        prompt = [self._random.randrange(*TOKEN_IDS) for _ in range(prompt_tokens)]
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "stream": True}
        times = []
        started = time.perf_counter()
        async with self._session.post(
            f"{self._url}/v1/completions", json={**body, "ignore_eos": True, "temperature": 0.0}
        ) as response:
            if response.status != 200:
                raise SystemExit(f"{response.status} {await response.text()}")
            async for line in response.content:
                if line.startswith(b"data: {"):
                    times.append(time.perf_counter() - started)
        return times

    async def step_seconds(self, batch: int, prompt_tokens: int) -> float:
        """Median seconds between tokens while all requests of a batch decode."""
        started = time.perf_counter()

        async def absolute_times() -> list[float]:
            offset = time.perf_counter() - started
            return [offset + at for at in await self.token_times(prompt_tokens, max_tokens)]

        max_tokens = num_decoded(batch)
        answers = await asyncio.gather(*(absolute_times() for _ in range(batch)))
        return statistics.median(gaps_together(answers))

    async def cached_tokens(self) -> int:
        """How many tokens the KV cache holds, as vLLM's metrics tell; 0 when they do not."""
        async with self._session.get(f"{self._url}/metrics") as response:
            text = await response.text()
        numbers = [re.search(rf'\b{name}="(\d+)"', text) for name in ("num_gpu_blocks", "block_size")]
        return math.prod(int(number[1]) if number else 0 for number in numbers)


def num_decoded(batch: int) -> int:
    """Tokens of each answer: the first prompts decode while the last are computed, and must outlast that."""
    return DECODED_TOKENS + 4 * batch


def gaps_together(answers: Sequence[Sequence[float]]) -> list[float]:
    """Seconds between tokens, from when the last answer has begun until the first one ends."""
    begin, end = max(times[0] for times in answers), min(times[-1] for times in answers)
    gaps = [
        after - before
        for times in answers
        for before, after in itertools.pairwise(times)
        if begin <= before and after <= end
    ]
    if not gaps:
        raise SystemExit(
            f"{len(answers)} requests never decoded at the same time: is the KV cache too small?"
        )
    return gaps


async def measure(
    engine: Engine, plan: MeasurementPlan, max_batched_tokens: int, console: Console
) -> list[Sample]:
    """All samples, each the median over rounds: what disturbs the machine for a while hits one round of all
    samples, and not all rounds of one.
    """
    await engine.token_times(min(plan.lengths), 2)
    times: dict[tuple[int, int], list[float]] = {}
    for number in range(plan.rounds):
        for length in plan.lengths:
            first = (await engine.token_times(length, 1))[0]
            times.setdefault((0, length), []).append(first)
        for batch, context in itertools.product(plan.batches, plan.contexts):
            times.setdefault((batch, context), []).append(await engine.step_seconds(batch, context))
        console.print(f"round {number + 1} of {plan.rounds} measured")
    samples = []
    for (batch, length), seconds in times.items():
        median = statistics.median(seconds)
        samples.append(
            next_token(batch, length + num_decoded(batch) / 2, median)
            if batch
            else first_token(length, median, max_batched_tokens)
        )
        console.print(f"{samples[-1].what}: {', '.join(map(_ms, sorted(seconds)))}")
    return samples


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def report(samples: Sequence[Sample], fitted: Fit) -> Table:
    """Measured and fitted times."""
    table = Table("sample", "measured", "fitted", "error")
    for sample, predicted, error in zip(samples, fitted.predicted, fitted.errors, strict=True):
        table.add_row(sample.what, _ms(sample.seconds), _ms(float(predicted)), f"{error:+.1%}")
    return table


async def _run(
    url: str, key: str, plan: MeasurementPlan, max_batched_tokens: int, seed: int, console: Console
) -> tuple[list[Sample], int]:
    """Samples, and the tokens of the KV cache."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    # An engine may close a connection just when it is used again: each request has its own.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        async with session.get(f"{url}/v1/models") as response:
            response.raise_for_status()
            model = (await response.json())["data"][0]["id"]
        engine = Engine(session, url, model, seed)
        return await measure(engine, plan, max_batched_tokens, console), await engine.cached_tokens()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


@app.command()
def main(
    engine_url: Annotated[str, typer.Option(help="Without /v1.")],
    api_key: Annotated[str, typer.Option(envvar="VLLM_API_KEY")] = "",
    lengths: Annotated[str, typer.Option(help="Prompt lengths, in tokens.")] = "64,256,512,1024,2048,3072",
    batches: Annotated[str, typer.Option(help="How many requests decode together.")] = "1,2,4,8",
    contexts: Annotated[str, typer.Option(help="Tokens of their prompts.")] = "128,1024,2048",
    rounds: int = 5,
    max_batched_tokens: Annotated[int, typer.Option(help="The engine's own, in tokens per step.")] = 2_048,
    max_num_seqs: Annotated[int, typer.Option(help="The engine's own.")] = 128,
    block_size: Annotated[int, typer.Option(help="The workloads', in tokens.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the prompts; 0 draws one.")] = 0,
) -> None:
    """Print what was measured, the coefficients, how well they fit, and the profile."""
    console = Console(highlight=False, soft_wrap=True)
    plan = MeasurementPlan(_numbers(lengths), _numbers(batches), _numbers(contexts), rounds)
    drawn = seed or random.getrandbits(32)
    samples, cached_tokens = asyncio.run(
        _run(engine_url.rstrip("/"), api_key, plan, max_batched_tokens, drawn, console)
    )
    fitted = fit(samples)
    console.print(report(samples, fitted))
    for name, value in fitted.coefficients.items():
        console.print(f"{name:24} {value:.3g}")
    errors = np.abs(fitted.errors)
    console.print(
        f"R^2 {fitted.r_squared:.4f}; error: median {np.median(errors):.1%}, largest {errors.max():.1%}"
    )
    console.print(fitted.profile(cached_tokens // block_size, max_batched_tokens, max_num_seqs))


if __name__ == "__main__":
    app()
