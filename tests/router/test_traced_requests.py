"""Requests through a router that sends traces."""

import asyncio

import pytest

from tests.router.collector import running_collector
from tests.router.test_requests import CHAT, STREAM
from tests.waiting import eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"}


@pytest.fixture
def collector():
    """A collector that runs."""
    with running_collector() as collector:
        yield collector


@pytest.fixture
async def traced(start_router, engines, collector, monkeypatch):
    """A router that sends what it traces at once, before one engine."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    router = await start_router(
        engines[0], otlp_endpoint=collector.url, otlp_sample=0.0, failed_replica_seconds=0.2
    )
    await router.settled()
    return router


async def test_the_client_the_router_and_the_engine_share_a_trace(traced, engines, collector):
    """The router's span lies under the client's, the engine is told to put its own under the router's, and
    the stages lie inside.
    """
    async with traced.post(STREAM, headers=CLIENTS) as response:
        await response.read()
    await eventually(lambda: len(collector.spans) == 5)
    spans = {span.name: span for span in collector.spans}
    whole = spans.pop("POST /v1/chat/completions")
    assert spans.keys() == {"render_and_tokenise", "decide", "upstream_first_byte", "stream"}
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (whole.trace_id, whole.span_id)
        assert whole.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= whole.end_time_unix_nano
    sent = engines[0].exchanges[0].headers
    assert sent["traceparent"] == f"00-{TRACE}-{whole.span_id.hex()}-01"
    assert sent["tracestate"] == "vendor=opaque"
    values = {each.key: each.value for each in whole.attributes}
    assert values["warmroute.replica"].string_value == "a"
    assert values["gen_ai.usage.input_tokens"].int_value == 15
    assert values["gen_ai.usage.cache_read.input_tokens"].int_value == 4


async def test_what_is_not_sampled_is_only_passed_on(traced, engines, collector):
    """The engine hears of a trace that is not recorded; the collector hears nothing."""
    async with traced.post(CHAT) as response:
        assert response.status == 200
    assert engines[0].exchanges[0].headers["traceparent"].endswith("-00")
    await asyncio.sleep(0.2)
    assert not collector.requests


async def test_a_refused_request_is_traced_too(traced, collector):
    """It never came to a decision."""
    async with traced.post({"model": "nobody"}, headers=CLIENTS) as response:
        assert response.status >= 400
        status = response.status
    await eventually(lambda: collector.spans)
    [span] = collector.spans
    assert {each.key: each.value for each in span.attributes}["http.response.status_code"].int_value == status
