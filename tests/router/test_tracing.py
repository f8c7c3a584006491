"""Traces: what a collector is told of a request, and that nothing waits for it."""

import itertools
import sys
import time

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from cluster.errors import StartUpError
from cluster.settings import load_settings
from router.explain.misses import Reason
from router.history.record import RequestRecord
from router.http.sse import PromptTokensDetails, Usage
from router.observe import tracing as tracing_module
from router.observe.tracing import Tracing, send_to_collector
from router.settings import RouterSettings
from tests.router.collector import running_collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = {b"traceparent": f"00-{TRACE}-{PARENT}-01".encode(), b"tracestate": b"vendor=opaque,other=2"}
NOT_SAMPLED = {b"traceparent": f"00-{TRACE}-{PARENT}-00".encode()}


class Finished(InMemorySpanExporter):
    """Keeps spans, by name."""

    def by_name(self):
        """The spans so far; none may come twice."""
        names = [span.name for span in self.get_finished_spans()]
        assert len(names) == len(set(names))
        return {span.name: span for span in self.get_finished_spans()}


@pytest.fixture
def finished():
    """Where spans end up."""
    return Finished()


@pytest.fixture
def tracing(finished):
    """Traces every request."""
    return Tracing(SimpleSpanProcessor(finished), finished, 1.0, Resource({}))


def answered(**changes):
    """A request that took 2 s: 0.2 to arrive, 0.1 to prepare and decide, 0.4 held, 0.3 until its first byte,
    and 1 s of stream. And when it ended.
    """
    now = time.monotonic()
    record = RequestRecord("id-1", "/v1/chat/completions")
    values = {
        "started": now - 2.0,
        "tenant": "acme",
        "model": "m",
        "stream": True,
        "prompt_tokens": 1000,
        "prepare_seconds": 0.09,
        "decision_seconds": 0.01,
        "decided": now - 1.7,
        "held_seconds": 0.4,
        "sent": now - 1.3,
        "first_byte": now - 1.0,
        "replica": "r1",
        "reason": "warm",
        "expected_cached_tokens": 640,
        "available_cached_tokens": 800,
        "attempts": 1,
        "usage": Usage(1000, 50, PromptTokensDetails(600)),
        "misses": {Reason.COLD: 360, Reason.TAIL: 40},
        "status": 200,
        "outcome": "ok",
    }
    for name, value in {**values, **changes}.items():
        setattr(record, name, value)
    return record, now


def test_stages_follow_each_other_inside_the_request(tracing, finished):
    """One span of the server, and under it what the router did, end to start, at the time of day it was."""
    record, ended = answered()
    tracing.begin({}).finish(record, ended)
    found = finished.by_name()
    whole = found.pop("POST /v1/chat/completions")
    stages = ["render_and_tokenise", "decide", "queue", "upstream_first_byte", "stream"]
    assert list(found) == stages
    assert whole.kind is SpanKind.SERVER
    assert found["upstream_first_byte"].kind is SpanKind.CLIENT
    assert whole.end_time == pytest.approx(time.time_ns(), abs=1e9)
    assert whole.end_time - whole.start_time == pytest.approx(2e9, abs=1e3)
    for stage, seconds in zip(stages, (0.09, 0.01, 0.4, 0.3, 1.0), strict=True):
        span = found[stage]
        assert span.end_time - span.start_time == pytest.approx(seconds * 1e9, abs=1e3)
        assert span.parent.span_id == whole.context.span_id
        assert span.context.trace_id == whole.context.trace_id
    for before, after in itertools.pairwise(stages):
        assert found[after].start_time == pytest.approx(found[before].end_time, abs=1e3)
    assert found["stream"].end_time == whole.end_time


def test_a_request_that_never_came_to_a_decision(tracing, finished):
    """Has no spans of what did not happen."""
    record = RequestRecord("id", "/v1/completions", status=400, outcome="refused")
    tracing.begin({}).finish(record, time.monotonic())
    assert list(finished.by_name()) == ["POST /v1/completions"]
    attributes = finished.by_name()["POST /v1/completions"].attributes
    assert attributes["http.response.status_code"] == 400
    assert "warmroute.replica" not in attributes


