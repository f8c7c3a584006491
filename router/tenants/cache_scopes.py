"""With whom a request shares caches, and for how long.

What separates caches is a ``cache_salt``, which engines mix into the keys of blocks: a prompt with another
salt finds nothing, however long the engine keeps the old blocks. So a reset, or the end of a lifetime, is a
change of the salt.
"""

import time
import zlib
from collections.abc import Callable, Mapping
from secrets import token_hex

import msgspec

from cluster.store.operator_commands import CacheResets
from router.tenants.keys import Tenant


class CacheScope(msgspec.Struct, frozen=True):
    """What separates the caches of one tenant's requests from all others at one moment."""

    name: str = ""
    """Whose caches they are; "" is everybody's."""
    reset: float = 0.0
    """When they were last reset, in seconds since 1970."""
    period: str = ""
    """The lifetime in which they are used."""
    private: bool = False
    """Whether each conversation has a cache of its own."""
    models: Mapping[str, float] = {}
    """When the caches of single models were reset."""

    def of(self, model: str, conversation: bytes) -> tuple[str, ...]:
        """The texts that make the salt of a request; none where it shares with everybody.

        A request that names no model is separated by the last reset of any.
        """
        reset = self.models.get(model, 0.0) if model else max(self.models.values(), default=0.0)
        reset = max(reset, self.reset)
        if not reset and not self.period and not self.private:
            return (self.name,) if self.name else ()
        return self.name, f"{reset:.6f}", self.period, conversation.hex() if self.private else ""


class CacheScopes:
    """Makes scopes of what tenants may share, their lifetimes, and what operators have reset."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.resets = CacheResets()
        """As operators have decided lately."""
        self._clock = clock

    def of(self, tenant: Tenant) -> CacheScope:
        """The scope of a tenant's requests now."""
        resets = self.resets
        return CacheScope(
            tenant.scope,
            max(resets.everything, resets.tenants.get(tenant.name, 0.0)),
            self._period(tenant),
            tenant.private,
            resets.models,
        )

    def _period(self, tenant: Tenant) -> str:
        """Lifetimes of different scopes end at different times: not all prompts are computed anew at once."""
        if tenant.unshared:
            return token_hex(16)
        if not tenant.cache_seconds:
            return ""
        shift = zlib.crc32(tenant.scope.encode()) % tenant.cache_seconds
        return str(int(self._clock() + shift) // tenant.cache_seconds)
