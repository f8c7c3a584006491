"""Why prompt tokens were computed again: every one of them has exactly one reason."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeAlias

import msgspec

from policies.types import Costs, Counts, Mask


class Reason(StrEnum):
    """Why an engine computed tokens."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and differs from that of the equal string
    __repr__ = str.__repr__

    COLD = "cold"
    """Nobody had sent them before, as far as is known."""
    DIVERGED = "diverged"
    """The conversation had been sent before, but an earlier part of it is different now."""
    RE_RENDERED = "re_rendered"
    """The conversation went on unchanged, but what the model generated came back as other tokens: written
    anew by the template, or by the client."""
    EVICTED = "evicted"
    """They were cached and had to make room."""
    REPLICA_LOST = "replica_lost"
    """They were cached on a replica that is gone, or has started anew."""
    DIVERTED = "diverted"
    """Another replica held them, but the request went elsewhere: to spare a queue, or because it could not go
    there."""
    OTHER_NAMESPACE = "other_namespace"
    """The same text was sent before for another model, adapter or tenant, whose blocks are not shared."""
    TAIL = "tail"
    """After the last block that can be reused at all: engines always compute it."""
    UNKNOWN = "unknown"
    """The replica was believed to hold them, or nothing is known of the prompt."""


Misses: TypeAlias = dict[Reason, int]
"""Tokens by reason; reasons without tokens are left out."""


PromptParts: TypeAlias = Sequence[tuple[int, Reason]]
"""A prompt cut into parts, from its first token on: where each part ends, in tokens, and why its tokens would
be computed."""


def attribute(parts: PromptParts, cached_tokens: int, prompt_tokens: int) -> Misses:
    """Why the tokens from ``cached_tokens`` on were computed. What lies beyond the parts is unknown."""
    misses: Misses = {}
    start = cached_tokens
    for end, reason in parts:
        if start < end and start < prompt_tokens:
            end = min(end, prompt_tokens)
            misses[reason] = misses.get(reason, 0) + end - start
            start = end
    if start < prompt_tokens:
        misses[Reason.UNKNOWN] = misses.get(Reason.UNKNOWN, 0) + prompt_tokens - start
    return misses


class Divergence(msgspec.Struct, frozen=True, gc=False):
    """Where a conversation differs from what was sent of it before."""

    token: int
    """First token of the first block that differs."""
    message: int
    """Number of the message, from 0; -1 where it is not known."""
    role: str
    kind: str
    """As `router.explain.divergence` has it; or re_rendered."""


class Considered(msgspec.Struct, frozen=True, gc=False):
    """What a decision saw: one number per replica of the model, ordered by id."""

    replicas: tuple[str, ...]
    row: int
    """The row of the chosen replica."""
    eligible: Mask
    cached_tokens: Counts
    queued_tokens: Counts
    running: Counts
    costs: Costs
    """Lower is better; infinite for those that could not be chosen."""
    last_replica: int
    """Row of the replica that served the conversation's last turn; -1 when unknown."""
    caches_seen: bool
