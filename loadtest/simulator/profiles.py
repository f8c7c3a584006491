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
    """Blocks of the KV cache, of the workload's block size."""
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


VLLM_CPU = EngineProfile(
    step_seconds=0.0484,
    prefill_seconds=0.00129,
    decode_seconds=0.0,
    prefill_context_seconds=1.18e-6,
    decode_context_seconds=5.34e-6,
    num_blocks=2_912,
    max_batched_tokens=2_048,
    max_num_seqs=128,
)
"""SmolLM2-135M in BF16 on vLLM 0.32 for CPUs, one thread of a machine with two cores.

Fitted on 22 November 2026 with ``python -m loadtest.studies.fit_profile --engine-url
http://127.0.0.1:18731``, five rounds while the machine had other work. R^2 0.999. First tokens are within
3%, nine of twelve times between tokens within 13%, the others within 18%, 22% and 41%: there the rounds
themselves differed by up to a factor of 4. The cache of 1 GiB holds 364 blocks of 128 tokens, 2,912 of 16.
"""

H100_8B = EngineProfile(
    step_seconds=0.00557,
    prefill_seconds=1.245e-5,
    decode_seconds=2.63e-5,
    prefill_context_seconds=1.48e-9,
    decode_context_seconds=8.25e-8,
    num_blocks=32_300,
    max_batched_tokens=8_192,
    max_num_seqs=1_024,
)
"""Llama 3(.1) 8B in FP8 on one H100 80GB.

All seconds are fitted to NVIDIA's measurements of Llama 3 8B Instruct in NIM (TensorRT-LLM): mean latency
of closed loops of 1 to 250 requests with 200/200, 2,000/200 and 7,000/1,000 tokens, and TTFT of single ones
(nim.csv of a notebook on sizing inference clusters; copy: github.com/wbing520/ai-performance-engineering,
folder code/ch10_inference/inference_gpu_cluster_sizing/dataset). Figures and fit:
tests/loadtest/test_published_profiles.py. R^2 0.990, error 4% in the median and 17% at most. They mean
80,000 prompt tokens/s and 5.6 ms per step of a small batch; for later versions NVIDIA publishes 4.4 to 4.6
ms between tokens of a single request (docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance).

Blocks, 16 tokens each with keys and values in 16 bits: 2 x 32 layers x 8 heads x 128 x 2 bytes x 16 = 2.097
MB. vLLM takes 90% of 85.5 GB; weights are 7.0e9 in FP8, and 1.05e9 of embedding and output layer in BF16,
9.1 GB: (77.0 - 9.1) / 0.002097 = 32,300. (By the same arithmetic 29,000 with all weights in BF16; a
simulator fitted to vLLM 0.8.4 has 29,205: defaults.yaml of github.com/inference-sim/inference-sim.) Limits
of a step are vLLM's for an H100.
"""

H100X4_70B = EngineProfile(
    step_seconds=0.01558,
    prefill_seconds=4.52e-5,
    decode_seconds=5.52e-5,
    prefill_context_seconds=1.85e-9,
    decode_context_seconds=2.33e-8,
    num_blocks=44_800,
    max_batched_tokens=8_192,
    max_num_seqs=1_024,
)
"""Llama 3(.1) 70B in FP8 on four H100 80GB, tensor parallel.

From the same source, by the same fit: R^2 0.980, error 3% in the median and 29% at most (ten requests of
7,000 tokens). They mean 22,100 prompt tokens/s. With 200/200 tokens and 1 to 250 requests the source has
13.7 to 33 ms between tokens; NVIDIA's later table for Llama 3.1 70B has 13.2 to 35 ms
(docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance-tables/llm-1_3-llama3_1-70b.html).

Blocks: 2 x 80 layers x 8 heads x 128 x 2 bytes x 16 = 5.243 MB. Weights are 68.5e9 in FP8, and 2.1e9 in
BF16, 72.7 GB: (4 x 77.0 - 72.7) / 0.005243 = 44,800.
"""

PROFILES: Mapping[str, EngineProfile] = MappingProxyType(
    {
        "sim": EngineProfile(),
        "vllm-cpu": VLLM_CPU,
        "h100-llama-3.1-8b": H100_8B,
        "h100x4-llama-3.1-70b": H100X4_70B,
    }
)
"""Profiles by name. ``sim`` has the defaults of the simulated engine that runs in real time."""
