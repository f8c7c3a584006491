"""The tokenizer of every model the fleet serves: loaded in the background, checked against an engine.

A tokenizer that differs from the engine's would make every key wrong and every hit rate zero, silently. So
each is compared with the engine's ``/tokenize`` before it is used, and every reply's own count of prompt
tokens is compared from then on. A model whose tokenizer differs is routed by the ring, with an alarm.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cluster.errors import PromptError, TokenizerUnavailableError
from cluster.fleet import Fleet, Model
from cluster.tokenizer import PromptTokenizer
from cluster.wire import ReplicaState
from router.errors import AttemptFailedError
from router.upstream import Upstream

CHECK_SECONDS = 0.5
MISMATCHES_ALLOWED = 2
"""Replies in a row whose prompt token count may differ before the tokenizer is no longer believed."""

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


class Tokenizers:
    """Tokenizers by model name. `run` keeps them in step with the fleet."""

    def __init__(self, fleet: Fleet, upstream: Upstream, directories: Mapping[str, Path]) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._directories = directories
        self._entries: dict[str, _Entry] = {}

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
            entry.alarm = f"the engine counted {reported} prompt tokens where the router counted {computed}"

    async def run(self) -> None:
        """Load and check tokenizers as models appear; runs until cancelled."""
        while True:
            for model in list(self._fleet.models.values()):
                if model.ready and not self.settled(model.name):
                    await self._settle(model)
            for name in self._entries.keys() - self._fleet.models.keys():
                del self._entries[name]
            await asyncio.sleep(CHECK_SECONDS)

    async def _settle(self, model: Model) -> None:
        entry = self._entries.setdefault(model.name, _Entry())
        lease = next(r.lease for r in model.replicas if r.lease.state is ReplicaState.READY)
        directory = self._directories.get(model.name) or self._directories.get(lease.model)
        try:
            if entry.tokenizer is None:
                path = directory or Path(lease.model_directory or "/nonexistent")
                entry.tokenizer = await asyncio.to_thread(PromptTokenizer, path)
            entry.alarm = await self._differences(entry.tokenizer, model, lease.url)
        except TokenizerUnavailableError as error:
            entry.alarm = f"{error}; name one with --tokenizer {lease.model}=DIRECTORY"
        except AttemptFailedError as error:
            log.warning("tokenizer_check_failed", model=model.name, reason=str(error))
            return
        entry.settled = True
        if entry.alarm:
            log.error("tokenizer_alarm", model=model.name, alarm=entry.alarm)
        else:
            log.info("tokenizer_agrees", model=model.name)

    async def _differences(self, tokenizer: PromptTokenizer, model: Model, url: str) -> str:
        probes = PROBES if tokenizer.has_chat_template else ({"prompt": "Hello, wörld! 12345"},)
        for number, probe in enumerate(probes):
            try:
                prompt = (
                    tokenizer.chat(probe) if "messages" in probe else tokenizer.completion(probe["prompt"])
                )
            except PromptError:
                continue
            engine = await self._upstream.tokenise(url, {"model": model.name, **probe})
            if engine is not None and engine != list(prompt.token_ids):
                return f"the router's tokenizer and the engine's differ on probe {number}"
        return ""
