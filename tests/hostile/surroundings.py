"""Systems in bad surroundings: a log that cannot be written, too few files, clocks that are set."""

import asyncio
import os
import resource
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from unittest.mock import patch

from tests.hostile.crowd import Crowd
from tests.hostile.system import Hostile, hostile_system, simulated_engine
from tests.integration.system import System, fill_pipe
from tests.shifted_clock import build_library

FAULT_SECONDS = 8.0
FILES = 256
IDLE = 400
HOUR = 3600

Surroundings = AbstractAsyncContextManager[tuple[Hostile, Callable[[], None]]]
"""A system, and what begins the fault if it does not hold from the start."""


def nothing() -> None:
    """The fault is there from the start."""


@asynccontextmanager
async def logging_to(descriptor: int) -> AsyncIterator[tuple[Hostile, Callable[[], None]]]:
    """Router and agent write to this descriptor."""

    async def engines(system: System) -> None:
        url, _ = await system.start_engine()
        system.output = descriptor
        system.start_agent(url)

    async with hostile_system(engines=engines) as hostile:
        yield hostile, nothing


@asynccontextmanager
async def full_disk() -> AsyncIterator[tuple[Hostile, Callable[[], None]]]:
    """Every write to the log fails."""
    log = os.open("/dev/full", os.O_WRONLY)
    try:
        async with logging_to(log) as system:
            yield system
    finally:
        os.close(log)


@asynccontextmanager
async def unread_pipe() -> AsyncIterator[tuple[Hostile, Callable[[], None]]]:
    """Nobody reads the log, and the pipe is full."""
    reader, writer = os.pipe()
    try:
        async with logging_to(writer) as (hostile, _):
            yield hostile, lambda: fill_pipe(writer)
    finally:
        os.close(reader)
        os.close(writer)


@asynccontextmanager
async def few_files() -> AsyncIterator[tuple[Hostile, Callable[[], None]]]:
    """The router may open few files, and somebody holds as many connections as it takes."""
    async with hostile_system(files=FILES) as hostile:
        crowd = Crowd(hostile.port, IDLE)
        await crowd.gather()
        yield hostile, nothing
        crowd.leave()


@asynccontextmanager
async def no_files() -> AsyncIterator[tuple[Hostile, Callable[[], None]]]:
    """The router can open nothing more for some seconds, though it was allowed to when it started."""
    async with hostile_system() as hostile:
        pid = hostile.router.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        lift = asyncio.get_running_loop().call_later

        def begin() -> None:
            used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
            free = next(number for number in range(len(used) + 1) if number not in used)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, usual[1]))
            lift(FAULT_SECONDS, resource.prlimit, pid, resource.RLIMIT_NOFILE, usual)

        yield hostile, begin


@contextmanager
def clocks(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Files with the seconds that the router's clock, and everybody else's, are ahead."""
    library = build_library(folder)
    assert library is not None, "a C compiler is needed to shift clocks"
    own, others = folder / "router", folder / "others"
    for file in (own, others):
        file.write_text("0")
    with patch.dict(os.environ, LD_PRELOAD=str(library), CLOCK_SHIFT_FILE=str(others)):
        yield own, others


def stepped(router: int, others: int) -> Callable[[], Surroundings]:
    """Clocks of the router, and of Redis, the engine and its agent, are set by so many seconds."""

    @asynccontextmanager
    async def surroundings() -> AsyncIterator[tuple[Hostile, Callable[[], None]]]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostile-clock-")))
            files = stack.enter_context(clocks(folder))

            def begin() -> None:
                for file, seconds in zip(files, (router, others), strict=True):
                    file.write_text(str(seconds))

            async with hostile_system(engines=simulated_engine, CLOCK_SHIFT_FILE=str(files[0])) as hostile:
                yield hostile, begin

    return surroundings


FAULTS: dict[str, Callable[[], Surroundings]] = {
    "log disk full": full_disk,
    "log that nobody reads": unread_pipe,
    f"{IDLE} idle connections at {FILES} files": few_files,
    "no file can be opened": no_files,
    "router's clock an hour ahead": stepped(HOUR, 0),
    "router's clock an hour back": stepped(-HOUR, 0),
    "others' clocks an hour ahead": stepped(0, HOUR),
    "others' clocks an hour back": stepped(0, -HOUR),
    "all clocks an hour ahead": stepped(HOUR, HOUR),
}
