"""Progress of a start: what, how far, how long. A spinner on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

REPEAT_SECONDS = 10.0


class Step:
    """One step that is under way."""

    def __init__(self, console: Console, title: str, status: Status | None) -> None:
        self._console = console
        self._title = title
        self._status = status
        self._started = time.monotonic()
        self._said = ("", 0.0)

    def update(self, detail: str) -> None:
        """Say how far it is; may be called as often as one likes."""
        elapsed = time.monotonic() - self._started
        line = f"{self._title}: {detail} ({elapsed:.0f} s)"
        if self._status is not None:
            self._status.update(line)
        elif detail != self._said[0] or elapsed - self._said[1] >= REPEAT_SECONDS:
            self._said = (detail, elapsed)
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
