"""Chunks between an engine and a client: passed on as they are or taken apart, with one result."""

import asyncio
from itertools import accumulate

import httptools
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from router.http.admission import Admission
from router.http.client_connection import ClientConnection
from router.http.client_request import client_request
from router.http.request_reader import Bounds
from router.http.sse import EventFilter
from router.http.time_limits import NEVER, Watchdog
from router.upstream.engine_connection import EngineConnection
from router.upstream.reply import UpstreamReply

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
REQUEST = b"POST / HTTP/1.%d\r\nhost: x\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"
FIRST = b'data: {"choices":[{"delta":{"content":"He"}}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"llo"}}]}\n\n'
NO_USAGE = b'data: {"choices":[{"delta":{"content":"!"}}],"usage":null}\n\n'
SPOKEN = rb'data: {"choices":[{"delta":{"content":"[DONE] \"error\" \"usage\""}}]}' + b"\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
ERROR = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
OTHER_LINE_ENDS = b'data: {"choices":[]}\r\n\r\n'
DONE = b"data: [DONE]\n\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and says when it is asked to stop reading."""

    def __init__(self):
        super().__init__()
        self.written, self.reading = [], True

    def write(self, data):
        """Keep it."""
        self.written.append(data)

    def pause_reading(self):
        """Remember."""
        self.reading = False

    def resume_reading(self):
        """Remember."""
        self.reading = True

    def close(self):
        """Nothing more is awaited from it."""

    abort = close

    def is_closing(self):
        """Never."""
        return False

    def get_write_buffer_size(self):
        """Nothing waits."""
        return 0


class Relay:
    """A client's connection with one request, and an engine's connection that answers it."""

    def __init__(self, keep_usage=False, http_minor=1):
        self.client_transport, self.engine_transport = FakeTransport(), FakeTransport()
        self.events = EventFilter(keep_usage=keep_usage)
        self.reply = UpstreamReply(60.0, lambda: None)
        self.engine = EngineConnection(lambda _: None, lambda _: None)
        self.engine.connection_made(self.engine_transport)
        scopes = []

        async def app(scope, receive, send):
            scopes.append(scope)
            await asyncio.Event().wait()

        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, proxy_headers=False)
        config.load()
        self.state = ServerState()
        bounds = Bounds(Admission(10, 1 << 20, 10), Watchdog(1.0), 60.0, 60.0)
        self.client = ClientConnection(bounds, config, self.state, {})
        self.client.connection_made(self.client_transport)
        self.client.data_received(REQUEST % http_minor)
        self.request = client_request(self.client.scope)

    async def answer(self, reads):
        """What broke the answer off, or None, after the engine sent this."""
        asked = asyncio.ensure_future(self.reply.ask(self.engine, b"", 60.0))
        await asyncio.sleep(0)
        relay, client = None, self.request
        for read in reads:
            self.engine.data_received(read)
            await asyncio.sleep(0)
            if relay is None and asked.done():
                relay = asyncio.ensure_future(client.relay(200, {}, self.reply, self.events))
                await asyncio.sleep(0)
        broken = await relay
        await client.end(b"")
        return broken

    async def close(self):
        """End the task of the application."""
        for task in self.state.tasks:
            task.cancel()
        await asyncio.gather(*self.state.tasks, return_exceptions=True)

    def client_got(self):
        """The body of the answer as a client parses it, and whether it saw its end."""
        body, complete = [], []

        class Parsed:
            on_body = staticmethod(body.append)

            def on_message_complete(self):
                complete.append(True)

        httptools.HttpResponseParser(Parsed()).feed_data(b"".join(self.client_transport.written))
        return b"".join(body), bool(complete)


def frame(data, style="{:x}"):
    """A chunk, its size written in this style."""
    return style.format(len(data)).encode() + b"\r\n" + data + b"\r\n"


