"""The tokenizer of every model the fleet serves: loaded in the background, checked against its engines.

A tokenizer that differs from the engine's would make every key wrong and every hit rate zero, silently. So
each is compared with the engines' ``/tokenize`` before it is used, again when replicas change, and now and
then; and every reply's own count of prompt tokens is compared, too. A model whose tokenizer differs is routed
by the ring, with an alarm, until a later check finds that it agrees again.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cluster.collector import calm_collector
from cluster.errors import PromptError, TokenizerUnavailableError
from cluster.fleet import Fleet
from cluster.replicas import Model
from cluster.tokenizer import PromptTokenizer
from cluster.wire import Lease, ReplicaState
from router.errors import AttemptFailedError
from router.upstream import Upstream

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
MISMATCHES_ALLOWED = 2
"""Replies in a row whose prompt token count may differ before the tokenizer is no longer believed."""
MAX_PROBED = 8
"""Replicas asked per check, one for each tokenizer among them; where there are more, they take turns."""

PROBES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "Hello, wörld! 12345 \n\n  two spaces"}]},
    {
        "messages": [
            {"role": "system", "content": "You are  terse.\n"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "东京 🚀 ok"},
            {"role": "user", "content": " <b>done?</b> "},
        ]
    },
)

log = structlog.get_logger()


@dataclass(slots=True)
class _Entry:
    tokenizer: PromptTokenizer | None = None
    settled: bool = False
    """Whether it is known if this model can be tokenised here."""
    alarm: str = ""
    mismatches: int = 0
    replicas: frozenset[tuple[object, ...]] = frozenset()
    """What the ready replicas were at the last check, as far as it matters for tokens."""
    checks: int = 0
    checked_at: float = float("-inf")
    due: float = float("-inf")
    """When the next check is due even if no replica changes; like all times here monotonic, in seconds."""
    pause: float = 0.0
    agreed_at: float = float("-inf")
    """Since when it has agreed, while there is no alarm."""

    def is_due(self, replicas: frozenset[tuple[object, ...]], now: float) -> bool:
        """Whether to check now, with these replicas."""
        changed = replicas != self.replicas and now >= self.checked_at + CHANGE_SECONDS
        return not self.settled or now >= self.due or changed

    def agrees(self, now: float, everybody: bool) -> bool:
        """Note a check without a difference; True when that is news. ``everybody`` asked has answered."""
        news = bool(self.alarm) or not self.settled
        if news:
            self.alarm, self.mismatches, self.agreed_at = "", 0, now
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


class Tokenizers:
    """Tokenizers by model name. `run` keeps them in step with the fleet."""

    def __init__(self, fleet: Fleet, upstream: Upstream, directories: Mapping[str, Path]) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._directories = directories
        self._entries: dict[str, _Entry] = {}
        self._has_loaded = False

    def get(self, model: str) -> PromptTokenizer | None:
        """The tokenizer of a model, if there is one that agrees with the engine's."""
        entry = self._entries.get(model)
        return entry.tokenizer if entry and entry.settled and not entry.alarm else None

    def settled(self, model: str) -> bool:
        """Whether this model's tokenizer has been found, or found missing."""
        entry = self._entries.get(model)
        return entry is not None and entry.settled

    def alarms(self) -> dict[str, str]:
        """Models that are routed without block keys, and why."""
        return {name: entry.alarm for name, entry in self._entries.items() if entry.alarm}

    def compare(self, model: str, computed: int, reported: int) -> None:
        """Compare a prompt's length in tokens with what the engine reported for it."""
        entry = self._entries.get(model)
        if entry is None or entry.alarm:
            return
        if computed == reported:
            entry.mismatches = 0
            return
        entry.mismatches += 1
        log.warning("prompt_tokens_differ", model=model, computed=computed, reported=reported)
        if entry.mismatches > MISMATCHES_ALLOWED:
            alarm = f"the engine counted {reported} prompt tokens where the router counted {computed}"
            self._alarm(entry, model, alarm)

    async def run(self) -> None:
        """Load and check tokenizers as models and replicas come and go; runs until cancelled."""
        while True:
            for name in list(self._fleet.models):
                model = self._fleet.models.get(name)
                if model is not None:
                    await self._look_after(model)
                await asyncio.sleep(0)
            for name in self._entries.keys() - self._fleet.models.keys():
                del self._entries[name]
            await asyncio.sleep(CHECK_SECONDS)

    async def _look_after(self, model: Model) -> None:
        ready = [replica for replica in model.replicas if replica.lease.state is ReplicaState.READY]
        if not ready:
            return
        entry = self._entries.setdefault(model.name, _Entry())
        replicas = frozenset(
            (r.lease.replica, r.epoch, r.lease.tokenizer_fingerprint, r.lease.model_directory) for r in ready
        )
        if not entry.is_due(replicas, time.monotonic()):
            return
        entry.replicas, entry.checked_at = replicas, time.monotonic()
        try:
            await self._check(entry, model, [replica.lease for replica in ready])
        except TokenizerUnavailableError as error:
            alarm = f"{error}; name one with --tokenizer {ready[0].lease.model}=DIRECTORY"
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
        alarm, answered, difference = entry.alarm, 0, ""
        tokenizer = None if alarm else entry.tokenizer
        if tokenizer is not None:
            answered, difference = await self._compare_all(tokenizer, model, probed)
        if tokenizer is None or difference:
            lease = kinds[0][0]
            directory = self._directories.get(model.name) or self._directories.get(lease.model)
            path = directory or Path(lease.model_directory or "/nonexistent")
            tokenizer = await asyncio.to_thread(PromptTokenizer, path)
            if not self._has_loaded:
                self._has_loaded = True
                calm_collector()
            answered, difference = await self._compare_all(tokenizer, model, probed)
        if difference:
            self._alarm(entry, model.name, difference)
            return
        entry.tokenizer = tokenizer
        if not answered or entry.alarm != alarm:  # meanwhile replies have raised one
            entry.due = time.monotonic() + (entry.pause or RECHECK_SECONDS)
        elif entry.agrees(time.monotonic(), everybody=answered == len(probed)):
            log.info("tokenizer_agrees", model=model.name)

    async def _compare_all(
        self, tokenizer: PromptTokenizer, model: Model, leases: Sequence[Lease]
    ) -> tuple[int, str]:
        """How many of these replicas answered, and the first difference found; "" for none."""
        answered = 0
        for lease in leases:
            try:
                difference = await self._difference(tokenizer, model, lease)
            except AttemptFailedError as error:
                log.warning(
                    "tokenizer_check_failed", model=model.name, replica=lease.replica, reason=str(error)
                )
                continue
            answered += 1
            if difference:
                return answered, difference
        return answered, ""

    async def _difference(self, tokenizer: PromptTokenizer, model: Model, lease: Lease) -> str:
        probes = PROBES if tokenizer.has_chat_template else ({"prompt": "Hello, wörld! 12345"},)
        for number, probe in enumerate(probes):
            try:
                prompt = (
                    tokenizer.chat(probe) if "messages" in probe else tokenizer.completion(probe["prompt"])
                )
            except PromptError:
                continue
            engine = await self._upstream.tokenise(lease.url, {"model": model.name, **probe})
            if engine is not None and engine != list(prompt.token_ids):
                return f"the router's tokenizer and that of replica {lease.replica} differ on probe {number}"
        return ""

    def _alarm(self, entry: _Entry, model: str, alarm: str) -> None:
        if entry.differs(time.monotonic(), alarm):
            log.error("tokenizer_alarm", model=model, alarm=alarm)


def _kinds(leases: Sequence[Lease]) -> list[list[Lease]]:
    """Replicas that have the same tokenizer, as far as their agents can tell; the most common first."""
    kinds: dict[str, list[Lease]] = {}
    for lease in leases:
        kinds.setdefault(lease.tokenizer_fingerprint or lease.model_directory, []).append(lease)
    return sorted(kinds.values(), key=len, reverse=True)
