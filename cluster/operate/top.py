"""``warmroute top``: asks a router for its overview once a second, and shows it until q is pressed."""

import asyncio
import os
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
from rich.console import Console, RenderableType
from rich.live import Live

from cluster.operate.top_view import COURSE_SECONDS, frame, problem_line

REFRESH_SECONDS = 1.0
TRENDS_SECONDS = 10.0
"""How often the trends are read again: they grow by steps of that length."""
REQUEST_SECONDS = 5.0


class OverviewError(Exception):
    """The router could not be asked; the message says why, and what to do."""


class Top:
    """What is known of one router."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = headers
        self._overview: Mapping[str, Any] | None = None
        self._trends: Mapping[str, Any] | None = None
        self._trends_due = 0.0
        self.problem = ""
        """Why the router could not be asked just now."""

    async def refresh(self) -> None:
        """Ask the router. What was known before stays when it does not answer."""
        try:
            self._overview = await self._get("/admin/overview")
            if time.monotonic() >= self._trends_due:
                self._trends = await self._get(f"/admin/trends?seconds={COURSE_SECONDS}")
                self._trends_due = time.monotonic() + TRENDS_SECONDS
            self.problem = ""
        except OverviewError as error:
            self.problem = str(error)

    def view(self, console: Console, height: int) -> RenderableType:
        """What there is to show."""
        if self._overview is None:
            return problem_line(self.problem)
        try:
            return frame(self._overview, self._trends, self.problem, console, height)
        except (KeyError, TypeError, AttributeError) as error:
            self.problem = (
                f"the router at {self._url} is of another version: its overview differs ({error!r})"
            )
            return problem_line(self.problem)

    async def _get(self, path: str) -> Mapping[str, Any]:
        try:
            async with self._session.get(self._url + path, headers=self._headers) as response:
                if response.status != 200:
                    raise OverviewError(await self._refusal(response))
                answer: Mapping[str, Any] = await response.json(content_type=None)
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OverviewError(
                f"no router answers at {self._url}: {error or type(error).__name__}"
            ) from error
        except ValueError as error:
            raise OverviewError(f"what answers at {self._url} is no router") from error

    async def _refusal(self, response: aiohttp.ClientResponse) -> str:
        if response.status == 401:
            problem = "does not accept this token" if self._headers else "wants a token"
            return f"the router at {self._url} {problem}: give --admin-token or WARMROUTE_ADMIN_TOKEN"
        try:
            reason = (await response.json())["error"]["message"]
        except (aiohttp.ClientError, ValueError, KeyError, TypeError):
            reason = "it is no router, or of another version"
        return f"the router at {self._url} answers {response.status}: {reason}"


async def show_once(url: str, headers: Mapping[str, str], console: Console) -> bool:
    """Print one overview. False when the router could not be asked."""
    async with _session() as session:
        top = Top(session, url, headers)
        await top.refresh()
        console.print(top.view(console, console.height), soft_wrap=bool(top.problem))
        return not top.problem


async def show(url: str, headers: Mapping[str, str], console: Console) -> None:
    """Show the overview until q is pressed, or Ctrl-C."""
    async with _session() as session:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            showing = asyncio.create_task(_keep_showing(Top(session, url, headers), live, console))
            with _keys(showing.cancel), suppress(asyncio.CancelledError):
                await showing


async def _keep_showing(top: Top, live: Live, console: Console) -> None:
    while True:
        await top.refresh()
        live.update(top.view(console, console.height), refresh=True)
        await asyncio.sleep(REFRESH_SECONDS)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS))


@contextmanager
def _keys(leave: Callable[[], object]) -> Iterator[None]:
    """Heed single keys, if there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    keyboard, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(keyboard)

    def pressed() -> None:
        typed = os.read(keyboard, 1024)
        if not typed or b"q" in typed.lower():
            leave()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
