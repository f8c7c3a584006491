"""All policies by name. To add one, write a pure function and enter it here, or in a package of your own as
`policies.installed` says.
"""

from types import MappingProxyType

from policies.affinity import (
    aibrix_prefix_cache,
    llm_d,
    longest_prefix,
    preble,
    production_stack_kv_aware,
    ray_serve_prefix_aware,
    smg_cache_aware,
    vllm_router_cache_aware,
)
from policies.baselines import consistent_hash, least_load, power_of_two, round_robin
from policies.installed import installed_policies
from policies.programs import programs
from policies.scoring import dynamo, least_work, llm_d_weighted, lmetric
from policies.types import Catalog
from policies.warm import warm

DEFAULT_POLICY = "warm"

BUILT_IN: Catalog = {
    "warm": warm,
    "programs": programs,
    "round-robin": round_robin,
    "least-load": least_load,
    "power-of-two": power_of_two,
    "consistent-hash": consistent_hash,
    "longest-prefix": longest_prefix,
    "vllm-router-cache-aware": vllm_router_cache_aware,
    "smg-cache-aware": smg_cache_aware,
    "aibrix-prefix-cache": aibrix_prefix_cache,
    "production-stack-kv-aware": production_stack_kv_aware,
    "ray-serve-prefix-aware": ray_serve_prefix_aware,
    "llm-d": llm_d,
    "preble": preble,
    "least-work": least_work,
    "lmetric": lmetric,
    "dynamo": dynamo,
    "llm-d-weighted": llm_d_weighted,
}

NEED_ROOM = frozenset({programs})
"""Those that see what room there is in KV memory, and may make requests wait for it."""

POLICIES: Catalog = MappingProxyType({**BUILT_IN, **installed_policies(BUILT_IN)})
