"""An engine for tests of agents: what vLLM offers over HTTP, and KV events under the test's control.

Written from vLLM's wire and not from this package's, so that a mistake in ours does not cancel itself out.
"""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
import time
from collections import deque
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio
from aiohttp import web

END = (-1).to_bytes(8, "big", signed=True)


class FakePublisher:
    """A PUB and a ROUTER socket, as `vllm/distributed/kv_events.py` has them."""

    def __init__(self, folder: Path, buffer_steps: int = 10_000, replay: bool = True) -> None:
        self.endpoint = f"ipc://{folder}/events"
        self.replay_endpoint = f"ipc://{folder}/replay" if replay else None
        self.buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer_steps)
        self.answers = True
        self.replays = 0
        self._sequence = itertools.count()
        context = zmq.asyncio.Context.instance()
        self._pub = context.socket(zmq.PUB)
        self._pub.bind(self.endpoint)
        self._router = context.socket(zmq.ROUTER)
        if replay:
            self._router.bind(self.replay_endpoint)
        self._task = asyncio.create_task(self._serve_replays())

    async def publish(self, *events: dict, drop: bool = False, payload: bytes | None = None) -> int:
        """Publish one batch; ``drop`` loses it on its way to subscribers. Returns its sequence."""
        sequence = next(self._sequence)
        payload = payload or msgspec.msgpack.encode([time.time(), list(events), 0])
        self.buffer.append((sequence, payload))
        if not drop:
            await self._pub.send_multipart([b"kv", sequence.to_bytes(8, "big"), payload])
        return sequence

    async def repeat(self, sequence: int) -> None:
        """Send a batch once more."""
        payload = dict(self.buffer)[sequence]
        await self._pub.send_multipart([b"kv", sequence.to_bytes(8, "big"), payload])

    def source(self) -> dict:
        """Its entry in ``/kv_event_sources``."""
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self.endpoint,
            "replay_endpoint": self.replay_endpoint,
            "buffer_steps": 10_000,
            "hwm": 100_000,
            "max_queue_size": 100_000,
            "topic": "kv",
        }

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._pub.close(linger=0)
        self._router.close(linger=0)

    async def _serve_replays(self) -> None:
        while True:
            client, _, first = await self._router.recv_multipart()
            if not self.answers:
                continue
            self.replays += 1
            for sequence, payload in list(self.buffer):
                if sequence >= int.from_bytes(first, "big"):
                    await self._router.send_multipart(
                        [client, b"", b"kv", sequence.to_bytes(8, "big"), payload]
                    )
            await self._router.send_multipart([client, b"", b"", END, b""])


class FakeEngine:
    """HTTP and events of one engine. `restart` makes it another process."""

    def __init__(self, model: Path, block_size: int = 4) -> None:
        self.model = model
        self.block_size = block_size
        self.capacity = 100
        self.start_time = 1000.0
        self.healthy = True
        self.health_checks = 0
        self.answers = asyncio.Event()
        """While it is not set, health checks wait."""
        self.answers.set()
        self.publishes = True
        self.adapters = ["lora-a"]
        self.sleep_level: int | None = None
        self.paused: bool | None = None
        """What ``/is_sleeping`` answers; None: there is no such path."""
        self.running = 0
        self.api_key = ""
        self.folder = Path(tempfile.mkdtemp(prefix="fe"))
        self.publisher = FakePublisher(self.folder)
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; on the same port as before after `stop`."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/kv_event_sources", self._sources)
        app.router.add_get("/is_sleeping", self._is_sleeping)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, as a process that was killed."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def renew_publisher(self, **options) -> None:
        """Events of a new process: sequences start at 0."""
        await self.publisher.close()
        self.publisher = FakePublisher(self.folder, **options)

    async def close(self) -> None:
        await self.stop()
        await self.publisher.close()
        shutil.rmtree(self.folder)

    def stored(self, hashes: list[int], parent: int | None, tokens: list[int], **fields) -> dict:
        """A `BlockStored` as vLLM sends it."""
        event = {
            "type": "BlockStored",
            "block_hashes": hashes,
            "parent_block_hash": parent,
            "token_ids": tokens,
            "block_size": self.block_size,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
            "extra_keys": [None] * len(hashes),
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }
        return event | fields

    @staticmethod
    def removed(*hashes: int) -> dict:
        return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", "group_idx": 0}

    async def _health(self, _request: web.Request) -> web.Response:
        self.health_checks += 1
        await self.answers.wait()
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        names = [("tiny", None), ("tiny-alias", None), *((name, "tiny") for name in self.adapters)]
        cards = [
            {"id": name, "object": "model", "root": str(self.model), "parent": parent, "max_model_len": 512}
            for name, parent in names
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            text=f"""# HELP vllm:num_requests_running Number of requests
vllm:num_requests_running{{engine="0",model_name="tiny"}} {self.running}.0
vllm:num_requests_waiting{{engine="0",model_name="tiny"}} 2.0
vllm:engine_sleep_state{{model_name="tiny",sleep_state="awake"}} {self.sleep_level is None:d}.0
vllm:engine_sleep_state{{model_name="tiny",sleep_state="weights_offloaded"}} {self.sleep_level == 1:d}.0
vllm:engine_sleep_state{{model_name="tiny",sleep_state="discard_all"}} {self.sleep_level == 2:d}.0
vllm:kv_cache_usage_perc{{engine="0",model_name="tiny"}} 0.25
vllm:prefix_cache_queries_total{{engine="0",model_name="tiny"}} 100.0
vllm:prefix_cache_hits_total{{engine="0",model_name="tiny"}} 60.0
vllm:cache_config_info{{_block_size_resolved="True",block_size="{self.block_size}",hash_block_size="None",\
num_gpu_blocks="{self.capacity}",num_gpu_blocks_override="None"}} 1.0
process_start_time_seconds {self.start_time}
"""
        )

    async def _is_sleeping(self, _request: web.Request) -> web.Response:
        if self.paused is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"is_sleeping": self.paused})

    async def _sources(self, _request: web.Request) -> web.Response:
        return web.json_response({"0": self.publisher.source()} if self.publishes else {})
