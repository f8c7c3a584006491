"""An engine whose every reply is scripted byte by byte, and which sees when the router leaves."""

import asyncio
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field


def event(text="", usage=None, **fields):
    """One chunk of a chat stream."""
    body = {"id": "x", "choices": [{"index": 0, "delta": {"content": text}}], **fields}
    if usage is not None:
        body.update(choices=[], usage=usage)
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 15, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
REPLY = json.dumps({"id": "x", "choices": [{"message": {"content": "hi"}}], "usage": USAGE}).encode()


@dataclass
class Exchange:
    """One request, and the means to answer it."""

    method: str
    path: str
    headers: dict
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the router has closed the connection."""
    written: int = 0

    @property
    def json(self):
        """The body, decoded."""
        return json.loads(self.body)

    async def head(self, status=200, content_type="text/event-stream", **more):
        """Status and headers of a chunked reply."""
        lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def raw(self, data):
        """Bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()
        self.written += len(data)

    async def chunk(self, data):
        """One chunk of the body."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self):
        """The end of a chunked body."""
        await self.raw(b"0\r\n\r\n")

    async def whole(self, body, status=200, content_type="application/json", **more):
        """A reply in one piece."""
        headers = {"content-type": content_type, "content-length": len(body), **more}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode() + body)

    def abort(self):
        """Die as a process does that was killed."""
        self.writer.transport.abort()


def counted(prompt_tokens):
    """A behaviour: a reply to a prompt of so many tokens."""
    reply = {**json.loads(REPLY), "usage": {**USAGE, "prompt_tokens": prompt_tokens}}
    return lambda exchange: exchange.whole(json.dumps(reply).encode())


def stream(*parts, pause=0.0):
    """A behaviour: one chunk per part, then a clean end."""

    async def behave(exchange):
        await exchange.head()
        for part in parts:
            await exchange.chunk(part)
            await asyncio.sleep(pause)
        await exchange.end()

    return behave


def whole(body, status=200, **headers):
    """A behaviour: one reply with a length."""

    async def behave(exchange):
        await exchange.whole(body, status, **headers)

    return behave


async def die_before_headers(exchange):
    """Take the request and die."""
    exchange.abort()


async def die_after_headers(exchange):
    """Promise a stream and die before its first byte."""
    await exchange.head()
    exchange.abort()


async def die_in_a_whole_reply(exchange):
    """Send half of a reply that has a length."""
    await exchange.raw(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
    exchange.abort()


async def stay_silent(exchange):
    """Never answer."""
    await exchange.gone.wait()


async def never_end(exchange):
    """Stream until the router leaves."""
    await exchange.head()
    while not exchange.gone.is_set():
        await exchange.chunk(event("x"))
        await asyncio.sleep(0.01)


async def answer(exchange):
    """What a healthy engine does."""
    if not exchange.path.startswith("/v1/"):
        await exchange.whole(b"{}", 404)
    elif exchange.json.get("stream"):
        usage = (
            [event(usage=USAGE)] if (exchange.json.get("stream_options") or {}).get("include_usage") else []
        )
        await stream(event("he"), event("llo"), *usage, DONE)(exchange)
    else:
        await exchange.whole(REPLY)


class FakeEngine:
    """Answers on a port of its own; takes behaviours from `script`, then answers as healthy engines do.

    `health` is how it answers ``/health``.
    """

    def __init__(self):
        self.script = deque()
        self.otherwise = answer
        """How requests are answered for which there is no script."""
        self.health = answer
        self.health_checks = 0
        self.served = []
        """What ``/v1/models`` names, where `models` does not say how it answers."""
        self.models = None
        self.searches = 0
        """How often it was asked for its models."""
        self.exchanges = []
        """Clients' requests that came in."""
        self.also = set()
        """Paths outside of ``/v1/`` whose requests are taken for clients', too."""
        self.url = ""
        self._server = None
        self._tasks = set()

    async def start(self):
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self):
        """Stop listening, and close every connection."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._serve_one(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        exchange = Exchange(method, path, headers, body, writer)
        behave = answer
        if path == "/health":
            self.health_checks += 1
            behave = self.health
        if path == "/v1/models":
            self.searches += 1
            behave = self.models or whole(
                json.dumps({"data": [{"id": name} for name in self.served]}).encode()
            )
        elif path.startswith("/v1/") or path in self.also:
            self.exchanges.append(exchange)
            behave = self.script.popleft() if self.script else self.otherwise
        watcher = asyncio.create_task(self._watch(reader, exchange))
        try:
            await behave(exchange)
        except ConnectionError:
            exchange.gone.set()
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        return not exchange.gone.is_set()

    @staticmethod
    async def _watch(reader, exchange):
        with suppress(ConnectionError):
            await reader.read(1)
        exchange.gone.set()
