"""Every request of the list, sent straight to an engine and through a router: the answers are the same."""

import asyncio

import pytest

from tests.conformance.case_list import all_cases
from tests.conformance.comparison import Answer, compare, differences
from tests.conformance.front import router_before
from tests.conformance.meant import MEANT
from tests.conformance.vllm_engine import CONTEXT, vllm_engine
from tests.process_copies import ROOT
from tests.small_model import small_model
from workers.sim.engine import serve_engines
from workers.sim.settings import SimSettings

POOLED = (
    "/v1/embeddings",
    "/v2/embed",
    "/pooling",
    "/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
)
"""Paths that only an engine that pools has."""
SMALLER = ("--load-format", "dummy", "--hf-overrides", '{"num_hidden_layers": 2}')


async def all_differences(port, router, cases, at_once=1):
    """From an engine's answers."""
    found: list[str] = []
    free = asyncio.Semaphore(at_once)

    async def look(case):
        async with free:
            said = await asyncio.to_thread(compare, case, port, router.port)
            found.extend(f"{case.name}: {difference}: {case.request!s:.300}" for difference in said)

    await asyncio.gather(*map(look, cases))
    return "\n".join(found)


def test_there_are_enough_requests():
    """Names are unique, every family is in it, and every kind of difference that is meant is in use."""
    cases = all_cases()
    assert len(cases) >= 300
    assert len({case.name for case in cases}) == len(cases)
    assert {case.meant for case in cases} - {""} == {name for name, meant in MEANT.items() if meant.statuses}


def test_meant_differences_are_documented():
    """docs/conformance.md has them all, in the words of the table."""
    text = " ".join((ROOT / "docs" / "conformance.md").read_text().split())
    assert [name for name, meant in MEANT.items() if meant.reason not in text] == []


def test_any_difference_is_found():
    """What this suite could not see it could not find: another status, type, body, event or order."""
    stream = {"content-type": "text/event-stream"}
    one = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    same = [
        ((200, stream, one + one), (200, stream, one.replace(b'"a"', b'"aa"'))),
        ((200, {}, b'{"id":"a","x":1}'), (200, {}, b'{"x":1,"id":"b"}')),
    ]
    other = [
        ((200, {}, b"{}"), (201, {}, b"{}")),
        ((200, {"content-type": "a"}, b"{}"), (200, {"content-type": "b"}, b"{}")),
        ((200, {"metadata": "a"}, b"{}"), (200, {}, b"{}")),
        ((200, {}, b'{"id":"a"}'), (200, {}, b'{"id":null}')),
        ((200, {}, b'{"a":1}'), (200, {}, b'{"a":2}')),
        ((200, stream, one), (200, stream, one + b"data: [DONE]\n\n")),
        ((200, stream, one), (200, stream, one.replace(b'"a"', b'"b"'))),
        ((200, stream, one), (200, stream, one.replace(b'"index":0', b'"index":1'))),
    ]
    assert [pair for pair in same if [*differences(*(Answer(*answer) for answer in pair))]] == []
    assert [pair for pair in other if not [*differences(*(Answer(*answer) for answer in pair))]] == []


@pytest.mark.timeout(300)
async def test_router_answers_as_a_simulated_engine(tiny_model):
    """All differences are meant."""
    settings = SimSettings(
        model=tiny_model, served_model_name="m", max_model_len=CONTEXT, kv_events=False, step_ms=0.1
    )
    async with (
        serve_engines(settings) as [engine],
        router_before(engine.url, tiny_model) as router,
    ):
        assert await all_differences(int(engine.url.rpartition(":")[2]), router, all_cases(), at_once=8) == ""
        await router.drained()


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_router_answers_as_vllm(real_engine):
    """All differences are meant; ``python -m tests.conformance`` looks at all cases, for many minutes."""
    cases = [case for case in all_cases() if case.request.target not in POOLED][::6]
    async with router_before(f"http://127.0.0.1:{real_engine}", small_model()) as router:
        assert await all_differences(real_engine, router, cases) == ""
        await router.drained()


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_router_answers_as_vllm_that_pools(tmp_path):
    """All differences are meant, where vectors and scores are real."""
    cases = [case for case in all_cases() if case.request.target in POOLED]
    with vllm_engine(tmp_path / "engine.log", "--runner", "pooling", *SMALLER) as port:
        async with router_before(f"http://127.0.0.1:{port}", small_model()) as router:
            assert await all_differences(port, router, cases, at_once=4) == ""
            await router.drained()
