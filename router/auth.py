"""Who sends a request: the hook between API keys and tenants."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

from router.errors import AuthenticationError

Authenticator: TypeAlias = Callable[[str | None], str]
"""Takes the Authorization header, returns the tenant's name or raises `AuthenticationError`."""


def open_access(_authorization: str | None) -> str:
    """Everybody may come in, as one tenant without a name."""
    return ""


def api_keys(keys: Mapping[str, str]) -> Authenticator:
    """Only these keys may come in; ``keys`` maps tenants to their keys."""
    # Comparing digests takes the same time however much of a wrong key is right.
    tenants = {_digest(key): tenant for tenant, key in keys.items()}

    def authenticate(authorization: str | None) -> str:
        scheme, _, key = (authorization or "").partition(" ")
        tenant = tenants.get(_digest(key.strip())) if scheme.lower() == "bearer" else None
        if tenant is None:
            raise AuthenticationError(
                "Incorrect API key provided."
                if key
                else "No API key: send it as 'Authorization: Bearer KEY'."
            )
        return tenant

    return authenticate


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
