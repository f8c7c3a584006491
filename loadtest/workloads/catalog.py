"""All generated workloads by name. To add one, write a generator and enter it here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from loadtest.simulator.workload import Workload
from loadtest.workloads.agents import Agents
from loadtest.workloads.chat import Bursts, Chat, ClosedChat, Rollout, Tenants
from loadtest.workloads.forest import Forest
from loadtest.workloads.single import HotPrefix, NoSharing, Rag

WORKLOADS: Mapping[str, Callable[[int], Workload]] = MappingProxyType(
    {
        "chat": Chat().build,
        "chat-closed": ClosedChat().build,
        "agents": Agents().build,
        "rag": Rag().build,
        "hot-prefix": HotPrefix().build,
        "no-sharing": NoSharing().build,
        "forest": Forest().build,
        "bursts": Bursts().build,
        "tenants": Tenants().build,
        "rollout": Rollout().build,
    }
)
"""Functions from a seed to the workload. Rates are such that the middle half of each keeps 8 replicas about
70% busy when caching is as good as in one pooled cache (12,000 prompt tokens/s, 10 ms per step of at most
2,048 prompt tokens, 0.1 ms per answer token, 6,000 blocks of 16 tokens each); `Workload.faster` changes the
load.
"""
