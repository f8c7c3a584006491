"""Consistent hashing with bounded loads; uhashring places the replicas' points.

Source of the bound: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016. No
replica takes more than ``bound`` times the mean load; a key whose replica is full goes to the next one
clockwise.

The order is that of uhashring's own walk. With a thousand replicas that walk takes a millisecond, and
building the ring a third of a second. Here a ring is two sorted arrays, a new one takes over what it shares
with the one before, and the first candidate is looked for by compiled code.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5

import numpy as np
from numpy.typing import NDArray
from uhashring import HashRing

from policies.compiled import MASK, kernel
from policies.types import Costs, Mask

DEFAULT_BOUND = 1.25
MAX_RINGS = 16
"""Rings kept, one for each set of replicas that was asked for lately."""
MAX_REPLICAS = 8_192
"""Replicas whose points are kept."""


@dataclass(frozen=True, slots=True)
class _Ring:
    """All points in order, and the row that each of them belongs to."""

    rows: dict[str, int]
    points: NDArray[np.uint64]
    owners: NDArray[np.int32]

    def changed_to(self, replicas: tuple[str, ...]) -> "_Ring":
        """The ring of other replicas: only points of those that are new here are sorted."""
        rows = {replica: row for row, replica in enumerate(replicas)}
        new_rows = np.array([rows.get(replica, -1) for replica in self.rows], dtype=np.int32)
        owners = new_rows.take(self.owners)
        stays = owners >= 0
        points, owners = self.points[stays], owners[stays]

        joined = [replica for replica in replicas if replica not in self.rows]
        parts = [points_of(replica) for replica in joined]
        joined_points = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
        joined_owners = np.repeat([rows[replica] for replica in joined], [part.size for part in parts])
        order = np.argsort(joined_points, kind="stable")
        places = np.searchsorted(points, joined_points[order])
        owners = np.insert(owners, places, joined_owners[order])
        return _Ring(rows, np.insert(points, places, joined_points[order]), owners)


_rings: OrderedDict[tuple[str, ...], _Ring] = OrderedDict()
_NO_RING = _Ring({}, np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int32))


def hash_of(text: str) -> int:
    """uhashring's own hash, the first 64 of its 128 bits."""
    return int.from_bytes(md5(text.encode()).digest()[:8], "big")


@lru_cache(maxsize=MAX_REPLICAS)
def points_of(replica: str) -> NDArray[np.uint64]:
    """A replica's points, in order. The first time takes a fifth of a millisecond."""
    points = HashRing([replica], hash_fn=hash_of).get_points()
    return np.array([point for point, _ in points], dtype=np.uint64)


def _place_of(key: int) -> int:
    return hash_of(f"{key:016x}")


@kernel(f"int64(Array(uint64, 1, 'C', readonly=True), Array(int32, 1, 'C', readonly=True), uint64, {MASK})")
def _first_candidate(
    points: NDArray[np.uint64], owners: NDArray[np.int32], place: int, candidates: Mask
) -> int:
    """The row of the first candidate after a place. There must be one."""
    start = np.searchsorted(points, place, side="right")
    for owner in owners[start:]:
        if candidates[owner]:
            return int(owner)
    for owner in owners[:start]:
        if candidates[owner]:
            return int(owner)
    return -1


def _ring(replicas: tuple[str, ...]) -> _Ring:
    ring = _rings.get(replicas)
    if ring is None:
        latest = next(reversed(_rings.values()), _NO_RING)
        ring = _rings[replicas] = latest.changed_to(replicas)
        if len(_rings) > MAX_RINGS:
            _rings.popitem(last=False)
    _rings.move_to_end(replicas)
    return ring


def walk(replicas: tuple[str, ...], key: int) -> Iterator[int]:
    """All rows, in the order in which the ring meets their replicas from the key onwards."""
    ring = _ring(replicas)
    start = int(np.searchsorted(ring.points, np.uint64(_place_of(key)), side="right"))
    yield from dict.fromkeys(np.roll(ring.owners, -start).tolist())


def shares_of(replicas: tuple[str, ...]) -> list[float]:
    """Of all keys, the share of which the ring meets each replica first."""
    ring = _ring(replicas)
    if not ring.points.size:
        return [0.0] * len(replicas)
    arcs = ring.points - np.roll(ring.points, 1)  # unsigned: the first one goes over the end
    shares: list[float] = (np.bincount(ring.owners, arcs, len(replicas)) / 2.0**64).tolist()
    return shares


def first_on_ring(replicas: tuple[str, ...], key: int, candidates: Mask) -> int:
    """The first candidate clockwise from the key. There must be one."""
    if np.count_nonzero(candidates) == 1:
        return int(candidates.argmax())
    ring = _ring(replicas)
    return _first_candidate(ring.points, ring.owners, _place_of(key), candidates)


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
