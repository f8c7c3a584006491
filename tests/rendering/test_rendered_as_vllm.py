"""The router's tokens are vLLM's own, or the router says beforehand that it does not know them."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings

from cluster.prompts.tokenizer import PromptTokenizer
from tests.integration.system import ROOT
from tests.rendering.chat_requests import REQUESTS
from tests.rendering.comparison import OPTIONS, Tally, compare
from tests.rendering.vllm_renderer import VllmRenderer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # of what vLLM imports
]

MODEL = ROOT / ".warmroute" / "models" / "SmolLM2-135M-Instruct"


@pytest.mark.parametrize("name", OPTIONS)
def test_random_requests_are_rendered_as_vllm_renders_them(name):
    """Over all fields that change prompts, in vLLM's own code without an engine."""
    if not MODEL.is_dir():
        pytest.skip("the small model is not set up")
    tokenizer, engine = PromptTokenizer(MODEL, options=OPTIONS[name]), VllmRenderer(MODEL, OPTIONS[name])
    tally = Tally()

    @settings(suppress_health_check=list(HealthCheck))
    @given(REQUESTS)
    def compare_one(body):
        asyncio.run(compare(tokenizer, engine, body, tally))
        assert not tally.differences, tally.differences.pop()

    compare_one()
    assert tally.outcomes["equal"] > 8, tally.outcomes
    assert tally.outcomes["equal"] > 3 * tally.outcomes["declared not exact"], tally.outcomes
