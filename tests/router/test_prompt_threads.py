"""Work beside the event loop: fair among clients, bounded, and abandoned with them."""

import asyncio
import gc
import threading
import time
import weakref
from functools import partial

import pytest

from router.requests import prompt_threads
from router.requests.prompt_threads import MAX_WAITING, SHORT_BYTES, PromptBusyError
from tests.waiting import eventually

SHORT, LONG = SHORT_BYTES, SHORT_BYTES + 1


class Work:
    """Something that goes on until it is told to end, or is abandoned."""

    def __init__(self, order=None, name=""):
        self.began, self.ended, self.may_end = threading.Event(), threading.Event(), threading.Event()
        self.order, self.name = order, name

    def __call__(self, pause):
        self.began.set()
        if self.order is not None:
            self.order.append(self.name)
        try:
            while not self.may_end.is_set():
                pause()
            return "done"
        finally:
            self.ended.set()

    def at_once(self):
        """The same, which ends as soon as it has begun."""
        self.may_end.set()
        return self


def start(threads, client, size, work):
    """Begin some work."""
    return asyncio.create_task(threads.run(client, size, work))


async def test_results_and_errors_come_back(threads):
    """The caller gets what the work returns or raises."""
    assert await threads.run("a", SHORT, lambda pause: 1) == 1
    with pytest.raises(ZeroDivisionError):
        await threads.run("a", SHORT, lambda pause: 1 / 0)
    assert len(threads) == 0


@pytest.mark.parametrize("runs", [True, False], ids=["running", "waiting"])
async def test_work_ends_with_its_client(threads, runs):
    """A client that leaves takes its work with it, whether it has begun or not, and the next one has room."""
    first, second = Work(), Work()
    tasks = [start(threads, "a", LONG, first), start(threads, "a", LONG, second)]
    await eventually(first.began.is_set)
    tasks[0 if runs else 1].cancel()
    if runs:
        await eventually(lambda: first.ended.is_set() and second.began.is_set())
    else:
        first.may_end.set()
        assert await tasks[0] == "done"
        assert await threads.run("b", LONG, Work().at_once()) == "done"
        assert not second.began.is_set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await eventually(lambda: len(threads) == 0)


async def test_short_work_never_waits_behind_long_work(threads):
    """However many long prompts there are, one thread is left for short ones."""
    long = [Work() for _ in range(5)]
    tasks = [start(threads, "a", LONG, work) for work in long]
    await eventually(long[0].began.is_set)
    assert await threads.run("b", SHORT, Work().at_once()) == "done"
    assert await threads.run("a", SHORT, Work().at_once()) == "done"
    assert not any(work.began.is_set() for work in long[1:])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_clients_take_turns(threads):
    """One with much work does not keep the others waiting behind all of it."""
    order, blocker = [], Work()
    tasks = [start(threads, "a", LONG, blocker)]
    await eventually(blocker.began.is_set)
    tasks += [start(threads, "a", LONG, Work(order, f"a{number}").at_once()) for number in range(3)]
    tasks += [start(threads, "b", LONG, Work(order, f"b{number}").at_once()) for number in range(2)]
    await asyncio.sleep(0)
    blocker.may_end.set()
    await asyncio.gather(*tasks)
    assert order == ["a0", "b0", "a1", "b1", "a2"]


async def test_work_of_one_client_is_bounded(threads):
    """Beyond it more is refused, and other clients are not concerned."""
    blocker = Work()
    tasks = [start(threads, "a", LONG, blocker) for _ in range(MAX_WAITING + 1)]
    await eventually(blocker.began.is_set)
    with pytest.raises(PromptBusyError):
        await threads.run("a", SHORT, Work().at_once())
    assert await threads.run("b", SHORT, Work().at_once()) == "done"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_work_that_takes_too_long_is_abandoned(threads, monkeypatch):
    """Waiting counts, too."""
    monkeypatch.setattr(prompt_threads, "LIMIT_SECONDS", 0.05)
    works = [Work(), Work()]
    began = time.monotonic()
    outcomes = await asyncio.gather(
        *(start(threads, "a", LONG, work) for work in works), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [PromptBusyError] * 2
    assert time.monotonic() - began < 5
    await eventually(works[0].ended.is_set)


@pytest.mark.parametrize("fails", [True, False])
async def test_nothing_of_the_work_lives_longer(threads, fails):
    """A prompt of megabytes goes with its request, and not when the collector runs some time."""

    class Prompt:
        pass

    def work(pause, prompt):
        pause()
        if fails:
            raise ValueError(prompt)

    prompt = Prompt()
    lives = weakref.ref(prompt)
    gc.disable()
    try:
        try:
            await threads.run("a", LONG, partial(work, prompt=prompt))
        except ValueError:
            assert fails
        del prompt
        await eventually(lambda: lives() is None)
    finally:
        gc.enable()
