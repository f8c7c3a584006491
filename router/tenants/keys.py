"""Who sends a request, and with whom it shares caches: the hook between API keys and tenants.

Blocks that one tenant has computed must not show in another one's answers: in counts, headers or in time. So
each tenant has a namespace of its own, at the engine by a ``cache_salt`` and here by the same one, unless
the operator lets some share.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

import msgspec

from router.errors import AuthenticationError

EVERYBODY = "*"
"""Stands for all tenants in the settings."""


class Tenant(msgspec.Struct, frozen=True):
    """Who has sent a request. Without API keys everybody is one tenant without a name."""

    name: str = ""
    scope: str = ""
    """Tenants with the same scope share caches; of an empty one caches are not separated."""
    sees_caches: bool = True
    """Whether its answers carry headers about caches."""
    models: AbstractSet[str] = frozenset()
    """The models that it may use; all when empty."""
    replicas: Mapping[str, str] = {}
    """Labels that replicas must have to serve it."""
    cache_seconds: int = 0
    """How long what was computed is used; 0 is no limit."""
    private: bool = False
    """Whether each of its conversations has a cache of its own."""
    unshared: bool = False
    """Whether nothing that was computed for it is used again."""

    def may_use(self, model: str) -> bool:
        """Whether it may use the model that clients name so."""
        return not self.models or model in self.models

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Whether a replica with these labels may serve it."""
        return all(labels.get(name) == label for name, label in self.replicas.items())


Authenticator: TypeAlias = Callable[[bytes | None], Tenant]
"""Takes the Authorization header as it came, returns the tenant or raises `AuthenticationError`."""


def authenticator(
    keys: Mapping[str, Sequence[str]],
    shared: Sequence[Sequence[str]] = (),
    hidden: AbstractSet[str] = frozenset(),
    lifetimes: Mapping[str, int] | None = None,
    of_file: Callable[[], Mapping[bytes, Tenant]] | None = None,
) -> Authenticator:
    """How to tell who sends a request: everybody may come in when there are no ``keys``, by tenant, and no
    file of keys.

    Tenants of a group in ``shared`` have one namespace, that of the group's first one. Those in ``hidden``
    are not told about caches. Caches are used for as long as ``lifetimes`` says, in seconds by tenant.
    ``of_file`` returns tenants by the SHA-256 of their keys.
    """
    lifetimes = lifetimes or {}
    if not keys and of_file is None:
        everybody = Tenant(sees_caches=EVERYBODY not in hidden, cache_seconds=lifetimes.get(EVERYBODY, 0))
        return lambda _authorization: everybody
    scopes = {name: group[0] for group in shared for name in group}
    # Looked up by digest: the time that takes says nothing about how much of a wrong key is right.
    tenants = {
        _digest(form): Tenant(
            name,
            scope="" if EVERYBODY in scopes else scopes.get(name, name),
            sees_caches=hidden.isdisjoint((name, EVERYBODY)),
            cache_seconds=lifetimes.get(name, lifetimes.get(EVERYBODY, 0)),
        )
        for name, own in keys.items()
        for key in own
        for form in header_forms(key)
    }

    def authenticate(authorization: bytes | None) -> Tenant:
        scheme, _, key = (authorization or b"").partition(b" ")
        digest = _digest(key.strip()) if scheme.lower() == b"bearer" else b""
        tenant = tenants.get(digest) or (of_file().get(digest) if of_file else None)
        if tenant is None:
            raise AuthenticationError(
                "Incorrect API key provided."
                if key
                else "No API key: send it as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'."
            )
        return tenant

    return authenticate


def credentials(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The Authorization header, or the key that clients of Anthropic's API send in its place."""
    if b"authorization" in headers or b"x-api-key" not in headers:
        return headers.get(b"authorization")
    return b"Bearer " + headers[b"x-api-key"]


def header_forms(key: str) -> frozenset[bytes]:
    """The bytes in which clients send a key: UTF-8, or ISO 8859-1 where that has all its characters."""
    forms = {key.encode()}
    if all(character <= "\xff" for character in key):
        forms.add(key.encode("latin-1"))
    return frozenset(forms)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
