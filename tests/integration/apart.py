"""Tries to find in an engine's cache what must not be found there any more, or by this key."""

import asyncio
from pathlib import Path
from secrets import token_hex
from typing import Any

from router.tenants.key_file import add_key, read_keys, revoke_key
from tests.integration.system import System

TEXT = "It is long enough to fill a good number of blocks, and begins with what nobody has sent before. " * 10
STRANGERS: dict[str, dict[str, Any]] = {
    "other tenant": {"tenant": "b"},
    "other role": {"tenant": "a", "role": "agent"},
    "other environment": {"tenant": "a", "environment": "test"},
    "group": {"tenant": "a", "cache": "group:x"},
    "public": {"tenant": "a", "cache": "public"},
    "private": {"tenant": "a", "cache": "private"},
    "none": {"tenant": "a", "cache": "none"},
}


class Apart:
    """A router with keys of all kinds in front of engines that are there."""

    def __init__(self, system: System, model: str, folder: Path) -> None:
        self._system, self._model, self._file = system, model, folder / "keys.json"
        self._secrets = {name: add_key(self._file, **kind)[1] for name, kind in STRANGERS.items()}
        self._own = add_key(self._file, tenant="a")[1]
        self._mortal = add_key(self._file, tenant="m", cache_seconds=1)[1]
        self._url = ""
        self._text = ""

    async def start(self, **environment: str) -> None:
        """Start the router."""
        self._url = await self._system.start_router(WARMROUTE_API_KEYS_FILE=str(self._file), **environment)

    async def round(self) -> list[int]:
        """Tokens found in each of ten tries, each after the same prompt was found by its owner."""
        self._text = token_hex(64) + TEXT
        assert await self._ask(self._own) == 0
        assert await self._ask(self._own) > 0
        found = [await self._ask(secret) for secret in self._secrets.values()]
        await self._reset("")
        found.append(await self._ask(self._own))
        assert await self._ask(self._own) > 0
        await self._reset(f"?model={self._model}")
        found.append(await self._ask(self._own))
        await self._ask(self._mortal)
        await asyncio.sleep(1.01)
        found.append(await self._ask(self._mortal))
        return found

    async def revoked_is_refused(self) -> None:
        """Within a second after its key was revoked."""
        revoke_key(self._file, next(key.id for key in read_keys(self._file) if key.tenant == "b"))
        await asyncio.sleep(1)
        assert await self._ask(self._secrets["other tenant"], expected=401) == 0

    async def _reset(self, what: str) -> None:
        async with self._system.session.post(f"{self._url}/admin/caches/reset{what}") as response:
            assert response.status == 200, await response.text()

    async def _ask(self, secret: str, expected: int = 200) -> int:
        messages = [{"role": "user", "content": self._text}]
        body = {"model": self._model, "max_tokens": 1, "messages": messages}
        headers = {"authorization": f"Bearer {secret}"}
        async with self._system.session.post(
            f"{self._url}/v1/chat/completions", json=body, headers=headers
        ) as response:
            answer = await response.json()
            assert response.status == expected, answer
        details = answer.get("usage", {}).get("prompt_tokens_details") or {}
        return int(details.get("cached_tokens") or 0)
