"""Progress of a start: what, how far, how long. A spinner on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Step:
    """One step that is under way."""

    def __init__(self, console: Console, title: str, status: Status | None) -> None:
        self._console = console
        self._title = title
        self._status = status
        self._started = time.monotonic()
        self._said = ""

    def update(self, detail: str) -> None:
        """Say how far it is; may be called as often as one likes."""
        elapsed = time.monotonic() - self._started
        line = f"{self._title}: {detail} ({elapsed:.0f} s)"
        if self._status is not None:
            self._status.update(line)
        elif detail != self._said:
            self._said = detail
            self._console.print(f"  … {line}")

    def done(self, result: str) -> None:
        """Say how it ended."""
        elapsed = time.monotonic() - self._started
        self._console.print(f"[green]✔[/green] {self._title}: {result} ({elapsed:.1f} s)")


@contextmanager
def step(console: Console, title: str) -> Iterator[Step]:
    """Show one step for as long as the context is open."""
    if console.is_terminal:
        with console.status(title) as status:
            yield Step(console, title, status)
    else:
        yield Step(console, title, None)
