"""The replies of a simulated engine, whole and streamed.

A reply owns its job: however the reply ends (all tokens sent, client gone, engine stopped), it releases it.
"""

import asyncio

import msgspec
from starlette.types import Message, Receive, Scope, Send

from cluster.apis.answer_blocks import Maker
from workers.sim.core import EngineCore, Job, Output
from workers.sim.schema import Generation, Json, ReplyShapes

JSON_TYPE = (b"content-type", b"application/json")
SSE_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")


class Reply:
    """The ASGI response to one completion request."""

    def __init__(self, core: EngineCore, generation: Generation, maker: Maker | None = None) -> None:
        self._core = core
        self._maker = maker
        self._generation = generation
        self._shapes = ReplyShapes(generation)
        self._encoder = msgspec.json.Encoder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send, or stop as soon as the client is gone."""
        job = self._core.submit(self._generation)
        watcher = asyncio.create_task(_cancel_when_gone(job, receive))
        try:
            await (self._send_stream(job, send) if self._generation.stream else self._send_whole(job, send))
        finally:
            watcher.cancel()
            self._core.release(job)

    async def _send_stream(self, job: Job, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [SSE_TYPE]})
        opening = self._opening(len(job.requests))
        while not job.finished:
            outputs = await job.outputs()
            if not outputs:
                return  # without the final chunk: the client sees a broken stream, as when an engine dies
            await send(_body(opening + b"".join(map(self._text_event, outputs)), more=True))
            opening = b""
        await send(_body(self._closing(job), more=False))

    async def _send_whole(self, job: Job, send: Send) -> None:
        texts = [""] * len(job.requests)
        while not job.finished:
            outputs = await job.outputs()
            if not outputs:
                return
            for output in outputs:
                texts[output.index] += output.text
        reply = self._shapes.whole(texts, job.usage(self._generation.num_choices))
        if self._maker is not None:
            reply = self._maker.whole(reply)
        await send({"type": "http.response.start", "status": 200, "headers": [JSON_TYPE]})
        await send(_body(self._encoder.encode(reply), more=False))

    def _opening(self, num_choices: int) -> bytes:
        if not self._generation.is_chat:
            return b""
        return b"".join(self._event(self._shapes.role_chunk(index)) for index in range(num_choices))

    def _text_event(self, output: Output) -> bytes:
        return self._event(self._shapes.text_chunk(output.index, output.text, output.is_last))

    def _closing(self, job: Job) -> bytes:
        if not self._generation.include_usage:
            return b"data: [DONE]\n\n"
        usage = self._event(self._shapes.usage_chunk(job.usage(self._generation.num_choices)))
        return usage + (b"".join(self._maker.close()) if self._maker else b"data: [DONE]\n\n")

    def _event(self, chunk: Json) -> bytes:
        if self._maker is not None:
            return b"".join(self._maker.feed(chunk))
        return b"data: %b\n\n" % self._encoder.encode(chunk)


async def _cancel_when_gone(job: Job, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.cancel()


def _body(data: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
