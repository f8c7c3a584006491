"""All generated workloads by name. To add one, write a generator and enter it here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from loadtest.simulator.workload import Workload
from loadtest.workloads.agents import Agents
from loadtest.workloads.chat import Bursts, Chat, ClosedChat, Rollout, Tenants
from loadtest.workloads.single import HotPrefix, NoSharing, Rag

WORKLOADS: Mapping[str, Callable[[int], Workload]] = MappingProxyType(
    {
        "chat": Chat().build,
        "chat-closed": ClosedChat().build,
        "agents": Agents().build,
        "rag": Rag().build,
        "hot-prefix": HotPrefix().build,
        "no-sharing": NoSharing().build,
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

DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "chat": "conversations that arrive at a rate, users who think, a few system prompts",
        "chat-closed": "the same from a fixed number of users, each with one conversation after the other",
        "agents": "long shared tool prompts, steps in quick succession, some of them in parallel",
        "rag": "questions about shared documents, popular and rare",
        "hot-prefix": "one long prefix in nearly every request, too many for one replica",
        "no-sharing": "prompts with nothing in common",
        "bursts": "short conversations, at times at five times the mean rate",
        "tenants": "200 tenants, each with a system prompt, of very different size",
        "rollout": "one long system prompt in every conversation, replaced by another one in the middle",
    }
)
"""One line each, for the command line."""
