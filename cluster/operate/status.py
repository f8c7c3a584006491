"""What ``warmroute status`` shows: a router's view of its replicas."""

from collections.abc import Mapping
from typing import Any

import aiohttp
from rich import box
from rich.markup import escape
from rich.table import Table

from cluster.errors import StartUpError

REQUEST_SECONDS = 5.0
ACTION_SECONDS = 90.0
"""For what may have to compute something first."""
STATE_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "draining": "yellow",
    "asleep": "yellow",
    "drained": "yellow",
    "unreachable": "red",
}


async def fetch_replicas(router_url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A router's ``/admin/replicas``; ``headers`` carry the token that opens it. Raises `StartUpError` when
    the router does not answer, or is closed.
    """
    return await _fetch(router_url, "/admin/replicas", headers)


async def fetch_missing(router_url: str) -> list[str]:
    """What keeps a router from being ready. Raises `StartUpError` when the router does not answer."""
    return list((await _fetch(router_url, "/readyz"))["missing"])


async def ask_admin(
    router_url: str, headers: Mapping[str, str], method: str, path: str, body: Any = None
) -> dict[str, Any]:
    """What a router's admin API answers. Raises `StartUpError` when it refuses."""
    return await _fetch(router_url, path, headers, method, body, ACTION_SECONDS)


async def _fetch(
    router_url: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    body: Any = None,
    seconds: float = REQUEST_SECONDS,
) -> dict[str, Any]:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            session.request(method, router_url.rstrip("/") + path, headers=headers, json=body) as response,
        ):
            answer: dict[str, Any] = await response.json()
            if "error" in answer:
                raise StartUpError(f"the router at {router_url} refuses: {answer['error']['message']}")
            return answer
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StartUpError(
            f"no router answers at {router_url} ({error or type(error).__name__}): start one with `warmroute "
            "serve`, or name another with --router-url"
        ) from error


def replica_table(answer: dict[str, Any]) -> Table:
    """One row per replica."""
    replicas = answer["replicas"]
    models = ", ".join(sorted({replica["model"] for replica in replicas} - {""}))
    redis = "reachable" if answer["redis_reachable"] else "away"
    table = Table(
        title=f"{models or 'no model'}: {answer['ready']} of {len(replicas)} replicas ready, Redis {redis}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("replica", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("booked", "running", "blocks", "requests", "hit rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    for replica in replicas:
        state = "drained" if replica.get("drained") else replica["state"]
        colour = STATE_COLOURS[state]
        capacity = f"/{replica['capacity_blocks']}" if replica["capacity_blocks"] else ""
        load, hit_rate = replica["load"], replica["hit_rate"]
        table.add_row(
            escape(replica["replica"]),
            f"[{colour}]{state}[/{colour}]" + "".join(f"\n! {escape(alarm)}" for alarm in replica["alarms"]),
            str(load["booked"]),
            f"{load['running']}+{load['waiting']}" if load["waiting"] else str(load["running"]),
            f"{replica['owned_blocks']}{capacity}",
            str(replica["requests"]),
            "-" if hit_rate is None else f"{hit_rate:.1%}",
        )
    return table
