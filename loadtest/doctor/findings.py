"""Adds up what each fix would win, and where its defect was met."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from loadtest.doctor.block_memory import BlockMemory, VariantMemory
from loadtest.doctor.fixes import Mended, Place, asked_for
from loadtest.doctor.kinds import ALL, NONE, REMEDIES, Kind
from loadtest.doctor.personal_data import shape, visible, without_names, without_personal_data
from loadtest.doctor.prompts import RequestKeys
from loadtest.doctor.shared_texts import Shared

MIN_REQUESTS = 3
MIN_SHARE = 0.002
"""The share of all prompt tokens that makes what wins them a finding."""
MIN_CARRIERS = 0.02
"""The share of requests that makes what they have a finding, if it wins anything. An endless cache pays for
two spellings of a prompt once; real ones pay on every replica, and again after every eviction."""
MAX_OFFSETS = 1000
CONTEXT_UNITS = 5
"""Words shown on each side of an example."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of defect in the log."""

    kind: Kind
    requests: int
    """Requests that have it; scaled up when only a sample was looked at."""
    requests_hurt: int
    """How many requests would have found more without it."""
    tokens_alone: int
    """Tokens that would not be computed if only this were mended."""
    tokens_last: int
    """Tokens that would not be computed if all else were mended already, and then this."""
    message: int
    """The message in which it mostly is, counted from 1; 0 for the tools."""
    role: str
    offset: int
    """Characters from the beginning of that message, median."""
    token_offset: int
    """Tokens of the prompt that were found before it broke, median."""
    example: str

    @property
    def tokens(self) -> int:
        """The most that it can win."""
        return max(self.tokens_alone, self.tokens_last)


@dataclass(slots=True)
class _Seen:
    requests: int = 0
    hurt: int = 0
    where: Counter[tuple[int, str]] = field(default_factory=Counter)
    offsets: list[int] = field(default_factory=list)
    token_offsets: list[int] = field(default_factory=list)
    example: Place | None = None


class FindingCollector:
    """Simulates every fix on the sampled requests."""

    def __init__(self, prompts: RequestKeys) -> None:
        self._prompts = prompts
        self._asked = asked_for()
        self._memory = VariantMemory(len(self._asked))
        self.all_mended = BlockMemory(1 << 22)
        """The traffic without any defect."""
        self._computed = np.zeros(len(self._asked), dtype=np.int64)
        self._seen = {kind: _Seen() for kind in Kind}
        self.requests = 0
        self.tokens = 0
        self.tokens_mended = 0
        """Tokens of the prompts without any defect: more, where trimmed histories are put back."""

    @property
    def restarts(self) -> int:
        """How often the simulated caches were full."""
        return self._memory.restarts

    @property
    def computed_mended(self) -> int:
        """Tokens of the sampled requests that would be computed if all were mended."""
        return int(self._computed[1])

    @property
    def computed(self) -> int:
        """Tokens of the sampled requests that are computed as they are."""
        return int(self._computed[0])

    def add(self, mended: Mended) -> None:
        """Count one sampled request."""
        block_size = self._prompts.block_size
        computed = np.zeros(len(self._asked), dtype=np.int64)
        hits_as_is = 0
        for kinds, request in mended.requests.items():
            bits = [number for number, asked in enumerate(self._asked) if asked & mended.kinds == kinds]
            keyed = self._prompts.keyed(request)
            leading = self._memory.touch(keyed.keys, sum(1 << bit for bit in bits))
            usable = np.minimum(leading[bits], max(keyed.num_tokens - 1, 0) // block_size) * block_size
            computed[bits] = keyed.num_tokens - usable
            if kinds == NONE:
                self.tokens += keyed.num_tokens
                hits_as_is = int(usable[0])
            if kinds == ALL & mended.kinds:
                self.tokens_mended += keyed.num_tokens
                self.all_mended.touch(keyed.keys, keyed.num_tokens, block_size)
        self.requests += 1
        self._computed += computed
        for number, kind in enumerate(Kind):
            alone, without = 2 + number, 2 + len(Kind) + number
            if max(computed[0] - computed[alone], computed[without] - computed[1]) >= block_size:
                self._seen[kind].hurt += 1
        for kind in {place.kind for place in mended.places}:
            self._note(next(place for place in mended.places if place.kind is kind), hits_as_is)

    def _note(self, place: Place, hits_as_is: int) -> None:
        seen = self._seen[place.kind]
        seen.requests += 1
        seen.where[(place.message, place.role)] += 1
        if len(seen.offsets) < MAX_OFFSETS:
            seen.offsets.append(place.offset)
            seen.token_offsets.append(hits_as_is)
        seen.example = seen.example or place

    def findings(self, scale: float) -> list[Finding]:
        """What is worth a change, the most valuable first. ``scale``: tokens of the log per sampled token."""
        found = []
        for number, kind in enumerate(Kind):
            seen = self._seen[kind]
            alone = int(self._computed[0] - self._computed[2 + number])
            # Leaving this one out may make other fixes a loss; then one would rather change nothing.
            without = min(self._computed[2 + len(Kind) + number], self._computed[0])
            last = int(without - self._computed[1])
            much = max(alone, last) >= MIN_SHARE * self.tokens
            frequent = seen.requests >= MIN_CARRIERS * self.requests and seen.hurt
            if seen.requests < MIN_REQUESTS or not (much or frequent):
                continue
            (message, role), _ = seen.where.most_common(1)[0]
            found.append(
                Finding(
                    kind=kind,
                    requests=round(seen.requests * scale),
                    requests_hurt=round(seen.hurt * scale),
                    tokens_alone=round(alone * scale),
                    tokens_last=round(last * scale),
                    message=message,
                    role=role,
                    offset=round(median(seen.offsets or [0])),
                    token_offset=round(median(seen.token_offsets or [0])),
                    example=_example(seen.example),
                )
            )
        return sorted(found, key=lambda finding: (-finding.tokens, REMEDIES[finding.kind].title))


def _example(place: Place | None) -> str:
    """The masked difference, between words that all versions share."""
    if place is None or place.piece is None:
        return ""
    own, first = (visible(shape(text)) for text in (place.piece.own, place.piece.fixed))
    change = f"[{own or '∅'} | {first or '∅'}]"
    shared, unit = place.shared, place.piece.unit
    if shared is None or unit < 0:
        return change
    before = _context(shared, range(max(unit - CONTEXT_UNITS, 0), unit))
    after = _context(shared, range(unit + 1, min(unit + 1 + CONTEXT_UNITS, len(shared.units))))
    return f"{before} {change} {after}".strip()


def _context(shared: Shared, places: range) -> str:
    parts = []
    for place in places:
        unit = shared.units[place]
        hidden = place in shared.volatile or unit.tag != "word"
        parts.append(unit.lead + (shape(unit.core, 12) if hidden else unit.core))
    return visible(without_names(without_personal_data("".join(parts))).strip())
