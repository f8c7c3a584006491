"""20,000 requests that nobody expects, to all endpoints: the router makes no error, and nobody waits for it.

Most are drawn by hypothesis, the others by schemathesis from ``/openapi.json``.
"""

import asyncio
import json
import math
import os
import random
import sys
from collections import Counter
from typing import Any

from tests.hostile.fuzzed_requests import parts
from tests.hostile.raw_request import RawAnswer, RawClient, RawRequest
from tests.hostile.system import Hostile, hostile_system, idle_engine
from tests.hostile.table import Table, progress
from tests.process_copies import ROOT

NUM_REQUESTS = 20_000
NUM_DOCUMENTED = 5_000
"""Asked of schemathesis, which finds fewer different ones for operations that take nothing."""
BATCH = 50
STALL_MS = 100.0
NUM_REPEATS = 5
"""How often requests behind which the user waited are repeated: the machine has other work, too."""
NUM_SHOWN = 20
TRACE_CHARACTERS = 800
TRACES = ("Exception in ASGI application", "Traceback (most recent call last)")


async def fuzz(seed: int | None = None, python: str = sys.executable, count: int = NUM_REQUESTS) -> Table:
    """Send them all. ``python`` is an interpreter that has schemathesis."""
    seed = random.randrange(10**6) if seed is None else seed
    table = Table(f"fuzz: {count} requests over all endpoints (--seed {seed})")
    progress(f"--seed {seed}")
    async with hostile_system(engines=idle_engine) as hostile:
        run = Fuzzing(hostile, table)
        document = await hostile.system.get(f"{hostile.url}/openapi.json")
        documented = await drawn_by_schemathesis(document, min(NUM_DOCUMENTED, count // 4), seed, python)
        table.note(f"{len(documented)} of the requests are drawn by schemathesis")
        await run.send_all(documented)
        drawn = parts(document, count - len(documented), seed)
        while (part := await asyncio.to_thread(next, drawn, None)) is not None:
            hostile.seen()
            await run.send_all(part)
        run.judge()
    return table


async def drawn_by_schemathesis(
    document: dict[str, Any], count: int, seed: int, python: str
) -> list[RawRequest]:
    """Different requests, at most about so many."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "tests.hostile.documented_requests", str(count), str(seed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines, _ = await process.communicate(json.dumps(document).encode())
    if process.returncode:
        raise SystemExit(f"{python} cannot draw requests; name one that has schemathesis by --schemathesis")
    return list(dict.fromkeys(map(RawRequest.of_line, lines.decode().splitlines())))


class Fuzzing:
    """One run: sends requests a batch at a time, and looks closer at a batch in which something was wrong."""

    def __init__(self, hostile: Hostile, table: Table) -> None:
        self.num_sent = 0
        self.statuses: Counter[int] = Counter()
        self._hostile = hostile
        self._table = table
        self._client = RawClient(hostile.port)
        [self._log] = hostile.system.directory.glob("router-*.log")
        self._log_read = 0
        self._errors: list[str] = []
        self._traces: list[str] = []
        self._stalls: list[str] = []
        self._user_failed = 0
        self._worst_gap = self._unexplained_gap = 0.0

    async def send_all(self, requests: list[RawRequest]) -> None:
        """Send each once."""
        for start in range(0, len(requests), BATCH):
            await self._send_batch(requests[start : start + BATCH])
        progress(f"{self.num_sent} sent, by status {dict(sorted(self.statuses.items()))}")

    async def _send_batch(self, batch: list[RawRequest]) -> None:
        answers = await asyncio.to_thread(self._send, batch)
        for request, answer in zip(batch, answers, strict=True):
            self._judge_answer(request, answer)
        await self._hostile.wait_for_user()
        seen = self._hostile.seen()
        self._user_failed += seen.failed
        if self._new_traces():
            await self._find_trace(batch)
        if seen.worst_gap_ms > STALL_MS:
            await self._find_stall(batch, seen.worst_gap_ms)
        else:
            self._worst_gap = max(self._worst_gap, seen.worst_gap_ms)

    def _judge_answer(self, request: RawRequest, answer: RawAnswer) -> None:
        self.num_sent += 1
        self.statuses[answer.status] += 1
        if answer.is_fault:
            said = f"{answer.status} {answer.body[:300]!r}: {request}"
            progress(said)
            self._errors.append(said)

    async def _find_trace(self, batch: list[RawRequest]) -> None:
        """Which request makes the router log a trace."""
        found = False
        for request in batch:
            await asyncio.to_thread(self._client.send, request)
            if text := self._new_traces():
                self._traces.append(f"{request}\n{text[-TRACE_CHARACTERS:]}")
                progress(self._traces[-1])
                found = True
        if not found:
            self._traces.append("one of a batch, which did not do it again")

    async def _find_stall(self, batch: list[RawRequest], gap: float) -> None:
        """Halve a batch as long as the user waits again for what is left, until that is one request."""
        if (least := await self._least_gap(batch)) <= STALL_MS:
            self._unexplained_gap = max(self._unexplained_gap, gap)
        elif len(batch) == 1:
            self._worst_gap = max(self._worst_gap, least)
            self._stalls.append(f"{least:.0f} ms at least: {batch[0]}")
            progress(self._stalls[-1])
        else:
            middle = len(batch) // 2
            await self._find_stall(batch[:middle], least)
            await self._find_stall(batch[middle:], least)

    async def _least_gap(self, batch: list[RawRequest]) -> float:
        """The shortest of the longest waits when a batch is repeated until nobody waits too long for it."""
        least = math.inf
        for _ in range(NUM_REPEATS):
            await asyncio.to_thread(self._send, batch)
            await self._hostile.wait_for_user()
            least = min(least, self._hostile.seen().worst_gap_ms)
            if least <= STALL_MS:
                break
        return least

    def _send(self, batch: list[RawRequest]) -> list[RawAnswer]:
        return [self._client.send(request) for request in batch]

    def _new_traces(self) -> str:
        """What was logged since the last call, when there are traces in it."""
        with self._log.open("rb") as file:
            file.seek(self._log_read)
            text = file.read()
            self._log_read += len(text)
        decoded = text.decode(errors="replace")
        return decoded if any(trace in decoded for trace in TRACES) else ""

    def judge(self) -> None:
        """Write everything into the table."""
        table = self._table
        table.note(f"answers by status: {dict(sorted(self.statuses.items()))}")
        table.note(f"{self.num_sent} requests sent")
        table.row("server errors, or no answer", len(self._errors), 0)
        table.row("traces in the router's log", len(self._traces), 0)
        table.row("requests behind which the user waits over 100 ms", len(self._stalls), 0)
        table.row("worst gap of the user's probe that repeats", self._worst_gap, STALL_MS, "ms")
        table.row("ordinary requests that failed", self._user_failed, 0)
        table.note(f"worst gap that does not repeat {self._unexplained_gap:.0f} ms")
        for said in [*self._errors, *self._traces, *self._stalls][:NUM_SHOWN]:
            table.note(said)
