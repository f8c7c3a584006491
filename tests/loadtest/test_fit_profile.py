"""The fit of an engine profile: it recovers what made the times."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.simulator.profiles import EngineProfile
from loadtest.studies.fit_profile import Fit, Sample, first_token, fit, gaps_together, next_token

LENGTHS = (64, 256, 1024, 3072)
BATCHES = (1, 4, 16)
CONTEXTS = (128, 1024, 4096)
BUDGET = 2_048


def samples_of(profile: EngineProfile, request_seconds: float = 0.0) -> list[Sample]:
    """What an engine with this profile would have shown."""
    firsts = [
        first_token(
            length,
            request_seconds
            + -(-length // BUDGET) * profile.step_seconds
            + length * (profile.prefill_seconds + profile.prefill_context_seconds * length / 2),
            BUDGET,
        )
        for length in LENGTHS
    ]
    nexts = [
        next_token(
            batch,
            context,
            profile.step_seconds
            + batch * (profile.decode_seconds + profile.decode_context_seconds * context),
        )
        for batch, context in product(BATCHES, CONTEXTS)
    ]
    return firsts + nexts


def fitted_profile(fitted: Fit) -> EngineProfile:
    """With limits that play no part here."""
    return fitted.profile(num_blocks=100, max_batched_tokens=BUDGET, max_num_seqs=16)


@given(
    step=st.floats(1e-3, 1e-1),
    prefill=st.floats(1e-5, 1e-2),
    decode=st.floats(1e-5, 1e-2),
    prefill_context=st.floats(1e-9, 1e-6),
    decode_context=st.floats(1e-8, 1e-5),
    request=st.floats(0.0, 1e-2),
)
def test_exact_times_give_back_their_coefficients(
    step: float, prefill: float, decode: float, prefill_context: float, decode_context: float, request: float
) -> None:
    """Times without noise lead to the profile that made them, and to what HTTP added."""
    profile = EngineProfile(step, prefill, decode, prefill_context, decode_context, 100, BUDGET, 16)
    fitted = fit(samples_of(profile, request))
    assert fitted_profile(fitted).step_seconds == pytest.approx(step, rel=1e-3)
    assert fitted_profile(fitted).prefill_seconds == pytest.approx(prefill, rel=1e-2)
    assert fitted.predicted == pytest.approx([one.seconds for one in samples_of(profile, request)], rel=1e-4)
    assert fitted.r_squared == pytest.approx(1.0)


def test_noise_of_a_few_percent_moves_times_by_a_few_percent() -> None:
    """With 5% of noise the fitted profile still predicts the true times within 5% on average."""
    true = samples_of(EngineProfile(0.03, 0.002, 0.001, 3e-7, 2e-6))
    source = np.random.default_rng(1)
    noisy = [Sample(one.what, one.seconds * source.normal(1.0, 0.05), one.terms) for one in true]
    truth = np.array([one.seconds for one in true])
    assert np.abs(fit(noisy).predicted / truth - 1).mean() < 0.05


def test_no_coefficient_is_negative() -> None:
    """Times that fall with the context lead to a cost of 0, not to a gain."""
    falling = [
        next_token(batch, context, 0.1 - context * 1e-6) for batch, context in product((1, 8), CONTEXTS)
    ]
    assert min(fit(falling).coefficients.values()) == 0.0
    assert fit(falling).coefficients["decode_context_seconds"] == 0.0


def test_gaps_count_only_while_all_decode() -> None:
    """Tokens before the last answer has begun, or after the first has ended, say nothing of the batch."""
    early = [0.0, 1.0, 3.0, 5.0]
    late = [2.5, 3.5, 6.0]
    assert gaps_together([early, late]) == [2.0, 1.0]


def test_requests_that_never_meet_are_refused() -> None:
    """A batch whose answers came one after the other is an error, not a median of nothing."""
    with pytest.raises(SystemExit, match="2 requests never decoded at the same time"):
        gaps_together([[0.0, 1.0], [2.0, 3.0]])