def test_a_client_that_leaves_while_a_second_attempt_is_held(tracing, finished):
    """What was sent before belongs to another attempt: the queue lasts until the end."""
    record, ended = answered(attempts=1, first_byte=None, usage=None, outcome="cancelled")
    record.sent = record.decided - 0.1
    tracing.begin({}).finish(record, ended)
    found = finished.by_name()
    assert "upstream_first_byte" not in found
    assert found["queue"].end_time - found["queue"].start_time == pytest.approx(1.7e9, abs=1e3)


def test_no_stage_lies_outside_a_repeated_request(tracing, finished):
    """After failed attempts the preparation is shown where the request arrived."""
    record, ended = answered(attempts=3)
    tracing.begin({}).finish(record, ended)
    found = finished.by_name()
    whole = found["POST /v1/chat/completions"]
    assert found["render_and_tokenise"].start_time == whole.start_time
    assert all(
        whole.start_time <= span.start_time <= span.end_time <= whole.end_time for span in found.values()
    )


def test_attributes_explain_the_request(tracing, finished):
    """By the conventions for generative AI where they have a name, and nothing that is not a number or a
    name.
    """
    record, ended = answered()
    record.error = "secret text of somebody"
    tracing.begin({}).finish(record, ended)
    attributes = finished.by_name()["POST /v1/chat/completions"].attributes
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": pytest.approx(1.0),
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 50,
        "gen_ai.usage.cache_read.input_tokens": 600,
        "http.response.status_code": 200,
        "warmroute.request_id": "id-1",
        "warmroute.tenant": "acme",
        "warmroute.replica": "r1",
        "warmroute.reason": "warm",
        "warmroute.available_cached_tokens": 800,
        "warmroute.predicted_cached_tokens": 640,
        "warmroute.misses.cold": 360,
        "warmroute.misses.tail": 40,
    }
    assert {name: attributes[name] for name in expected} == expected
    assert not any("secret" in str(value) for value in attributes.values())


@pytest.mark.parametrize(("outcome", "status", "error"), [("failed", 502, "502"), ("broken", 200, "broken")])
def test_failures_are_errors(tracing, finished, outcome, status, error):
    """What failed, or broke off after a good status, is marked; the spans say how, in one word."""
    record, ended = answered(outcome=outcome, status=status)
    tracing.begin({}).finish(record, ended)
    whole = finished.by_name()["POST /v1/chat/completions"]
    assert whole.status.status_code is StatusCode.ERROR
    assert whole.attributes["error.type"] == error


def test_a_clients_trace_goes_on(tracing, finished):
    """Its span is the parent of ours, ours is the parent of the engine's, and its state is passed on."""
    trace = tracing.begin(CLIENTS)
    headers = trace.headers()
    version, trace_id, span_id, flags = headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert span_id != PARENT
    assert headers["tracestate"] == "vendor=opaque,other=2"
    trace.finish(*answered())
    whole = finished.by_name()["POST /v1/chat/completions"]
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert whole.parent.is_remote
    assert f"{whole.context.span_id:016x}" == span_id


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"nonsense",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        b"\xff" * 600,
    ],
)
def test_a_bad_trace_header_begins_a_new_trace(tracing, header):
    """What is no trace is neither continued nor passed on, nor is the state that came with it."""
    headers = tracing.begin({b"traceparent": header, b"tracestate": b"vendor=opaque"}).headers()
    assert TRACE not in headers["traceparent"]
    assert headers["traceparent"].endswith("-01")
    assert "tracestate" not in headers


def test_what_a_client_does_not_sample_is_not_sent(tracing, finished):
    """And the engine is told the same."""
    trace = tracing.begin(NOT_SAMPLED)
    assert trace.headers()["traceparent"].startswith(f"00-{TRACE}-")
    assert trace.headers()["traceparent"].endswith("-00")
    trace.finish(*answered())
    assert not finished.get_finished_spans()


