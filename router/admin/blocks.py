"""The keys of all blocks that a replica is believed to hold, for ``warmroute check``.

There can be millions. So the index is read, and the answer written, in parts between which requests go on;
when the replica's blocks have changed meanwhile, they are read again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import numpy as np
from fastapi import APIRouter, Response
from starlette.types import Receive, Scope, Send

from cluster.fleet.fleet import Fleet
from cluster.index.block_table import BlockKeys, as_keys, listed
from cluster.sync.follower import Follower
from router.admin.access import DOCUMENTED
from router.answers import Answer, ErrorAnswer, answers, described
from router.errors import BlocksChangeError, NotFoundError, quoted
from router.steer.operator_commands import CommandFollower

PART_BLOCKS = 100_000
"""Blocks of the index, whoever holds them, that are looked at in one go: about 3 ms."""
WRITTEN_BLOCKS = 16_384
"""Keys that are written in one go: 1 ms."""
READINGS = 5


class BlocksAnswer(Answer):
    """Keys of blocks as 16 hexadecimal digits."""

    epoch: int
    sequence: int
    keys: list[str]
    reset: list[str]
    """Keys that operators have let all routers forget: they may be missing."""


def block_routes(fleet: Fleet, follower: Follower, commands: CommandFollower) -> APIRouter:
    """The route that lists them."""
    routes = APIRouter(**DOCUMENTED)

    @routes.get(
        "/admin/replicas/{replica_id}/blocks",
        **answers(BlocksAnswer, {503: described(ErrorAnswer, "They change faster than they can be read")}),
    )
    async def blocks(replica_id: str) -> Response:
        """The keys this router believes a replica to hold, for `warmroute check`."""
        for _ in range(READINGS):
            replica = fleet.replicas.get(replica_id)
            if replica is None:
                raise NotFoundError(f"There is no replica {quoted(replica_id)}.", "replica_id")
            epoch, sequence = replica.epoch, follower.sequence(replica_id)
            keys = await _owned(fleet, replica.slot)
            unchanged = fleet.replicas.get(replica_id) is replica and replica.epoch == epoch
            if unchanged and follower.sequence(replica_id) == sequence:
                reset = as_keys(commands.reset_prefixes)
                return _Listing(_written(epoch, sequence, await _sorted(keys), await _sorted([reset])))
        raise BlocksChangeError(f"The blocks of {quoted(replica_id)} change faster than they can be read.")

    return routes


class _Listing(Response):
    """JSON in parts, as fast as the client takes them. Starlette's own class for that imports for 90 ms when
    it is first used.
    """

    media_type = "application/json"

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all parts."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _owned(fleet: Fleet, slot: int) -> list[BlockKeys]:
    num_parts = len(fleet.index) // PART_BLOCKS + 1
    found = []
    for part in range(num_parts):
        if part:
            await asyncio.sleep(0)
        found.append(fleet.index.owned_keys(slot, part, num_parts))
    return found


async def _sorted(keys: Iterable[BlockKeys]) -> BlockKeys:
    """All keys, sorted in a thread, which lets others run."""
    return await asyncio.to_thread(lambda: np.sort(np.concatenate(list(keys))))


async def _written(epoch: int, sequence: int, keys: BlockKeys, reset: BlockKeys) -> AsyncIterator[bytes]:
    yield b'{"epoch":%d,"sequence":%d,"keys":[' % (epoch, sequence)
    for start in range(0, len(keys), WRITTEN_BLOCKS):
        yield (b"," if start else b"") + listed(keys[start : start + WRITTEN_BLOCKS])
        await asyncio.sleep(0)
    yield b'],"reset":[' + listed(reset) + b"]}"
