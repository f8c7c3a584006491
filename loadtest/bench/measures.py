"""All measures by name, in the order in which they are taken.

Slow readers and open streams come before long prompts: memory that those leave to a router would hide what
they take.
"""

from loadtest.bench.costs import at_rest, first_tokens, json_requests, stream_chunks
from loadtest.bench.load import Measure
from loadtest.bench.strain import cold_prompt, open_streams, slow_readers

MEASURES: dict[str, Measure] = {
    "json": json_requests,
    "chunks": stream_chunks,
    "slow": slow_readers,
    "streams": open_streams,
    "ttft": first_tokens,
    "cold": cold_prompt,
    "rest": at_rest,
}
WITHOUT_ROUTER = frozenset({"ttft", "cold", "streams"})
"""Those that also say something of engines alone."""
