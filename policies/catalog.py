"""All policies by name. To add one, write a pure function and enter it here."""

from types import MappingProxyType

from policies.baselines import consistent_hash, least_load, round_robin
from policies.types import Catalog
from policies.warm import warm

DEFAULT_POLICY = "warm"

POLICIES: Catalog = MappingProxyType(
    {
        "warm": warm,
        "consistent-hash": consistent_hash,
        "least-load": least_load,
        "round-robin": round_robin,
    }
)
