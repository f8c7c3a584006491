"""Names and messages in Redis: what agents write and routers read.

Every key carries the deployment's prefix, and the replica's id as a hash tag, so that all keys of one replica
live on one node of a Redis Cluster and one Lua call can change them together.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from cluster.protocol.block_keys import Namespace


class ReplicaState(StrEnum):
    """Where a replica is in its life. Only `READY` receives requests."""

    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    """Its engine takes requests and does nothing with them until it is woken up."""
    DRAINING = "draining"
    UNREACHABLE = "unreachable"


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica's agent says of it, renewed with every heartbeat.

    The epoch is not part of it: Redis gives one to each incarnation, and keeps it beside the lease.
    """

    replica: str
    url: str
    """Base URL of the engine's own HTTP port, without a path."""
    state: ReplicaState
    model: str
    """The name under which the engine serves its model."""
    aliases: tuple[str, ...] = ()
    """Further names of the same model."""
    adapters: tuple[str, ...] = ()
    """Names of LoRA adapters served on top of it."""
    model_directory: str = ""
    """Where the engine read the model from; a router that can read it too takes the tokenizer from there."""
    max_model_len: int = 0
    """Tokens, prompt and answer together; 0 is unknown."""
    block_size: int = 0
    """Tokens per KV block; 0 is unknown."""
    capacity_blocks: int = 0
    """KV blocks the engine has room for; 0 is unknown."""
    tokenizer_fingerprint: str = ""
    publishes_events: bool = False
    """Whether this replica's ownership can be believed; without it the replica is routed to by ring and
    load."""
    labels: dict[str, str] = {}
    """What an operator says of it, such as its region: API keys may ask for replicas by labels."""
    alarms: tuple[str, ...] = ()
    """What an operator should look at, in words."""
    agent_url: str = ""
    """Where the agent answers what its mirror holds (``/mirror``), on its own machine only; "" is nowhere."""

    @property
    def names(self) -> frozenset[str]:
        """All names of the model; none before its engine has answered."""
        return frozenset((self.model, *self.aliases)) - {""}

    @property
    def base(self) -> str:
        """The one of `names` that counts where models are told apart: engines' orders may differ."""
        return min((self.model, *self.aliases))

    def namespace(self, lora: str = "", cache_salt: str = "") -> Namespace:
        """The namespace of blocks on this replica."""
        return Namespace(self.tokenizer_fingerprint, self.block_size, lora, cache_salt)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges of one engine at its last heartbeat, and its own counters since it started."""

    running: int = 0
    """Requests in the engine's batch."""
    waiting: int = 0
    """Requests queued in the engine."""
    kv_usage: float = 0.0
    """Share of KV blocks in use by running requests, 0 to 1."""
    stored_blocks: int = 0
    """Blocks announced since the epoch began."""
    evicted_blocks: int = 0
    """Blocks removed since the epoch began."""
    last_event_age: float = -1.0
    """Seconds since the last KV event; negative when there was none."""
    prefix_queries: int = 0
    """Prompt tokens the engine looked up in its prefix cache since it started."""
    prefix_hits: int = 0
    """Prompt tokens it found there."""


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """One change of what a replica owns. ``cleared`` comes first, then ``removed``, then ``stored``.

    Keys are packed as `cluster.protocol.block_keys.pack_keys` does. Batches of one epoch are numbered from 1.
    """

    replica: str
    epoch: int
    sequence: int
    stored: bytes = b""
    removed: bytes = b""
    cleared: bool = False


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """Announces that a replica's lease changed; readers fetch it."""

    replica: str
    left: bool = False
    """Whether it was given up on purpose."""


class Booked(msgspec.Struct, frozen=True, array_like=True):
    """What one router has booked on one replica."""

    running: int = 0
    """Requests that have not ended."""
    queued_tokens: int = 0
    """Their uncached prompt tokens whose prefill has not finished."""
    active_tokens: int = 0
    """All their prompt tokens."""
    engine_tokens: int = 0
    """Queued tokens that the engine has been sent, and whose computation is seen: not those of requests that
    wait in the router."""


class Expected(msgspec.Struct, frozen=True, array_like=True):
    """Blocks that a replica is about to hold, because a prompt has just been sent to it."""

    number: int
    """The booking's number, as its router counts."""
    replica: str
    keys: bytes
    """Packed as `cluster.protocol.block_keys.pack_keys` does, without those that the replica holds already.
    """


class ProgramTurn(msgspec.Struct, frozen=True, array_like=True):
    """A turn of a program that has begun on a replica, or, without one, waits for room in KV memory."""

    number: int
    """The booking's number, as its router counts."""
    program: int
    replica: str = ""
    prompt_tokens: int = 0
    blocks: bytes = b""
    """Packed keys: the prompt's first block, and those that are counted."""


class Bookings(msgspec.Struct, frozen=True, array_like=True):
    """What one router has booked, for the others. Loads are totals and not changes, so that a lost or
    repeated message does no lasting harm.
    """

    router: str
    replicas: dict[str, Booked]
    """Bookings by replica id: all that are not zero when ``complete``, else those that changed."""
    complete: bool = False
    expected: tuple[Expected, ...] = ()
    """Blocks of the bookings made since the last message."""
    computed: tuple[int, ...] = ()
    """Numbers of bookings whose prompts have been computed, or given up, since the last message."""
    turns: tuple[ProgramTurn, ...] = ()
    """Turns of programs that have begun since the last message, or that wait."""
    ended: tuple[tuple[int, float], ...] = ()
    """Numbers of bookings whose turns have ended since, and how many seconds each took."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys and channels of one deployment."""

    prefix: str

    def lease(self, replica: str) -> str:
        """Hash: epoch, sequence of the last batch, lease and state."""
        return f"{self.prefix}:replica:{{{replica}}}"

    def load(self, replica: str) -> str:
        """String: `Load`, encoded."""
        return f"{self.prefix}:load:{{{replica}}}"

    def owned(self, replica: str, epoch: int) -> str:
        """Set of 8-byte keys."""
        return f"{self.prefix}:owned:{{{replica}}}:{epoch}"

    def log(self, replica: str, epoch: int) -> str:
        """Stream of batches; an entry's id is its sequence number."""
        return f"{self.prefix}:log:{{{replica}}}:{epoch}"

    def farewell(self, replica: str) -> str:
        """String: there when the replica's agent has given up its lease on purpose."""
        return f"{self.prefix}:farewell:{{{replica}}}"

    def inflight(self, router: str) -> str:
        """String: the router's complete `Bookings`, encoded."""
        return f"{self.prefix}:inflight:{{{router}}}"

    @property
    def routers(self) -> str:
        """Set of the ids of routers, living ones and some that have died."""
        return f"{self.prefix}:routers"

    @property
    def bookings(self) -> str:
        """Channel on which routers publish their `Bookings`."""
        return f"{self.prefix}:bookings"

    @property
    def members(self) -> str:
        """Sorted set of replica ids, all with score 0: living replicas and some that have died."""
        return f"{self.prefix}:members"

    @property
    def batches(self) -> str:
        """Channel on which every batch is published."""
        return f"{self.prefix}:batches"

    @property
    def memberships(self) -> str:
        """Channel on which changes of leases are published."""
        return f"{self.prefix}:memberships"