@st.composite
def answers(draw):
    """Events; and the reads in which they arrive: chunks of any size, written in any way, cut anywhere."""
    kinds = [
        *[TEXT] * 3,
        NO_USAGE,
        SPOKEN,
        USAGE,
        ERROR,
        OTHER_LINE_ENDS,
        b": ping\n\n",
        b"data: " + b"y" * 5000 + b"\n\n",
    ]
    events = [FIRST, *draw(st.lists(st.sampled_from(kinds), max_size=12)), DONE]
    whole = b"".join(events)
    one_each = list(accumulate(len(event) for event in events))
    anywhere = sorted({*draw(st.sets(st.integers(1, len(whole)))), len(whole)})
    ends = one_each if draw(st.booleans()) else anywhere
    styles = draw(st.sampled_from([["{:x}"], ["{:x}", "{:X}", "0{:x}", "{:x};a=b", '{:x};a="\\r"']]))
    chunks = [
        frame(whole[start:end], draw(st.sampled_from(styles)))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    chunks.append(draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"000;a=b\r\n\r\n"])))
    if draw(st.booleans()):
        return events, [HEAD + chunks[0], *chunks[1:]]
    sent = HEAD + b"".join(chunks)
    cuts = sorted(draw(st.sets(st.integers(1, len(sent) - 1), max_size=30)))
    return events, [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


@given(answers(), st.booleans(), st.sampled_from([0, 1]))
def test_client_gets_the_same_events_however_they_arrive(answer, keep_usage, http_minor):
    """Sizes, extensions, trailers and cuts change neither the events nor what is read in them."""
    events, reads = answer

    async def relayed():
        relay = Relay(keep_usage, http_minor)
        assert await relay.answer(reads) is None
        await relay.close()
        return relay

    relay = asyncio.run(relayed())
    body = b"".join(relay.client_transport.written).partition(b"\r\n\r\n")[2]
    if http_minor == 1:
        body, complete = relay.client_got()
        assert complete
    assert body == b"".join(event for event in events if keep_usage or event != USAGE)
    assert relay.events.done
    assert relay.events.reported_error == (ERROR in events)
    assert (relay.events.usage is not None) == (USAGE in events)


async def test_ordinary_chunks_pass_in_the_engines_frame():
    """What arrives as one chunk of whole events is written as it came: not even copied."""
    relay, chunks = Relay(), [frame(TEXT), frame(NO_USAGE), frame(TEXT + TEXT)]
    await relay.answer([HEAD + frame(FIRST), *chunks, frame(DONE) + b"0\r\n\r\n"])
    for chunk in chunks:
        assert any(written is chunk for written in relay.client_transport.written)
    await relay.close()


@pytest.mark.parametrize(
    "chunk",
    [
        b"1_0\r\n" + b"x" * 14 + b"\n\n\r\n",
        b"+10\r\n" + b"x" * 14 + b"\n\n\r\n",
        b"0x10\r\n" + b"x" * 14 + b"\n\n\r\n",
        b" 10\r\n" + b"x" * 14 + b"\n\n\r\n",
        b"-2\r\n\n\n\r\n",
        b"f\r\n" + b"x" * 14 + b"\n\n\r\n",
        b"\n\n\r\n",
    ],
)
async def test_chunk_whose_size_is_not_its_size_reaches_no_client(chunk):
    """Bytes that parsers could read in different ways are never passed on in their frame."""
    relay = Relay()
    broken = await relay.answer([HEAD + frame(FIRST), chunk])
    assert "malformed" in broken
    assert relay.client_got() == (FIRST, True)
    await relay.close()


async def test_piece_of_a_size_is_not_taken_for_a_whole_one():
    """A read that ends within a chunk's size leaves the rest of that size to the parser."""
    relay, body = Relay(), b"data: xxxxxxx\n\n\r\ndata: yyyyyy\n\n"
    assert frame(body).startswith(b"1f\r\n")
    looks_like_a_chunk, rest = b"f\r\n" + body[:17], body[17:] + b"\r\n"
    await relay.answer([HEAD + frame(FIRST) + b"1", looks_like_a_chunk, rest, frame(DONE) + b"0\r\n\r\n"])
    assert relay.client_got() == (FIRST + body + DONE, True)
    await relay.close()


async def test_engine_is_paused_while_the_client_is_full():
    """The transport's own signal pauses the engine, and its silence then does not count; and back."""
    relay = Relay()
    original = relay.client_transport.write

    def write(data):
        original(data)
        if data == frame(TEXT):
            relay.client.pause_writing()

    relay.client_transport.write = write
    answering = asyncio.ensure_future(relay.answer([HEAD + frame(FIRST), frame(TEXT)]))
    for _ in range(6):
        await asyncio.sleep(0)
    assert not relay.engine_transport.reading
    assert relay.engine.deadline == NEVER
    relay.client.resume_writing()
    assert relay.engine_transport.reading
    assert relay.engine.deadline != NEVER
    relay.engine.data_received(frame(DONE) + b"0\r\n\r\n")
    assert await answering is None
    await relay.close()
