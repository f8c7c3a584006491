"""The Redis side of an agent: keeps Redis equal to the mirror, whatever happens to Redis.

One task makes every write, one Lua call after the other. Changes that arrive while a call is under way are
merged and go out with the next one. Redis being away loses nothing: the mirror stays, the last call is
repeated, and where Redis has forgotten the replica, or anything of it, a new epoch is opened with the whole
mirror.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import msgspec
import structlog

from cluster.errors import FencedError, LeaseLostError, SequenceGapError, StartUpError, StoreUnavailableError
from cluster.protocol.block_keys import unpack_keys
from cluster.protocol.wire import Lease, Load
from cluster.store.commands import Commands, RedisClient, translated_errors
from cluster.store.ownership import OwnershipWriter
from workers.agent.mirror import Change
from workers.concurrency import growing_pauses, spread
from workers.errors import UnsettledError
from workers.settings import WorkerSettings

MAX_BATCH = 5_000
"""Keys per Lua call: 2 to 3 ms of Redis' time."""
SETTLE_SECONDS = 2.0
SETTLE_STEP_SECONDS = 0.002
MANY_LOSSES, LOSS_SECONDS = 3, 60.0
RIVAL_LOOKS = 3
"""Two in each heartbeat: a lease that is not renewed between any of them belongs to nobody any more. Whoever
renews it later than that is fenced. More looks would keep the replica of a killed agent away for longer."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where Redis differs from the mirror."""

    missing: frozenset[int]
    """Held by the engine, not in Redis."""
    surplus: frozenset[int]
    """In Redis, not held by the engine."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus)


@dataclass(slots=True)
class Pending:
    """What Redis does not have yet: the net effect of all changes since the last call."""

    stored: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)
    cleared: bool = False

    def __bool__(self) -> bool:
        return self.cleared or bool(self.stored) or bool(self.removed)

    def merge(self, change: Change) -> None:
        """Add a later change."""
        if change.cleared:
            self.stored, self.removed, self.cleared = set(), set(), True
        taken_back = self.stored & change.removed
        self.stored -= taken_back
        self.removed |= change.removed - taken_back
        given_back = self.removed & change.stored
        self.removed -= given_back
        self.stored |= change.stored - given_back

    def take(self, limit: int) -> Change:
        """The next part to publish, of at most ``limit`` keys; removals come first."""
        removed = _pop(self.removed, limit)
        change = Change(_pop(self.stored, limit - len(removed)), removed, self.cleared)
        self.cleared = False
        return change


def _pop(keys: set[int], limit: int) -> frozenset[int]:
    # Not a slice from the front: a set that was emptied there is searched from its beginning every time.
    return frozenset(keys.pop() for _ in range(min(limit, len(keys))))


class Publication:
    """Publishes one replica. ``owned`` gives the whole mirror, ``load`` the gauges of the moment."""

    def __init__(
        self,
        redis: RedisClient,
        settings: WorkerSettings,
        replica: str,
        owned: Callable[[], Collection[int]],
        load: Callable[[], Load],
    ) -> None:
        self._redis = redis
        self._execute = Commands.of(redis).execute
        self._settings = settings
        self._replica = replica
        self._owned = owned
        self._load = load
        self._writer = OwnershipWriter(
            redis, settings.keys, replica, settings.lease_seconds, settings.log_length
        )
        self._wake = asyncio.Event()
        self._losses: deque[float] = deque(maxlen=MANY_LOSSES)
        self._pending = Pending()
        self._must_open = False
        self._busy = False
        self._lease: Lease | None = None
        self._announced: Lease | None = None
        self._next_heartbeat = 0.0
        self.trouble = ""
        """Why Redis cannot be written at the moment; "" when it can."""

    @property
    def epoch(self) -> int:
        """The epoch in Redis; 0 before the first."""
        return self._writer.epoch

    @property
    def sequence(self) -> int:
        """Number of the last batch of this epoch."""
        return self._writer.sequence

    @property
    def keeps_being_lost(self) -> bool:
        """Whether Redis forgets again and again what it was given, as one does that evicts keys."""
        since = asyncio.get_running_loop().time() - LOSS_SECONDS
        return len(self._losses) == MANY_LOSSES and self._losses[0] > since

    @property
    def is_settled(self) -> bool:
        """Whether Redis has all that it should have."""
        waiting = self._must_open or self._busy or not self._writer.is_confirmed or bool(self._pending)
        return not waiting and self._announced == self._lease

    def begin(self, lease: Lease) -> None:
        """Open a new epoch, with what the mirror holds when that happens."""
        self._lease = lease
        self._must_open = True
        self._wake.set()

    def describe(self, lease: Lease) -> None:
        """Announce a lease that says something new; nothing happens when it does not."""
        if lease != self._lease:
            self._lease = lease
            self._wake.set()

    def change(self, change: Change) -> None:
        """Publish a change of the mirror."""
        if change:
            self._pending.merge(change)
            self._wake.set()

    async def run(self) -> None:
        """Write until cancelled. Raises `StartUpError` when another agent has this replica's id at the start,
        and `FencedError` when it takes it later.

        When it is run again, after an error that nobody expected, it does not trust what was written.
        """
        self._must_open = self._must_open or bool(self.epoch)
        pauses = growing_pauses(self._settings.retry_seconds, self._settings.retry_limit_seconds)
        while True:
            try:
                if not await self._write_one():
                    await self._wait_for_work()
            except (LeaseLostError, SequenceGapError) as error:
                self._losses.append(asyncio.get_running_loop().time())
                log.warning("publication_restarted", replica=self._replica, reason=str(error))
                self._must_open = True
            except FencedError:
                await self._reopen_or_raise()
            except StoreUnavailableError as error:
                if not self.trouble:
                    log.warning("redis_lost", replica=self._replica, reason=str(error))
                self.trouble = str(error)
                await asyncio.sleep(next(pauses))
                continue
            finally:
                self._busy = False
            self.trouble = ""
            pauses = growing_pauses(self._settings.retry_seconds, self._settings.retry_limit_seconds)

    async def _write_one(self) -> bool:
        """Make the most urgent write; False when there is none."""
        lease = self._lease
        self._busy = True
        if lease is None:
            return False
        if self._must_open:
            await self._open(lease)
        elif lease != self._announced or asyncio.get_running_loop().time() >= self._next_heartbeat:
            await self._heartbeat(lease)
        elif not self._writer.is_confirmed:
            await self._writer.repeat()
        elif self._pending:
            change = self._pending.take(MAX_BATCH)
            await self._writer.publish(change.stored, change.removed, change.cleared)
        else:
            return False
        return True

    async def _open(self, lease: Lease) -> None:
        if not self.epoch:
            await self._refuse_rival()
        self._must_open = False
        try:
            await self._writer.open(lease, ())
        except BaseException:
            self._must_open = True
            raise
        # The mirror goes out in batches like any change, so that heartbeats find their turn between them.
        self._pending = Pending(stored=set(self._owned()))
        self._announced = lease
        self._next_heartbeat = 0.0
        log.info("epoch_opened", replica=self._replica, epoch=self.epoch, state=lease.state)

    async def _heartbeat(self, lease: Lease) -> None:
        await self._writer.heartbeat(lease, self._load(), changed=lease != self._announced)
        self._announced = lease
        self._next_heartbeat = asyncio.get_running_loop().time() + spread(self._settings.heartbeat_seconds)

    async def _wait_for_work(self) -> None:
        self._busy = False
        remaining = self._next_heartbeat - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(remaining, 0.0) if self._lease else None):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _refuse_rival(self) -> None:
        """Raises `StartUpError` when another agent keeps the lease of this id alive."""
        pause = self._settings.heartbeat_seconds / 2
        left = await self._milliseconds_left()
        for _ in range(RIVAL_LOOKS):
            if left <= 0:  # there is none
                return
            await asyncio.sleep(pause)
            before, left = left, await self._milliseconds_left()
            if left > before:
                raise StartUpError(
                    f"another agent publishes replica {self._replica}: "
                    "give this engine an id of its own with --replica-id, or stop that agent"
                )

    async def _milliseconds_left(self) -> int:
        return int(await self._execute("PTTL", self._settings.keys.lease(self._replica)))

    async def _reopen_or_raise(self) -> None:
        """Another epoch than ours is in Redis: raise, unless it is an old one or one of our own calls
        that came late.
        """
        with translated_errors():
            epoch, lease = await self._redis.hmget(
                self._settings.keys.lease(self._replica), ["epoch", "lease"]
            )
        taken_over = epoch is not None and int(epoch) > self.epoch
        if taken_over and not self._is_ours(lease):
            raise FencedError(
                f"replica {self._replica}: another agent publishes under this id now: "
                "run one agent per engine, or give each an id of its own with --replica-id"
            )
        self._must_open = True

    def _is_ours(self, encoded: bytes | str | None) -> bool:
        ours = self._lease.agent_url if self._lease else ""
        try:
            lease = msgspec.json.decode(encoded or b"", type=Lease)
        except msgspec.DecodeError:
            return False
        return bool(ours) and lease.agent_url == ours

    async def settle(self) -> bool:
        """Wait until Redis has all that it should have; False when that takes too long."""
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while not self.is_settled:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(SETTLE_STEP_SECONDS)
        return True

    async def verify(self) -> Difference:
        """Compare the mirror with Redis. Raises `UnsettledError` when they do not stand still long enough."""
        for _ in range(5):
            if not await self.settle():
                break
            before, owned = (self.epoch, self.sequence), frozenset(self._owned())
            stored = await self._read_owned()
            if self.is_settled and (self.epoch, self.sequence) == before:
                return Difference(missing=owned - stored, surplus=stored - owned)
        raise UnsettledError(
            f"replica {self._replica}: {self.trouble or 'blocks change too quickly to compare'}"
        )

    async def _read_owned(self) -> frozenset[int]:
        name = self._settings.keys.owned(self._replica, self.epoch)
        with translated_errors():
            return frozenset(
                unpack_keys(b"".join([key async for key in self._redis.sscan_iter(name, count=1000)]))
            )

    async def close(self) -> None:
        """Delete the lease. When Redis is away it expires by itself."""
        try:
            if self.epoch:
                await self._writer.close()
        except StoreUnavailableError as error:
            log.warning("lease_abandoned", replica=self._replica, reason=str(error))