def test_the_setting_samples_only_requests_without_a_trace(finished):
    """Of those it takes its share; a client's own decision stands."""
    for share, low, high in ((0.0, 0, 0), (0.25, 170, 330), (1.0, 1000, 1000)):
        tracing = Tracing(SimpleSpanProcessor(finished), finished, share, Resource({}))
        begun = [tracing.begin({}).headers()["traceparent"] for _ in range(1000)]
        assert low <= sum(header.endswith("-01") for header in begun) <= high
        assert len({header[3:35] for header in begun}) == 1000
        assert tracing.begin(CLIENTS).headers()["traceparent"].endswith("-01")
        assert tracing.begin(NOT_SAMPLED).headers()["traceparent"].endswith("-00")


@pytest.fixture
def collector():
    """A collector that runs."""
    with running_collector() as collector:
        yield collector


async def test_a_collector_gets_every_span(collector):
    """Over HTTP, in OpenTelemetry's protobuf, the last of them when the router stops."""
    tracing = send_to_collector(collector.url + "/", 1.0, "router-1")
    for _ in range(300):
        tracing.begin(CLIENTS).finish(*answered())
    await tracing.close()
    assert {path for path, _ in collector.requests} == {"/v1/traces"}
    sent = collector.spans
    assert len(sent) == 300 * 6
    assert collector.resource["service.name"] == "warmroute-router"
    assert collector.resource["service.instance.id"] == "router-1"
    whole = next(span for span in sent if span.name == "POST /v1/chat/completions")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    assert whole.trace_state == "vendor=opaque,other=2"
    values = {each.key: each.value for each in whole.attributes}
    assert values["gen_ai.usage.input_tokens"].int_value == 1000
    assert values["warmroute.replica"].string_value == "r1"
    child = next(span for span in sent if span.name == "decide" and span.parent_span_id == whole.span_id)
    assert child.trace_id == whole.trace_id


@pytest.mark.parametrize("hangs", [False, True], ids=["away", "hangs"])
async def test_a_collector_that_takes_nothing_stops_nobody(collector, monkeypatch, hangs):
    """Requests do not wait, the queue stays within its bound, closing takes its 2 s at most, and the log says
    what is wrong, once, and again at the end.
    """
    monkeypatch.setattr(tracing_module, "CLOSE_SECONDS", 0.2)
    tracing_module.TO_OUR_LOG._next = 0.0
    collector.answers.clear()
    url = collector.url if hangs else "http://127.0.0.1:1"
    with capture_logs() as logs:
        tracing = send_to_collector(url, 1.0, "router-1")
        began = time.monotonic()
        for _ in range(2000):
            tracing.begin({}).finish(*answered())
        closed = time.monotonic()
        await tracing.close()
        took = time.monotonic() - closed
    assert closed - began < 2.5
    assert took < 1.0
    assert len(tracing._processor._batch_processor._queue) <= tracing_module.QUEUED_SPANS
    assert {entry["event"] for entry in logs} == {"traces_dropped"}
    assert len(logs) <= 2


def test_without_the_packages_the_router_does_not_start(monkeypatch):
    """The error names the setting and what to install; without the setting nothing is missed."""
    monkeypatch.delitem(sys.modules, "opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto", None)
    assert load_settings(RouterSettings).otlp_endpoint == ""
    with pytest.raises(StartUpError, match=r"WARMROUTE_OTLP_ENDPOINT.*warmroute\[tracing\]"):
        load_settings(RouterSettings, otlp_endpoint="http://127.0.0.1:4318")


@pytest.mark.parametrize(
    ("name", "value"), [("otlp_endpoint", "collector:4318"), ("otlp_sample", 1.5), ("otlp_sample", -0.1)]
)
def test_bad_settings_are_named(name, value):
    """An address without a scheme, or a share beyond all, is refused at start-up."""
    with pytest.raises(StartUpError, match=f"WARMROUTE_{name.upper()}"):
        load_settings(RouterSettings, **{name: value})
