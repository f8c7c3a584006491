"""The router's tokens are vLLM's own, or the router says beforehand that it does not know them."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings

from cluster.prompts.tokenizer import PromptTokenizer
from tests.rendering.chat_requests import REQUESTS
from tests.rendering.comparison import OPTIONS, Tally, compare
from tests.rendering.vllm_renderer import VllmRenderer
from tests.small_model import small_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # of what vLLM imports
]


@pytest.mark.parametrize("name", OPTIONS)
def test_random_requests_are_rendered_as_vllm_renders_them(name):
    """Over all fields that change prompts, in vLLM's own code without an engine."""
    model = small_model(weights=False)
    tokenizer, engine = PromptTokenizer(model, options=OPTIONS[name]), VllmRenderer(model, OPTIONS[name])
    tally = Tally()

    @settings(suppress_health_check=list(HealthCheck))
    @given(REQUESTS)
    def compare_one(body):
        asyncio.run(compare(tokenizer, engine, body, tally))
        assert not tally.differences, tally.differences.pop()

    compare_one()
    assert tally.outcomes["equal"] > 8, tally.outcomes
    assert tally.outcomes["equal"] > 3 * tally.outcomes["declared not exact"], tally.outcomes
