"""What a tenant learns of another one's prompt: no more than of one which nobody has sent."""

from typing import Any

import aiohttp

from tests.hostile.steady import ordinary_session, user
from tests.hostile.system import CHAT, Hostile, hostile_system, report_user
from tests.hostile.table import Table

KEYS = "alice=key-a,bob=key-b,carol=key-c"
LENGTH = 40
"""Words of this number repeat, so that a prompt fills many blocks; all prompts have as many tokens."""

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {}),
    "chat with an empty cache_salt": (CHAT, {"cache_salt": ""}),
    "chat with the tenant's name as cache_salt": (CHAT, {"cache_salt": "alice"}),
    "chat with its key as cache_salt": (CHAT, {"cache_salt": "key-a"}),
    "text completion": ("/v1/completions", {}),
}


async def tenants(slack: float = 1.0) -> Table:
    """Alice asks; then bob asks the same, in every way, and what nobody has asked."""
    table = Table("tenants: bob asks what alice has asked", slack)
    async with (
        hostile_system(key="key-c", WARMROUTE_API_KEYS=KEYS) as hostile,
        ordinary_session() as session,
    ):
        number = 0
        for way, (path, fields) in WAYS.items():
            own = {} if path == CHAT else fields
            secret, unseen = secrets_of(number), secrets_of(number + 1)
            number += 2
            await ask(session, hostile, path, "key-a", secret, own)
            await hostile.seconds_until(hostile.is_exact)
            known = await ask(session, hostile, path, "key-a", secret, own)
            guessed = await ask(session, hostile, path, "key-b", secret, fields)
            control = await ask(session, hostile, path, "key-b", unseen, fields)
            table.row(f"{way}: tokens expected for alice, of {known[0]}", known[1], 100, at_least=True)
            for at, what in ((1, "expected"), (2, "delivered")):
                difference = abs(guessed[at] - control[at])
                table.row(f"{way}: {what} for bob, beyond an unseen prompt's {control[at]}", difference, 0)
        report_user(table, "all of it", hostile.seen())
    return table


def secrets_of(number: int) -> str:
    """A prompt."""
    return f"{number:03d} " + "a prompt that is long enough to fill blocks " * LENGTH


async def ask(
    session: aiohttp.ClientSession,
    hostile: Hostile,
    path: str,
    key: str,
    content: str,
    fields: dict[str, Any],
) -> tuple[int, int, int]:
    """Tokens of the prompt, those that the router expected in the cache, and those that were there."""
    prompt = {"messages": [user(content)]} if path == CHAT else {"prompt": content}
    body = {"model": "tiny", "max_tokens": 1, **prompt, **fields}
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(hostile.url + path, json=body, headers=headers) as response:
        answer = await response.json()
        if response.status == 400:
            return 0, 0, 0  # whoever is refused learns nothing
        assert response.status == 200, answer
    usage = answer["usage"]
    details = usage.get("prompt_tokens_details") or {}
    expected = int(response.headers["x-warmroute-expected-cached-tokens"])
    return usage["prompt_tokens"], expected, details.get("cached_tokens") or 0
