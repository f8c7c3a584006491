"""Consistent hashing with bounded loads, on uhashring.

Source of the bound: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016. No
replica takes more than ``bound`` times the mean load; a key whose replica is full goes to the next one
clockwise.
"""

from collections.abc import Iterator
from functools import lru_cache

from uhashring import HashRing

from policies.types import Costs, Mask

DEFAULT_BOUND = 1.25


@lru_cache(maxsize=64)
def _ring(replicas: tuple[str, ...]) -> tuple[HashRing, dict[str, int]]:
    return HashRing(list(replicas)), {replica: row for row, replica in enumerate(replicas)}


def walk(replicas: tuple[str, ...], key: int) -> Iterator[int]:
    """All rows, in the order in which the ring meets their replicas from the key onwards."""
    ring, rows = _ring(replicas)
    for replica in ring.iterate_nodes(f"{key:016x}"):
        yield rows[replica]


def first_on_ring(replicas: tuple[str, ...], key: int, candidates: Mask) -> int:
    """The first candidate clockwise from the key. There must be one."""
    return next(row for row in walk(replicas, key) if candidates[row])


def first_with_room(
    replicas: tuple[str, ...],
    key: int,
    candidates: Mask,
    load: Costs,
    added: float,
    bound: float = DEFAULT_BOUND,
) -> int:
    """The first candidate clockwise whose load, with this request's ``added``, stays within the bound.

    A request too large for everybody's bound goes where the load is least.
    """
    loads = load[candidates]
    limit = bound * (float(loads.sum()) + added) / loads.size
    with_room = candidates & (load + added <= max(limit, float(loads.min()) + added))
    return first_on_ring(replicas, key, with_room)
