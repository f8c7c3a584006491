"""Processes that work at the same time, and end when this one does."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import TypeVar

from cluster.errors import ClusterError

T = TypeVar("T")


class Workers:
    """Processes that do what they are given. With one job only it is done right here."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def map(
        self,
        work: Callable[..., T],
        arguments: Sequence[tuple[object, ...]],
        done: Callable[[], object] = lambda: None,
    ) -> list[T]:
        """Results in the order of the arguments; ``done`` is called whenever there is one more.

        Raises what the work raises, and `ClusterError` when a process was killed.
        """
        if self._pool is None:
            return [_published(work(*row), done) for row in arguments]
        try:
            with _interrupts_kept_for_this_process():
                futures = [self._pool.submit(work, *row) for row in arguments]
            for future in as_completed(futures):
                _published(future.result(), done)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise ClusterError(
                "a process of the replay was killed, perhaps for lack of memory: try fewer --jobs"
            ) from error


@contextmanager
def start_workers(jobs: int) -> Iterator[Workers]:
    """Workers until the context ends; when it ends with an error they are ended at once."""
    if jobs == 1:
        yield Workers(None)
        return
    others = set(active_children())
    # Not by fork: the progress bar has a thread.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent) as pool:
        try:
            yield Workers(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:
                process.terminate()
            raise


def _published(result: T, done: Callable[[], object]) -> T:
    done()
    return result


@contextmanager
def _interrupts_kept_for_this_process() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal: those started now would each print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    def wait() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
