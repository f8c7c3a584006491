"""An engine that computes nothing: ``python -m tests.hostile.engine MODEL PORT REDIS_URL``.

It answers whatever it is sent at once, so that what is measured is the router; the simulated engine would
tokenise a prompt of megabytes for minutes, as a real one does. It writes its own lease, too, as one whose
KV events are seen.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from aiohttp import web

from cluster.errors import ClusterError
from cluster.prompts.tokenizer import tokenizer_fingerprint
from cluster.protocol.wire import Keys, Lease, Load, ReplicaState
from cluster.store.ownership import OwnershipWriter
from cluster.store.store import connect

HEARTBEAT_SECONDS = 0.5
LEASE_SECONDS = 3.0
MAX_MODEL_LEN = 2_000_000
"""Whatever fits into a body has room."""
MESSAGE = {"role": "assistant", "content": "a"}
CHOICES = [{"index": 0, "message": MESSAGE, "finish_reason": "length"}]
ANSWER = {"id": "x", "object": "chat.completion", "model": "tiny", "choices": CHOICES}

EVENT = {"id": "x", "object": "chat.completion.chunk", "model": "tiny"}
DELTA = {"index": 0, "delta": {"content": "a"}, "text": "a", "finish_reason": "length"}
STREAM = f"data: {json.dumps({**EVENT, 'choices': [DELTA]})}\n\ndata: [DONE]\n\n".encode()


async def answer(request: web.Request) -> web.Response:
    """Read all, and say something short."""
    streams = False
    async for part in request.content.iter_any():
        streams = streams or b'"stream":true' in part or b'"stream": true' in part
    if request.method == "GET":
        return web.Response()
    if request.path == "/tokenize":
        return web.Response(status=404)
    if streams:
        return web.Response(body=STREAM, content_type="text/event-stream")
    return web.json_response(ANSWER)


async def hold_lease(model: Path, port: int, redis_url: str) -> None:
    """Be a replica, until cancelled."""
    lease = Lease(
        replica=f"engine-{port}",
        url=f"http://127.0.0.1:{port}",
        state=ReplicaState.READY,
        model="tiny",
        model_directory=str(model),
        max_model_len=MAX_MODEL_LEN,
        block_size=16,
        tokenizer_fingerprint=tokenizer_fingerprint(model),
        publishes_events=True,
    )
    redis = connect(redis_url)  # the writer does not keep it
    writer = OwnershipWriter(redis, Keys("warmroute"), lease.replica, LEASE_SECONDS, 1000)
    opened = False
    while True:
        with contextlib.suppress(ClusterError):
            if not opened:
                await writer.open(lease, ())
                opened = True
            await writer.heartbeat(lease, Load())
        await asyncio.sleep(HEARTBEAT_SECONDS)


async def main(model: Path, port: int, redis_url: str) -> None:
    """Serve until ended."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await hold_lease(model, port, redis_url)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
