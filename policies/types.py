"""What a policy sees and what it answers. All of it is immutable."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Counts: TypeAlias = NDArray[np.int64]
Costs: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]


class Request(NamedTuple):
    """What may be known about a request: lengths and keys, never its text."""

    prompt_tokens: int
    opening_tokens: int
    """Leading tokens that other conversations are likely to share (system prompt, tools)."""
    conversation_key: int
    """64 bits that stay the same over all turns of a conversation."""
    may_wait: bool = True
    """Whether it may still be held until there is room in KV memory."""


class Outlook(NamedTuple):
    """What will be used again of what replicas hold."""

    room_tokens: Costs
    """Tokens that each replica could hold beside what conversations will soon use again, once it held this
    prompt. Less than 0 is what it would evict of that."""
    comes_back_soon: bool
    """Whether a next turn of this conversation will probably follow soon after the answer."""


class Snapshot(NamedTuple):
    """The replicas that serve the request's model: one row each, ordered by id."""

    replicas: tuple[str, ...]
    eligible: Mask
    """Ready, reachable and not tried before for this request."""
    cached_tokens: Counts
    """Leading tokens of this prompt that the replica is believed to hold."""
    queued_tokens: Counts
    """Prompt tokens booked on the replica whose prefill has not finished, without those it holds."""
    running: Counts
    """Requests booked on the replica that have not ended."""
    active_tokens: Counts
    """Prompt tokens of the requests booked on the replica that have not ended."""
    pace: Costs
    """Time that the replica needs for a token over what others need; 1 where no difference is known."""
    number: int
    """How many decisions for this model came before this one: what a rotating policy uses for a counter."""
    last_replica: int = -1
    """Row of the replica that served this conversation's last turn; -1 when it is unknown or gone."""
    caches_seen: bool = True
    """Whether it is known what replicas hold of this prompt; otherwise `cached_tokens` are 0."""
    share: float = 0.0
    """The part of the recent prompts that parted ways with another one which did so where this one does."""

    outlook: Outlook | None = None
    """What KV memory will hold; None when that is not known."""


class Decision(NamedTuple):
    """Which replica, and why. `row` counts into the snapshot."""

    row: int
    reason: str
    costs: Costs
    """One number per replica, lower is better; infinite for replicas that could not be chosen."""
    room_tokens: float = math.inf
    """The request waits in the router while the replica's engine has so many tokens to compute, or more."""
    waits: bool = False
    """The request waits in the router until conversations have made room, and is then decided again."""


Policy: TypeAlias = Callable[[Request, Snapshot], Decision]
Catalog: TypeAlias = Mapping[str, Policy]


class NoReplicaError(Exception):
    """No replica is eligible for this request."""
