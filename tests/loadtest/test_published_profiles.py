"""The presets for H100s are what the fit makes of NVIDIA's published measurements.

Source: rows with H100_80GB_HBM3 and fp8 of ``dataset/nim.csv`` in
github.com/wbing520/ai-performance-engineering, code/ch10_inference/inference_gpu_cluster_sizing. Left out is
what did not fit into the KV cache at once.
"""

from collections.abc import Mapping

import numpy as np
import pytest

from loadtest.simulator.profiles import PROFILES
from loadtest.studies.fit_profile import COEFFICIENTS, Sample, first_token, fit

MAX_BATCHED_TOKENS = 8_192

Loops = Mapping[tuple[int, int], Mapping[int, float]]
"""Prompt and answer tokens; how many requests are open at all times; their mean latency in seconds."""

LOOPS_8B: Loops = {
    (7_000, 1_000): {1: 7.5920, 2: 7.7754, 5: 10.8988, 10: 15.6862, 25: 24.9291, 50: 41.5412, 100: 75.2782},
    (2_000, 200): {1: 1.1923, 2: 1.2362, 5: 1.5310, 10: 1.9242, 25: 2.8245, 50: 4.4750, 100: 7.6614}
    | {150: 11.0803, 200: 14.4480, 250: 17.7943},
    (200, 200): {1: 1.0267, 2: 1.0454, 5: 1.1334, 10: 1.1920, 25: 1.3333, 50: 1.6491, 100: 2.3194}
    | {150: 3.1246, 200: 3.7567, 250: 4.4630},
}
FIRST_TOKENS_8B = {7_000: 0.12952, 2_000: 0.034683, 200: 0.0088732}

LOOPS_70B: Loops = {
    (7_000, 1_000): {1: 19.8215, 2: 20.4393, 5: 21.7848, 10: 30.4013, 25: 30.5448, 50: 41.8117, 100: 71.2965},
    (2_000, 200): {1: 3.1699, 2: 3.3170, 5: 3.6446, 10: 4.6255, 25: 5.8770, 50: 8.5994, 100: 14.5514}
    | {150: 20.8904, 200: 26.2409, 250: 31.5760},
    (200, 200): {1: 2.7600, 2: 2.8282, 5: 2.9111, 10: 3.1768, 25: 3.4706, 50: 3.9259, 100: 5.3874}
    | {150: 7.0132, 200: 7.4618, 250: 8.1999},
}
FIRST_TOKENS_70B = {7_000: 0.38047, 2_000: 0.11200, 200: 0.027538}


def closed_loop(prompt: int, answer: int, concurrency: int, seconds: float) -> Sample:
    """While one request is answered, the engine takes ``answer`` steps, and answers all the others too."""
    decoded = concurrency * (answer - 1)
    context = prompt + answer / 2
    terms = (answer, concurrency * prompt, decoded, concurrency * prompt**2 / 2, decoded * context, 0)
    return Sample(f"{concurrency} x {prompt}/{answer}", seconds, terms)


@pytest.mark.parametrize(
    ("name", "loops", "first_tokens", "r_squared", "median_error"),
    [
        ("h100-llama-3.1-8b", LOOPS_8B, FIRST_TOKENS_8B, 0.99, 0.041),
        ("h100x4-llama-3.1-70b", LOOPS_70B, FIRST_TOKENS_70B, 0.98, 0.033),
    ],
)
def test_presets_are_fits_to_published_measurements(
    name: str, loops: Loops, first_tokens: Mapping[int, float], r_squared: float, median_error: float
) -> None:
    """Each coefficient is the fit's within 1%, and the fit is as good as its comment says."""
    samples = [first_token(length, seconds, MAX_BATCHED_TOKENS) for length, seconds in first_tokens.items()]
    for (prompt, answer), latencies in loops.items():
        samples += [closed_loop(prompt, answer, count, seconds) for count, seconds in latencies.items()]
    fitted = fit(samples)
    for coefficient in COEFFICIENTS[:-1]:
        assert getattr(PROFILES[name], coefficient) == pytest.approx(
            fitted.coefficients[coefficient], rel=0.01
        )
    assert fitted.r_squared > r_squared
    assert float(np.median(np.abs(fitted.errors))) < median_error
