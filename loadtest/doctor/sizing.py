"""How much cache the traffic needs: hit rate by capacity, by number of replicas, and bytes per token."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.doctor.block_memory import Reuse

GIB = 1024**3
MOST = 0.95
"""The share of the hits of an endless cache that the working set must give."""
REPLICAS = (1, 2, 4, 8, 16)
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1}


@dataclass(frozen=True, slots=True)
class FleetPoint:
    """What so many replicas would find in their caches."""

    replicas: int
    aware: float
    """Hit rate when requests go where their blocks are."""
    blind: float
    """Hit rate when each request goes to any replica."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Hits of one least-recently-used cache, by its capacity."""

    capacities: NDArray[np.float64]
    """Blocks."""
    hits: NDArray[np.float64]
    """Blocks found by a cache of this capacity, over the whole log."""

    @classmethod
    def of(cls, reuse: Reuse, scale: float = 1.0) -> "Curve":
        """The curve that follows from the distances that were seen, each times ``scale``."""
        sizes = [scale * reuse.distance_of(place) for place in range(len(reuse.histogram))]
        return cls(np.array(sizes), np.cumsum(reuse.histogram.sum(axis=1)).astype(np.float64))

    def at(self, capacity: float) -> float:
        """Hits of a cache of so many blocks."""
        place = int(np.searchsorted(self.capacities, capacity, side="right"))
        return float(self.hits[place - 1]) if place else 0.0

    @property
    def working_set(self) -> int:
        """Blocks that give `MOST` of the hits; 0 when nothing is ever found."""
        if not self.hits[-1]:
            return 0
        return int(self.capacities[int(np.searchsorted(self.hits, MOST * self.hits[-1]))])


def fleet_points(
    reuse: Reuse, total_tokens: int, block_size: int, blocks_per_replica: float, shared_blocks: int
) -> list[FleetPoint]:
    """Hit rates of fleets, approximately.

    Aware: as one cache of all replicas' blocks, less a copy of what is shared for each replica but one.
    Blind: a block that n requests touched before is on a replica drawn by lot with probability
    1 - (1 - 1/N)^n, while what was touched since, spread over N replicas, leaves room for it.
    """
    curve = Curve.of(reuse)
    touches = np.arange(reuse.histogram.shape[1])
    points = []
    for replicas in REPLICAS:
        pooled = max(
            replicas * blocks_per_replica - (replicas - 1) * min(shared_blocks, blocks_per_replica),
            blocks_per_replica,
        )
        there = 1 - (1 - 1 / replicas) ** touches
        room = curve.capacities / replicas <= blocks_per_replica
        blind = float((reuse.histogram[room] * there).sum())
        aware = curve.at(pooled)
        scale = block_size / max(total_tokens, 1)
        points.append(FleetPoint(replicas, aware * scale, min(blind, aware) * scale))
    return points


def bytes_per_token(directory: Path) -> int | None:
    """KV cache of one token, from the model's config.json; None when it does not say."""
    try:
        config: Mapping[str, Any] = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    config = config.get("text_config") or config
    try:
        layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    except (KeyError, TypeError, ValueError):
        return None
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return 2 * layers * kv_heads * head_dim * DTYPE_BYTES.get(dtype, 2)


def thinned(curve: Curve, points: int = 60) -> Sequence[tuple[float, float]]:
    """Capacity and hits at places where something changes, for a plot."""
    changes = np.flatnonzero(np.diff(curve.hits, prepend=0.0) > 0)
    if not len(changes):
        return []
    first, last = max(int(changes[0]) - 1, 0), min(int(changes[-1]) + 4, len(curve.hits) - 1)
    places = np.unique(np.linspace(first, last, points).round().astype(int))
    return [(float(curve.capacities[place]), float(curve.hits[place])) for place in places]
