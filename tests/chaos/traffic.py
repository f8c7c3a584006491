"""Clients: conversations with a shared system prompt, streaming and not; some leave or talk nonsense.

Every answer is judged when it ends: `Outcome` says how, and the outcomes in `VIOLATIONS` must not happen.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp

from router.api.dispatch import MAX_HARMFUL_ATTEMPTS
from tests.chaos.fleet import MODEL, Fleet, Router
from tests.chaos.ledger import Ledger, breaks, path
from tests.chaos.proxy import HOST
from tests.tiny_model import CORPUS

HANG_SECONDS = 60.0
NUM_CLIENTS = 9
MAX_TURNS = 6
PAUSE_SECONDS = (0.02, 0.25)
WORDS = CORPUS.replace(".", "").split()


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    REFUSED_AS_IT_SHOULD = "bad request refused"
    LEFT = "client left"
    BROKEN = "stream broken by a fault"
    ROUTER_OUT = "own router was out"
    ENGINES_DIED = "two engines broke off under it"
    HUNG = "HUNG"
    FAILED = "FAILED before the first byte"
    BROKEN_WITHOUT_CAUSE = "BROKEN without a fault on its replica"
    WRONG = "WRONG answer"


VIOLATIONS = frozenset({Outcome.HUNG, Outcome.FAILED, Outcome.BROKEN_WITHOUT_CAUSE, Outcome.WRONG})

BAD_REQUESTS: tuple[tuple[bytes, frozenset[int]], ...] = (
    (b"{", frozenset({400})),
    (b"[]", frozenset({400})),
    (b'{"model": "tiny"}', frozenset({400})),
    (b'{"model": "tiny", "messages": []}', frozenset({400})),
    (b'{"model": "tiny", "messages": "hello"}', frozenset({400})),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "n": -1}', frozenset({400})),
    (b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}', frozenset({404})),
    (json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "the " * 6000}]}).encode(),
     frozenset({400})),
)  # fmt: skip


@dataclass(slots=True)
class Result:
    """What came of one request."""

    outcome: Outcome
    detail: str
    router: str
    replica: str
    began: float
    seconds: float


@dataclass(slots=True)
class _Answer:
    status: int = 0
    replica: str = ""
    streamed: bool = False
    text: str = ""
    body: bytes = b""
    error: str = ""
    complete: bool = False


@dataclass(slots=True)
class Traffic:
    """Sends requests until it is cancelled; `paused` holds new ones back."""

    fleet: Fleet
    ledger: Ledger
    seed: int
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    violations: list[Result] = field(default_factory=list)
    open_requests: int = 0
    slowest: float = 0.0
    _go: asyncio.Event = field(default_factory=asyncio.Event)
    _session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """All clients at once."""
        self._go.set()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as self._session:
            clients = [asyncio.create_task(self._client(number)) for number in range(NUM_CLIENTS)]
            try:
                await asyncio.gather(*clients)
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)

    def pause(self) -> None:
        """Begin no more requests."""
        self._go.clear()

    def resume(self) -> None:
        """Begin requests again."""
        self._go.set()

    async def _client(self, number: int) -> None:
        """One client: conversation after conversation."""
        source = random.Random(f"client-{self.seed}-{number}")
        system = _words(random.Random(f"system-{self.seed}"), 150)
        while True:
            messages = [{"role": "system", "content": system}]
            for _ in range(source.randint(1, MAX_TURNS)):
                await asyncio.sleep(source.uniform(*PAUSE_SECONDS))
                await self._go.wait()
                messages.append({"role": "user", "content": _words(source, source.randint(5, 60))})
                text = await self._request(source, messages)
                if text is None:
                    break
                messages.append({"role": "assistant", "content": text})

    async def _request(self, source: random.Random, messages: Sequence[dict[str, str]]) -> str | None:
        """One request of some kind; the answer's text when the conversation can go on."""
        up = [router for router in self.fleet.routers if router.up]
        if not up:
            await asyncio.sleep(0.1)
            return None
        router, chance = source.choice(up), source.random()
        self.open_requests += 1
        try:
            if chance < 0.05:
                await self._bad(source, router)
            elif chance < 0.10:
                await self._leave_early(source, router, messages)
            elif chance < 0.15:
                await self._ask(router, messages, True, 400, leave_after=source.uniform(0.02, 0.5))
            elif chance < 0.20:
                await self._ask(router, messages, False, 400, leave_after=source.uniform(0.02, 0.5))
            else:
                most = 100 if chance > 0.85 else 24
                return await self._ask(router, messages, source.random() < 0.6, source.randint(2, most))
        finally:
            self.open_requests -= 1
        return None

    async def _ask(
        self,
        router: Router,
        messages: Sequence[dict[str, str]],
        stream: bool,
        max_tokens: int,
        leave_after: float = 0.0,
    ) -> str | None:
        body = {"model": MODEL, "messages": messages, "stream": stream, "max_tokens": max_tokens}
        began, answer = time.monotonic(), _Answer()
        left = hung = False
        try:
            async with asyncio.timeout(leave_after or HANG_SECONDS):
                await self._exchange(router, json.dumps(body).encode(), stream, answer)
        except TimeoutError:
            left, hung = bool(leave_after), not leave_after
        outcome = self._judge(answer, router, began, left, hung)
        self._note(outcome, answer, router, began)
        return answer.text if outcome is Outcome.OK else None

    async def _exchange(self, router: Router, body: bytes, stream: bool, answer: _Answer) -> None:
        assert self._session is not None
        try:
            async with self._session.post(
                f"{router.url}/v1/chat/completions",
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response:
                answer.status = response.status
                answer.replica = response.headers.get("x-warmroute-replica", "")
                if stream and response.status == 200:
                    async for line in response.content:
                        _take_line(line, answer)
                else:
                    answer.body = await response.read()
                    answer.complete = True
        except (aiohttp.ClientError, OSError) as error:
            answer.error = answer.error or f"{type(error).__name__}: {error}"
        if answer.complete and answer.status == 200 and not stream:
            with contextlib.suppress(ValueError, LookupError):
                answer.text = json.loads(answer.body)["choices"][0]["message"]["content"]

    def _judge(self, answer: _Answer, router: Router, began: float, left: bool, hung: bool) -> Outcome:
        now = time.monotonic()
        if hung:
            return Outcome.HUNG
        if answer.status == 200 and answer.complete and not answer.error:
            return Outcome.OK if answer.text else Outcome.WRONG
        if left and answer.status in (0, 200) and not answer.error:
            return Outcome.LEFT
        if self.ledger.was_out(router.name, began, now):
            return Outcome.ROUTER_OUT
        if answer.streamed:
            caused = self.ledger.was_out(path(router.name, answer.replica), began, now)
            return Outcome.BROKEN if caused else Outcome.BROKEN_WITHOUT_CAUSE
        breaking = (breaks(router.name, engine.replica) for engine in self.fleet.engines)
        if answer.status == 502 and self.ledger.num_out(breaking, began, now) >= MAX_HARMFUL_ATTEMPTS:
            return Outcome.ENGINES_DIED
        return Outcome.FAILED

    def _note(self, outcome: Outcome, answer: _Answer, router: Router, began: float) -> None:
        seconds = time.monotonic() - began
        self.outcomes[outcome] += 1
        self.slowest = max(self.slowest, seconds)
        if outcome in VIOLATIONS:
            detail = f"status {answer.status} {answer.error} {answer.body[:300].decode(errors='replace')}"
            self.violations.append(Result(outcome, detail, router.name, answer.replica, began, seconds))

    async def _bad(self, source: random.Random, router: Router) -> None:
        body, expected = source.choice(BAD_REQUESTS)
        began, answer = time.monotonic(), _Answer()
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await self._exchange(router, body, False, answer)
        except TimeoutError:
            self._note(Outcome.HUNG, answer, router, began)
            return
        if answer.status in expected:
            outcome = Outcome.REFUSED_AS_IT_SHOULD
        elif self.ledger.was_out(router.name, began, time.monotonic()):
            outcome = Outcome.ROUTER_OUT
        else:
            outcome = Outcome.WRONG
        self._note(outcome, answer, router, began)

    async def _leave_early(
        self, source: random.Random, router: Router, messages: Sequence[dict[str, str]]
    ) -> None:
        """Leave in the middle of sending the prompt, or right after it."""
        began = time.monotonic()
        body = json.dumps({"model": MODEL, "messages": messages, "stream": True}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        sent = source.choice((len(body) // 2, len(body)))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                _, writer = await asyncio.open_connection(HOST, router.port)
                writer.write(head + body[:sent])
                await writer.drain()
                await asyncio.sleep(source.uniform(0.0, 0.02))
                writer.close()
                await writer.wait_closed()
        self._note(Outcome.LEFT, _Answer(), router, began)


def _take_line(line: bytes, answer: _Answer) -> None:
    if not line.startswith(b"data: "):
        return
    answer.streamed = True
    data = line[6:].strip()
    if data == b"[DONE]":
        answer.complete = True
        return
    event: dict[str, Any] = json.loads(data)
    if "error" in event:
        answer.error = str(event["error"].get("message", "error"))
    for choice in event.get("choices", ()):
        answer.text += choice["delta"].get("content") or ""


def _words(source: random.Random, count: int) -> str:
    return " ".join(source.choice(WORDS) for _ in range(count))
