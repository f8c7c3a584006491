"""A request's trace for OpenTelemetry: its spans are made when it has ended, from the times in its record.

Imported only where ``WARMROUTE_OTLP_ENDPOINT`` is set, since it needs the packages of the extra ``tracing``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.history.record import RequestRecord
from router.requests.endpoints import ENDPOINTS
from router.requests.schema import TRACE_HEADERS, chosen_headers

QUEUED_SPANS = 8192
"""So many spans wait to be sent; beyond it the oldest are dropped."""
EXPORT_SECONDS = 10.0
"""Longest time for one batch, with repetitions."""
CLOSE_SECONDS = 2.0
LOG_SECONDS = 60.0
"""How often, at most, it is logged that traces cannot be sent."""

UNSET, FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)

log = structlog.get_logger()

Attributes = Mapping[str, str | bool | int | float]


@dataclass(slots=True)
class Trace:
    """One request's part of a trace: a span that continues the client's, if it came with one."""

    context: SpanContext
    parent: SpanContext | None
    tracing: Tracing

    def headers(self) -> dict[str, str]:
        """The headers by which the engine's spans belong under this one."""
        context = self.context
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        if not context.trace_state:
            return {"traceparent": parent}
        return {"traceparent": parent, "tracestate": context.trace_state.to_header()}

    def finish(self, record: RequestRecord, ended: float) -> None:
        """Queue the spans of a request that ended at that monotonic time, if it is sampled."""
        if self.context.trace_flags.sampled:
            self.tracing.emit(self, record, ended)


class Tracing:
    """Begins traces, and hands finished spans to a processor.

    Spans are made directly, and not by the SDK's tracer: all is known at once, nothing is added to a span
    later, and six spans cost 20-30 us instead of 170.
    """

    def __init__(
        self, processor: SpanProcessor, exporter: SpanExporter, sample: float, resource: Resource
    ) -> None:
        self._processor = processor
        self._exporter = exporter
        self._resource = resource
        self._sample_below = TraceIdRatioBased.get_bound_for_rate(sample)
        self._ids = RandomIdGenerator()
        self._propagator = TraceContextTextMapPropagator()
        self._scope = InstrumentationScope("warmroute")

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        """Continue the trace that a request's headers name, as sampled as it is, or begin a new one."""
        if "traceparent" in (given := chosen_headers(headers, TRACE_HEADERS)):
            parent = get_current_span(self._propagator.extract(given)).get_span_context()
            if parent.is_valid:
                return Trace(self._within(parent), parent, self)
        trace_id = self._ids.generate_trace_id()
        sampled = trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._sample_below
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return Trace(SpanContext(trace_id, self._ids.generate_span_id(), False, flags), None, self)

    def emit(self, trace: Trace, record: RequestRecord, ended: float) -> None:
        """Queue the spans of a finished request."""
        whole, to_wall_clock = trace.context, time.time_ns() - time.monotonic_ns()
        new_span = partial(ReadableSpan, resource=self._resource, instrumentation_scope=self._scope)
        for name, began, stage_ended in _stages(record, ended):
            stage = new_span(
                name,
                self._within(whole),
                whole,
                kind=SpanKind.CLIENT if name == "upstream_first_byte" else SpanKind.INTERNAL,
                status=UNSET,
                start_time=int(began * 1e9) + to_wall_clock,
                end_time=int(stage_ended * 1e9) + to_wall_clock,
            )
            self._processor.on_end(stage)
        request = new_span(
            f"POST {record.path}",
            whole,
            trace.parent,
            attributes=_attributes(record),
            kind=SpanKind.SERVER,
            status=FAILED if record.outcome in ("failed", "broken") else UNSET,
            start_time=int(record.started * 1e9) + to_wall_clock,
            end_time=int(ended * 1e9) + to_wall_clock,
        )
        self._processor.on_end(request)

    def _within(self, parent: SpanContext) -> SpanContext:
        """A new span in the same trace."""
        span_id = self._ids.generate_span_id()
        return SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state)

    async def close(self) -> None:
        """Send what is queued; what a collector has not taken within 2 s is lost."""
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, CLOSE_SECONDS)
        if ending.is_alive():
            log.warning("traces_dropped", problem="the collector did not take the last ones in time")
            self._exporter.shutdown()  # ends its waits between attempts


def send_to_collector(endpoint: str, sample: float, router_id: str) -> Tracing:
    """Traces that a background thread sends in batches, by OTLP over HTTP."""
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(TO_OUR_LOG)
    logger.propagate = False
    exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=EXPORT_SECONDS)
    resource = Resource.create({"service.name": "warmroute-router", "service.instance.id": router_id})
    return Tracing(BatchSpanProcessor(exporter, max_queue_size=QUEUED_SPANS), exporter, sample, resource)


def _stages(record: RequestRecord, ended: float) -> Iterator[tuple[str, float, float]]:
    """What the router did, as far as it came: name, begin and end in monotonic seconds.

    Where it decided more than once, of the last time.
    """
    decided, sent, first_byte = record.decided, record.sent, record.first_byte
    prepared = record.started + record.prepare_seconds
    if decided is not None and record.attempts <= 1:
        prepared = decided - record.decision_seconds
    if record.prepare_seconds:
        yield "render_and_tokenise", prepared - record.prepare_seconds, prepared
    if decided is None:
        return
    yield "decide", decided - record.decision_seconds, decided
    if sent is not None and sent < decided:
        sent = None  # of an attempt before
    if record.held_seconds:
        yield "queue", decided, ended if sent is None else sent
    if sent is not None:
        yield "upstream_first_byte", sent, ended if first_byte is None else first_byte
    if first_byte is not None:
        yield "stream", first_byte, ended


def _attributes(record: RequestRecord) -> Attributes:
    """The attributes of the request's span, by OpenTelemetry's conventions for HTTP and generative AI where
    they have a name; never text."""
    attributes: dict[str, str | bool | int | float] = {
        "http.request.method": "POST",
        "http.route": record.path,
        "gen_ai.operation.name": ENDPOINTS[record.path].family,
        "gen_ai.request.stream": record.stream,
        "warmroute.request_id": record.request_id,
        "warmroute.outcome": record.outcome,
        "warmroute.attempts": record.attempts,
        "warmroute.held_seconds": record.held_seconds,
    }
    if record.status:
        attributes["http.response.status_code"] = record.status
    if record.model:
        attributes["gen_ai.request.model"] = record.model
    if record.tenant:
        attributes["warmroute.tenant"] = record.tenant
    if record.outcome in ("failed", "broken"):
        attributes["error.type"] = str(record.status) if record.outcome == "failed" else "broken"
    if record.stream and record.first_byte is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = record.first_byte - record.started
    if record.replica:
        attributes |= {
            "warmroute.replica": record.replica,
            "warmroute.reason": record.reason,
            "warmroute.policy": record.policy,
            "warmroute.arm": record.arm,
            "warmroute.available_cached_tokens": int(record.available_cached_tokens),
            "warmroute.predicted_cached_tokens": int(record.expected_cached_tokens),
        }
    usage = record.usage
    attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens if usage else record.prompt_tokens
    if usage is not None:
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens or 0
        if usage.cached_tokens is not None:
            attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    for reason, tokens in (record.misses or {}).items():
        attributes[f"warmroute.misses.{reason}"] = int(tokens)
    return attributes


class _ToOurLog(logging.Handler):
    """OpenTelemetry's own complaints, one a minute: each batch that a collector does not take brings some."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LOG_SECONDS
            log.warning("traces_dropped", problem=record.getMessage())


TO_OUR_LOG = _ToOurLog()
