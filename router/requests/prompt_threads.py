"""Work on long prompts, beside the event loop: in two threads, shared fairly, and abandoned with its client.

One thread takes whatever comes; the other only what is short, so that nobody waits behind somebody else's
prompt of megabytes. Clients take turns, and none of them may have more than a few prompts waiting.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Pause: TypeAlias = Callable[[], None]
"""Lets others run when it is time. Raises `WorkAbandonedError` when nobody wants the result any more."""

THREADS = 2
SHORT_BYTES = 256 * 1024
"""Tokenising as much takes a fifth of a second at most."""
MAX_WAITING = 32
"""Prompts of one client that may wait for a thread."""
LIMIT_SECONDS = 10.0
"""Longest time for one prompt, waiting and working."""
WORK_SECONDS = 0.001
"""Worked for so long between two pauses."""
PAUSE_SECONDS = 0.0001
"""A sleep of no time gives up the GIL, but takes it back before others wake."""


class WorkAbandonedError(Exception):
    """Nobody wants the result any more: the client has left, or the time is over."""


class PromptBusyError(Exception):
    """Too much of this client's work waits already, or the work took too long."""


@dataclass(slots=True, eq=False, repr=False)
class _Job:
    work: Callable[[Pause], Any] | None
    is_short: bool
    done: asyncio.Future[Any] | None
    worked_since: float = 0.0

    def abandon(self) -> None:
        """Nobody waits for it any more. An error's traceback holds the job: it must not hold the error, nor
        what was worked on, or all that lives until the collector runs.
        """
        self.work = self.done = None

    def pause(self) -> None:
        """See `Pause`."""
        if self.done is None:
            raise WorkAbandonedError
        if time.perf_counter() - self.worked_since >= WORK_SECONDS:
            time.sleep(PAUSE_SECONDS)
            self.worked_since = time.perf_counter()


class PromptThreads:
    """The threads of one router. A client is whoever is one party to `router.http.admission`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="prompts")
        self._waiting: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        """Of each client, the one whose turn comes first at the front."""
        self._running: set[_Job] = set()

    def __len__(self) -> int:
        """Work that waits or runs."""
        return len(self._running) + sum(map(len, self._waiting.values()))

    async def run(self, client: Hashable, num_bytes: int, work: Callable[[Pause], T]) -> T:
        """Do the work on so many bytes in a thread; it calls the `Pause` it is given often.

        Being cancelled abandons it. Raises what the work raises, or `PromptBusyError`.
        """
        queue = self._waiting.setdefault(client, deque())
        if len(queue) >= MAX_WAITING:
            raise PromptBusyError("too many long prompts of this client wait")
        job = _Job(work, num_bytes <= SHORT_BYTES, asyncio.get_running_loop().create_future())
        queue.append(job)
        self._start_waiting()
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                assert job.done is not None
                result: T = await job.done
                return result
        except TimeoutError as error:
            raise PromptBusyError(f"not done within {LIMIT_SECONDS:g} s") from error
        finally:
            job.abandon()
            if job in queue:
                queue.remove(job)
            if not queue and self._waiting.get(client) is queue:
                del self._waiting[client]
            del work

    def close(self) -> None:
        """End all work at its next pause."""
        for job in self._running:
            job.abandon()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start_waiting(self) -> None:
        while len(self._running) < THREADS and (job := self._next()) is not None:
            self._running.add(job)
            report = partial(_report, asyncio.get_running_loop(), partial(self._ended, job))
            assert job.work is not None
            self._executor.submit(job.work, job.pause).add_done_callback(report)

    def _next(self) -> _Job | None:
        """The first work in turn that may begin now."""
        any_may = all(job.is_short for job in self._running)
        for client, queue in self._waiting.items():
            for job in queue:
                if job.is_short or any_may:
                    queue.remove(job)
                    self._waiting.move_to_end(client)
                    return job
        return None

    def _ended(self, job: _Job, future: Future[Any]) -> None:
        self._running.discard(job)
        if job.done is not None and not job.done.done():
            if (error := future.exception()) is not None:
                job.done.set_exception(error)
            else:
                job.done.set_result(future.result())
        self._start_waiting()


def _report(
    loop: asyncio.AbstractEventLoop, ended: Callable[[Future[Any]], None], future: Future[Any]
) -> None:
    """Called in the thread that has done the work."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(ended, future)
