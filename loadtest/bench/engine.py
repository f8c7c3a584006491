"""Engines without work: they answer chat completions at once, or in chunks at a given pace.

    python -m loadtest.bench.engine MODEL_DIRECTORY FIRST_PORT COUNT [REDIS_URL]

All in one process on one event loop, on httptools, so that they cost little beside what is measured. With a
Redis URL they publish what their caches would hold. Not for people: the benchmark starts it.
"""

import asyncio
import gc
import json
import re
import sys
import time
from pathlib import Path
from typing import cast

import httptools
import uvloop

from loadtest.bench.blocks import EngineBlocks, publish_blocks
from loadtest.bench.prompts import MODEL, NOBODYS, Conversations, Tag

TAG = re.compile(rb'"user"\s*:\s*"([^"]*)"')
WANTS_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_EVENTS = b"data: [DONE]\n\n"
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}
BACKLOG = 4096


def _reply(status: bytes, kind: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


def _json(body: object, status: bytes = b"200 OK") -> bytes:
    return _reply(status, b"application/json", json.dumps(body, separators=(",", ":")).encode())


PLAIN_REPLIES = {b"/health": _reply(b"200 OK", b"text/plain", b""), b"/v1/models": _json(MODELS)}
NOT_FOUND = _json({"error": {"message": "not found", "type": "invalid_request_error"}}, b"404 Not Found")


def _frame(data: bytes) -> bytes:
    """One piece of a body in chunked transfer encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(**fields: object) -> bytes:
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        **fields,
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _delta(content: str) -> bytes:
    return _event(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": None}])


def stream_frame(padding: int) -> tuple[bytes, bytes]:
    """What stands before and after the send time, 20 digits of nanoseconds, in one framed chunk."""
    before, after = _frame(_delta(f"t={0:020}{'x' * padding}")).split(f"{0:020}".encode())
    return before, after


class EngineProtocol(asyncio.Protocol):
    """One connection; one request at a time, as routers send them."""

    def __init__(self, conversations: Conversations, blocks: EngineBlocks) -> None:
        self._conversations = conversations
        self._blocks = blocks
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._paused = self._closed = False
        self._remaining = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The router has connected."""

        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """The router has left; a stream ends with it."""
        self._closed, self._remaining = True, 0

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        """The first line has been read."""
        self._url, self._body = url, []

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        if self._url.endswith((b"/chat/completions", b"/messages", b"/responses")):
            self._complete(b"".join(self._body))
        else:
            self._transport.write(PLAIN_REPLIES.get(self._url, NOT_FOUND))

    def pause_writing(self) -> None:
        """The router reads more slowly than this engine writes."""
        self._paused = True

    def resume_writing(self) -> None:
        """The router has caught up."""
        self._paused = False
        if self._remaining and not self._interval:
            self._write_chunks()

    def _complete(self, body: bytes) -> None:
        found = TAG.search(body)
        if found is None:
            self._transport.write(_json({"error": {"message": "no tag in user"}}, b"400 Bad Request"))
            return
        tag = Tag.read(found[1].decode())
        prompt = None
        if tag.conversation != NOBODYS:
            prompt = self._conversations.prompt(tag)
            self._blocks.hold(prompt.keys)
        usage = _usage(prompt.prompt_tokens, max(1, tag.chunks)) if prompt else None
        if not tag.chunks:
            answer = _completion(prompt.answer if prompt else "", usage)
            if usage and not self._url.endswith(b"/chat/completions"):
                answer["usage"] = {"input_tokens": usage["prompt_tokens"], "output_tokens": 1}
            self._transport.write(_json(answer))
            return
        last = _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if usage and WANTS_USAGE.search(body):
            last += _event(choices=[], usage=usage)
        self._last = _frame(last + LAST_EVENTS) + b"0\r\n\r\n"
        self._before, self._after = stream_frame(tag.padding)
        self._remaining, self._interval = tag.chunks, tag.interval_us / 1e6
        self._due = self._loop.time()
        self._transport.write(STREAM_HEAD + self._next_chunk())
        self._go_on()

    def _next_chunk(self) -> bytes:
        self._remaining -= 1
        return b"%b%020d%b" % (self._before, time.monotonic_ns(), self._after)

    def _go_on(self) -> None:
        if self._interval and self._remaining:
            self._due += self._interval
            self._loop.call_at(self._due, self._write_paced)
        else:
            self._write_chunks()

    def _write_paced(self) -> None:
        if not self._closed:
            self._transport.write(self._next_chunk())
            self._go_on()

    def _write_chunks(self) -> None:
        """All that the router takes now, and the end of the stream when it is there."""
        while self._remaining and not self._paused:
            self._transport.write(self._next_chunk())
        if not self._remaining and not self._closed:
            self._transport.write(self._last)


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def _completion(content: str, usage: dict[str, int] | None) -> dict[str, object]:
    message = {"role": "assistant", "content": content}
    return {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        **({"usage": usage} if usage else {}),
    }


async def serve(model_directory: Path, ports: range, redis_url: str) -> None:
    """Serve until the process is ended."""
    conversations = Conversations(model_directory)
    engines = {f"http://127.0.0.1:{port}": EngineBlocks() for port in ports}
    loop = asyncio.get_running_loop()
    for port, blocks in zip(ports, engines.values(), strict=True):

        def protocol(blocks: EngineBlocks = blocks) -> EngineProtocol:
            return EngineProtocol(conversations, blocks)

        await loop.create_server(protocol, "127.0.0.1", port, backlog=BACKLOG)
    gc.freeze()
    if redis_url:
        await publish_blocks(engines, redis_url, model_directory, conversations.fingerprint)
    await asyncio.Event().wait()


if __name__ == "__main__":
    directory, first, count, *redis = sys.argv[1:]
    uvloop.run(serve(Path(directory), range(int(first), int(first) + int(count)), "".join(redis)))
