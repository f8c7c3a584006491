"""Clients that leave their work behind, never finish, or only hold connections: nobody waits for them."""

import asyncio
import socket
import time
from collections.abc import Sequence

import aiohttp

from tests.hostile.crowd import Crowd
from tests.hostile.steady import ordinary_session, user
from tests.hostile.system import CHAT, Hostile, hostile_system, idle_engine, report_user
from tests.hostile.table import Table, progress

NUM_LEAVING = 8
FILES = 256
POST = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode()
HALF_SENT = POST + b'content-length: 1000\r\n\r\n{"model":'
PROMPT = "some words in a long prompt " * 750
"""20 KiB."""


async def clients(
    messages: int = 500_000,
    bodies: int = 4200,
    slow: int = 100,
    idle: int = 400,
    settle: float = 60.0,
    slack: float = 1.0,
) -> Table:
    """One kind after the other."""
    title = f"clients: {messages} messages, {bodies} half-sent bodies, {slow} slow ones, {idle} idle"
    table = Table(title, slack)
    async with hostile_system(engines=idle_engine) as hostile:
        await come_and_go(table, hostile, messages, bodies, slow, settle)
    await hold(table, idle)
    return table


async def come_and_go(
    table: Table, hostile: Hostile, messages: int, bodies: int, slow: int, settle: float
) -> None:
    """Clients that leave, and clients that do not finish; then a pause."""
    async with ordinary_session() as session:
        for number in range(3):
            await ask(session, hostile, number)
        base, redis = hostile.router_mib, hostile.redis_mib
        hostile.reset_peak()
        hostile.seen()
        await abandon(table, hostile, session, messages)
    half_sent = Crowd(hostile.port, bodies, HALF_SENT)
    await gather(table, hostile, [(f"{bodies} half-sent bodies", half_sent, b"")])
    if slow:
        kinds = [
            (f"{slow} trickled bodies", Crowd(hostile.port, slow, HALF_SENT), b"x"),
            (f"{slow} open heads", Crowd(hostile.port, slow, POST), b""),
            (f"{slow} trickled heads", Crowd(hostile.port, slow, POST), b"x: y\r\n"),
        ]
        await gather(table, hostile, kinds)
    peak = hostile.router_peak_mib
    await asyncio.sleep(settle)
    table.row("router's memory, peak", peak - base, 300, "MiB more")
    later = (hostile.router_mib / base - 1) * 100
    table.row(f"router's memory, {settle:g} s later, of {base:.0f} MiB", later, 10, "% more")
    table.row("Redis' memory", hostile.redis_mib - redis, 10, "MiB more")


async def gather(table: Table, hostile: Hostile, kinds: Sequence[tuple[str, Crowd, bytes]]) -> None:
    """Crowds that come together, and how long each of them stays."""
    await asyncio.gather(*(crowd.gather() for _, crowd, _ in kinds))
    seconds = await asyncio.gather(*(crowd.seconds_to_end(90, trickle) for _, crowd, trickle in kinds))
    await hostile.wait_for_user()
    for (name, crowd, _), taken in zip(kinds, seconds, strict=True):
        table.row(f"{name}: ended after", taken, 15, "s")
        table.note(str(crowd))
        crowd.leave()
    report_user(table, ", ".join(name for name, _, _ in kinds), hostile.seen())
    progress("; ".join(table.lines[-9:]))


async def ask(session: aiohttp.ClientSession, hostile: Hostile, number: int) -> tuple[float, int]:
    """Seconds and status of a new prompt of 20 KiB."""
    began = time.monotonic()
    body = {"model": "tiny", "max_tokens": 1, "messages": [user(f"{number} {began} {PROMPT}")]}
    try:
        async with session.post(hostile.url + CHAT, json=body) as response:
            await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError):
        status = 0
    return time.monotonic() - began, status


def send_and_leave(port: int, messages: int) -> None:
    """Send a chat of very many messages, and go before there is an answer."""
    message = b'{"role":"user","content":"a"}'
    body = b'{"model":"tiny","max_tokens":1,"messages":[%b]}' % b",".join([message] * messages)
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.2)


async def abandon(table: Table, hostile: Hostile, session: aiohttp.ClientSession, messages: int) -> None:
    """Clients that leave, and then somebody else."""
    name = f"{NUM_LEAVING} clients send {messages} messages each and leave"
    for _ in range(NUM_LEAVING):
        await asyncio.to_thread(send_and_leave, hostile.port, messages)
    await asyncio.sleep(2)
    seconds, status = await ask(session, hostile, 0)
    table.row(f"{name}: another user's 20 KiB take", seconds, 5, "s")
    table.row(f"{name}: another user's 20 KiB fail", int(status != 200), 0)
    await hostile.wait_for_user()
    report_user(table, name, hostile.seen())
    progress("; ".join(table.lines[-5:]))


async def hold(table: Table, idle: int) -> None:
    """Connections that say nothing, at a router that may open few files."""
    name = f"{idle} idle connections at {FILES} files"
    async with hostile_system(engines=idle_engine, files=FILES) as hostile, ordinary_session() as session:
        crowd = Crowd(hostile.port, idle)
        await crowd.gather()
        await asyncio.sleep(1)
        answers = [await ask(session, hostile, number) for number in range(3)]
        table.row(
            f"{name}: a new client's requests fail", sum(status != 200 for _, status in answers), 0, "of 3"
        )
        table.row(f"{name}: a new client is answered after", answers[0][0], 5, "s")
        await asyncio.sleep(4)
        table.note(str(crowd))
        report_user(table, name, hostile.seen())
        crowd.leave()
