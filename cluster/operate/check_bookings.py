"""The part of ``warmroute check`` that looks at bookings: every booking is a request that is open, and every
router knows what the others have booked.

Both change while they are read. A router answers for one moment, so its own numbers must always agree. Two
routers are read one after the other: there only a difference that lasts counts.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

ATTEMPTS = 12
PAUSE_SECONDS = 0.25

Answers = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Report:
    """What ``warmroute check`` found: lines for people, and the verdict."""

    lines: list[str] = field(default_factory=list)
    agree: bool = True

    def differ(self, line: str) -> None:
        """Add a line that says what is wrong."""
        self.lines.append(line)
        self.agree = False


async def compare_bookings(
    session: aiohttp.ClientSession, router_urls: Sequence[str], report: Report
) -> None:
    """Add what routers say of bookings to a report."""
    doubts: set[tuple[str, str]] | None = None
    before: Answers = {}
    answers: Answers = {}
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_SECONDS)
        before, answers = answers, await _read(session, router_urls)
        differing = _differing(answers)
        doubts = differing if doubts is None else doubts & differing
        if not doubts:
            break
    for url in router_urls:
        if url not in answers:
            report.differ(f"router {url}: does not say what it has booked")
    for url, answer in answers.items():
        _judge_own(url, answer, report)
    for url, other in sorted(doubts or ()):
        if before.get(url, {}).get("replicas") == answers[url]["replicas"]:
            report.differ(
                f"router {other} believes that {url} has booked {_known_of(answers, url, other)}, "
                f"which has booked {answers[url]['replicas']}"
            )
    if answers and report.agree:
        total = sum(answer["open_bookings"] for answer in answers.values())
        report.lines.append(f"routers: {len(answers)}, bookings: {total}, each for a request that is open")


async def _read(session: aiohttp.ClientSession, router_urls: Sequence[str]) -> Answers:
    answers = await asyncio.gather(
        *(_get(session, f"{url.rstrip('/')}/admin/bookings") for url in router_urls)
    )
    return {url: answer for url, answer in zip(router_urls, answers, strict=True) if answer is not None}


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    try:
        async with session.get(url, raise_for_status=True) as response:
            answer: dict[str, Any] = msgspec.json.decode(await response.read())
            return answer
    except (aiohttp.ClientError, OSError, msgspec.DecodeError):
        return None


def _differing(answers: Answers) -> set[tuple[str, str]]:
    """Pairs of a router and another one that does not know of its bookings."""
    return {
        (url, other)
        for url, answer in answers.items()
        for other in answers
        if other != url and _known_of(answers, url, other) != answer["replicas"]
    }


def _known_of(answers: Answers, url: str, other: str) -> dict[str, Any]:
    known: dict[str, Any] = answers[other]["peers"].get(answers[url]["router"], {})
    return known


def _judge_own(url: str, answer: dict[str, Any], report: Report) -> None:
    sent, waiting = answer["open_requests"], answer["waiting_requests"]
    if answer["open_bookings"] != sent + waiting:
        report.differ(
            f"router {url}: {answer['open_bookings']} bookings for {sent} open requests and {waiting} waiting"
        )
    booked = sum(replica["running"] for replica in answer["replicas"].values())
    if booked > answer["open_bookings"]:  # less: some are on replicas that have left
        report.differ(f"router {url}: {booked} requests on replicas, {answer['open_bookings']} bookings")
    for replica_id, replica in answer["replicas"].items():
        tokens = replica["queued_tokens"], replica["active_tokens"], replica["engine_tokens"]
        if min(replica["running"], *tokens) < 0 or (any(tokens) and not replica["running"]):
            report.differ(f"router {url}: impossible bookings on {replica_id}: {replica}")
