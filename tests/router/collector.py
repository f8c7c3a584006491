"""An OpenTelemetry collector that takes traces over HTTP and decodes them."""

import http.server
import threading
from contextlib import contextmanager

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(http.server.ThreadingHTTPServer):
    """Answers on a port that the system gives, unless `answers` is cleared."""

    def __init__(self):
        self.requests = []
        self.answers = threading.Event()
        self.answers.set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        """Its base URL."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def resources(self):
        """Everything sent so far, by who sent it."""
        return [each for _, request in self.requests for each in request.resource_spans]

    @property
    def resource(self):
        """Who sent it first."""
        return {each.key: each.value.string_value for each in self.resources[0].resource.attributes}

    @property
    def spans(self):
        """All spans so far."""
        return [span for each in self.resources for scope in each.scope_spans for span in scope.spans]


class Handler(http.server.BaseHTTPRequestHandler):
    """One request to it."""

    def do_POST(self):
        """Take spans."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.server.answers.wait(10)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def running_collector():
    """A collector in a thread of its own."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        collector.answers.set()
        collector.shutdown()
        thread.join()
        collector.server_close()
