"""The tokenizer of every model the fleet serves: loaded in the background, checked against its engines.

A tokenizer that differs from the engine's would make every key wrong and every hit rate zero, silently. So
each is compared with the engines' ``/tokenize`` before it is used, again when replicas change, and now and
then. A model whose tokenizer differs is routed by texts, with an alarm, until a later check finds that it
agrees again. Every reply's own count of prompt tokens is compared, too: a difference makes a check due soon,
and says something about requests of its kind (`router.requests.exactness`), not about the model.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import structlog

from cluster.errors import TokenizerUnavailableError
from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model
from cluster.process.collector import calm_collector
from cluster.process.tasks import cancel_and_wait
from cluster.prompts.chat_rendering import ChatOptions
from cluster.prompts.tokenizer import PromptTokenizer, tokenizer_fingerprint
from cluster.protocol.wire import Lease, ReplicaState
from router.errors import AttemptFailedError
from router.requests.differences import MAX_BYTES, differs_on_probe, locate
from router.requests.exactness import Exactness, shape_of
from router.requests.prompts import PreparedPrompt
from router.requests.schema import Call
from router.upstream.client import Upstream

CHECK_SECONDS = 0.5
"""How often the fleet is looked at."""
CHANGE_SECONDS = 2.0
"""Replicas that change lead to a new check at once, but not sooner than this after the last one."""
RECHECK_SECONDS = 5.0
"""First pause before a model with an alarm is checked again; it doubles with every alarm."""
RECHECK_LIMIT_SECONDS = 300.0
"""Longest pause. A tokenizer that has agreed for as long begins with the first one again."""
SAMPLE_SECONDS = 60.0
"""How often a tokenizer that agrees is compared with an engine again."""
DIFFERENCE_SECONDS = 5.0
"""A reply whose prompt token count differs leads to a check at once, but not sooner than this after one."""
MAX_CHECKS = 64
"""Models checked at the same time: a check may wait for an engine that hangs."""
MAX_LOADS = 4
"""Tokenizers loaded at the same time."""
MAX_PROBED = 8
"""Replicas asked per check, one for each tokenizer among them; where there are more, they take turns."""

NO_OPTIONS: Mapping[str, ChatOptions] = {}

log = structlog.get_logger()


@dataclass(slots=True)
class _Entry:
    tokenizer: PromptTokenizer | None = None
    settled: bool = False
    """Whether it is known if this model can be tokenised here."""
    alarm: str = ""
    exactness: Exactness = field(default_factory=Exactness)
    replicas: frozenset[tuple[object, ...]] = frozenset()
    """What the ready replicas were at the last check, as far as it matters for tokens."""
    checks: int = 0
    checked_at: float = float("-inf")
    due: float = float("-inf")
    """When the next check is due even if no replica changes; like all times here monotonic, in seconds."""
    pause: float = 0.0
    agreed_at: float = float("-inf")
    """Since when it has agreed, while there is no alarm."""
    odd: Call | None = None
    """A request whose count differed: the next check finds out where."""

    def is_due(self, replicas: frozenset[tuple[object, ...]], now: float) -> bool:
        """Whether to check now, with these replicas."""
        changed = replicas != self.replicas and now >= self.checked_at + CHANGE_SECONDS
        return not self.settled or now >= self.due or changed

    def agrees(self, now: float, everybody: bool) -> bool:
        """Note a check without a difference; True when that is news. ``everybody`` asked has answered."""
        news = bool(self.alarm) or not self.settled
        if news:
            self.alarm, self.agreed_at = "", now
        self.settled = True
        self.due = now + (SAMPLE_SECONDS if everybody else RECHECK_SECONDS)
        return news

    def differs(self, now: float, alarm: str) -> bool:
        """Raise the alarm; True when it says something new. Pauses grow until it has agreed for long."""
        if not self.pause or (not self.alarm and now >= self.agreed_at + RECHECK_LIMIT_SECONDS):
            self.pause = RECHECK_SECONDS
        self.due = now + self.pause
        self.pause = min(2 * self.pause, RECHECK_LIMIT_SECONDS)
        news = alarm != self.alarm
        self.alarm, self.settled = alarm, True
        return news


class _Loader:
    """Loads each tokenizer once, however many names of models have it, as long as its files are the same."""

    def __init__(self) -> None:
        self._loaded: WeakValueDictionary[tuple[Path, str, str], PromptTokenizer] = WeakValueDictionary()
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._places = asyncio.Semaphore(MAX_LOADS)

    async def load(self, directory: Path, options: ChatOptions) -> PromptTokenizer:
        """The tokenizer of a directory. Raises `TokenizerUnavailableError`, and what broken files raise."""
        turn = self._turns.setdefault(directory, asyncio.Lock())
        async with turn, self._places:
            key = directory, await asyncio.to_thread(tokenizer_fingerprint, directory), str(options)
            tokenizer = self._loaded.get(key)
            if tokenizer is None:
                tokenizer = await asyncio.to_thread(PromptTokenizer, directory, options=options)
                self._loaded[key] = tokenizer
            return tokenizer


class Tokenizers:
    """Tokenizers by model name. `run` keeps them in step with the fleet."""

    def __init__(
        self,
        fleet: Fleet,
        upstream: Upstream,
        directories: Mapping[str, Path],
        options: Mapping[str, ChatOptions] = NO_OPTIONS,
    ) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._directories = directories
        self._options = options
        self._entries: dict[str, _Entry] = {}
        self._has_loaded = False
        self._checks = asyncio.Semaphore(MAX_CHECKS)
        self._loader = _Loader()

    def get(self, model: str) -> PromptTokenizer | None:
        """The tokenizer of a model, if there is one that agrees with the engine's."""
        entry = self._entries.get(model)
        return entry.tokenizer if entry and entry.settled and not entry.alarm else None

    def for_call(self, model: str, call: Call, conversation_key: int) -> PromptTokenizer | None:
        """The tokenizer for one request; None also for one whose kind the engine tokenises otherwise."""
        tokenizer = self.get(model)
        if tokenizer is None:
            return None
        exactness = self._entries[model].exactness
        return tokenizer if exactness.is_exact(call, conversation_key, time.monotonic()) else None

    def settled(self, model: str) -> bool:
        """Whether this model's tokenizer has been found, or found missing."""
        entry = self._entries.get(model)
        return entry is not None and entry.settled

    def alarms(self) -> dict[str, str]:
        """Models that are routed without block keys, and why."""
        return {name: entry.alarm for name, entry in self._entries.items() if entry.alarm}

    def shapes(self) -> Iterator[tuple[str, str]]:
        """Models, and kinds of requests that the engine tokenises otherwise than this router."""
        for name, entry in sorted(self._entries.items()):
            for problem in entry.exactness.problems():
                yield name, problem

    def compare(self, model: str, call: Call, prompt: PreparedPrompt, reported: int) -> None:
        """Compare an exact prompt's length in tokens with what the engine reported for it."""
        entry = self._entries.get(model)
        if entry is None or entry.alarm:
            return
        agrees, now = prompt.prompt_tokens == reported, time.monotonic()
        if agrees and not entry.exactness.wants_agreement(now):
            return
        shape = shape_of(call)
        if agrees:
            entry.exactness.agrees(shape, prompt.conversation_key, now)
            return
        log.warning(
            "prompt_tokens_differed",
            model=model,
            computed=prompt.prompt_tokens,
            reported=reported,
            shape=str(shape),
        )
        entry.exactness.differs(shape, prompt.conversation_key, now)
        if entry.odd is None and len(call.raw) <= MAX_BYTES and entry.exactness.wants_location(shape):
            entry.odd = call
        entry.due = min(entry.due, entry.checked_at + DIFFERENCE_SECONDS)

    async def run(self) -> None:
        """Load and check tokenizers as models and replicas come and go; runs until cancelled."""
        under_way: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for name in list(self._fleet.models):
                    model = self._fleet.models.get(name)
                    check = self._due_check(model) if model and name not in under_way else None
                    if check is not None:
                        under_way[name] = asyncio.create_task(check)
                    await asyncio.sleep(0)
                for name in self._entries.keys() - self._fleet.models.keys():
                    del self._entries[name]
                for entry in self._entries.values():
                    entry.exactness.forget_until(time.monotonic())
                await asyncio.sleep(CHECK_SECONDS)
                under_way = {name: task for name, task in under_way.items() if not task.done()}
        finally:
            await cancel_and_wait(*under_way.values())

    def _due_check(self, model: Model) -> Coroutine[Any, Any, None] | None:
        """A model's next check, if it is due."""
        ready = [replica for replica in model.replicas if replica.lease.state is ReplicaState.READY]
        if not ready:
            return None
        entry, now = self._entries.setdefault(model.name, _Entry()), time.monotonic()
        replicas = frozenset(
            (r.lease.replica, r.epoch, r.lease.tokenizer_fingerprint, r.lease.model_directory) for r in ready
        )
        if not entry.is_due(replicas, now):
            return None
        entry.replicas, entry.checked_at = replicas, now
        return self._look_after(entry, model, [replica.lease for replica in ready])

    async def _look_after(self, entry: _Entry, model: Model, leases: Sequence[Lease]) -> None:
        try:
            async with self._checks:
                await self._check(entry, model, leases)
                await self._locate(entry, model, leases[0].url)
        except TokenizerUnavailableError as error:
            alarm = f"{error}; name one with --tokenizer {leases[0].model}=DIRECTORY"
            self._alarm(entry, model.name, alarm)
        except Exception as error:  # broken files make the tokenizer library raise whatever it likes
            self._alarm(entry, model.name, f"the tokenizer cannot be used: {type(error).__name__}: {error}")
        if not entry.alarm:  # else the replica that differed is asked again, and not the next one in turn
            entry.checks += 1

    async def _check(self, entry: _Entry, model: Model, leases: Sequence[Lease]) -> None:
        """Compare with one replica of each kind. Where they differ, the files on disk may be newer."""
        kinds = _kinds(leases)
        turn = entry.checks % len(kinds)
        probed = [kind[entry.checks % len(kind)] for kind in (kinds[turn:] + kinds[:turn])[:MAX_PROBED]]
        answered, difference = 0, ""
        tokenizer = None if entry.alarm else entry.tokenizer
        if tokenizer is not None:
            answered, difference = await self._compare_all(tokenizer, model, probed)
        if tokenizer is None or difference:
            tokenizer = await self._load(model, kinds[0][0])
            answered, difference = await self._compare_all(tokenizer, model, probed)
        if difference:
            self._alarm(entry, model.name, difference)
            return
        if entry.alarm or tokenizer is not entry.tokenizer:
            entry.tokenizer, entry.exactness = tokenizer, Exactness()
        if not answered:
            entry.due = time.monotonic() + (entry.pause or RECHECK_SECONDS)
        elif entry.agrees(time.monotonic(), everybody=answered == len(probed)):
            log.info("tokenizer_agreed", model=model.name)

    async def _load(self, model: Model, lease: Lease) -> PromptTokenizer:
        names = (model.name, lease.model, *lease.aliases)
        directory = next(filter(None, map(self._directories.get, names)), None)
        options = next(filter(None, map(self._options.get, names)), ChatOptions())
        tokenizer = await self._loader.load(
            directory or Path(lease.model_directory or "/nonexistent"), options
        )
        if not self._has_loaded:
            self._has_loaded = True
            calm_collector()
        return tokenizer

    async def _compare_all(
        self, tokenizer: PromptTokenizer, model: Model, leases: Sequence[Lease]
    ) -> tuple[int, str]:
        """How many of these replicas answered, and the first difference found; "" for none."""
        found = await asyncio.gather(
            *(differs_on_probe(self._upstream, lease, model.name, tokenizer) for lease in leases),
            return_exceptions=True,
        )
        differences = []
        for lease, outcome in zip(leases, found, strict=True):
            if isinstance(outcome, AttemptFailedError):
                reason = str(outcome)
                log.warning("tokenizer_check_failed", model=model.name, replica=lease.replica, reason=reason)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                differences.append(outcome)
        return len(differences), next(filter(None, differences), "")

    async def _locate(self, entry: _Entry, model: Model, url: str) -> None:
        """Find out where the tokens of the request part that differed, if there is one."""
        call, entry.odd = entry.odd, None
        if call is None or entry.tokenizer is None or entry.alarm:
            return
        if where := await locate(self._upstream, url, model.name, entry.tokenizer, call):
            shape = shape_of(call)
            entry.exactness.locate(shape, where)
            log.warning("difference_located", model=model.name, shape=str(shape), where=where)

    def _alarm(self, entry: _Entry, model: str, alarm: str) -> None:
        if entry.differs(time.monotonic(), alarm):
            log.error("tokenizer_differed", model=model, alarm=alarm)


def _kinds(leases: Sequence[Lease]) -> list[list[Lease]]:
    """Replicas that have the same tokenizer, as far as their agents can tell; the most common first."""
    kinds: dict[str, list[Lease]] = {}
    for lease in leases:
        kinds.setdefault(lease.tokenizer_fingerprint or lease.model_directory, []).append(lease)
    return sorted(kinds.values(), key=len, reverse=True)
