"""How fast engines are: the coefficients of a step's duration."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One engine. A step takes as long as the sum of what it computes."""

    step_seconds: float = 0.010
    """Any step."""
    prefill_seconds: float = 1 / 12_000
    """Each prompt token."""
    decode_seconds: float = 0.0001
    """Each request that decodes."""
    prefill_context_seconds: float = 0.0
    """Each prompt token, for each token before it: attention."""
    decode_context_seconds: float = 0.0
    """Each request that decodes, for each token before it: reading its KV blocks."""
    num_blocks: int = 6_000
    """Blocks of the KV cache."""
    max_batched_tokens: int = 2_048
    """Tokens computed in one step."""
    max_num_seqs: int = 256
    """Requests in the batch."""

    def slower(self, factor: float) -> "EngineProfile":
        """The same engine, needing ``factor`` times as long for everything."""
        return replace(
            self,
            step_seconds=self.step_seconds * factor,
            prefill_seconds=self.prefill_seconds * factor,
            decode_seconds=self.decode_seconds * factor,
            prefill_context_seconds=self.prefill_context_seconds * factor,
            decode_context_seconds=self.decode_context_seconds * factor,
        )


PROFILES: Mapping[str, EngineProfile] = MappingProxyType({"sim": EngineProfile()})
"""By name. ``sim`` has the defaults of the simulated engine that runs in real time."""
