"""Reads a log once, and finds out everything about it."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import PromptError
from loadtest.doctor.block_memory import BlockMemory
from loadtest.doctor.conversations import Conversations
from loadtest.doctor.diagnosis import Diagnosis, HitRates, LogFacts, Need, Sizing, counted
from loadtest.doctor.findings import FindingCollector
from loadtest.doctor.fixes import Fixes, asked_for
from loadtest.doctor.log_formats import BrokenLineError, Skipped
from loadtest.doctor.log_requests import LogError, LoggedRequest, LogLines, parse
from loadtest.doctor.openings import Openings
from loadtest.doctor.personal_count import PersonalCount
from loadtest.doctor.prompts import Prompts, RequestKeys
from loadtest.doctor.sizing import GIB, Curve, bytes_per_token, fleet_points, thinned

SAMPLE_BYTES = 40 * 1024 * 1024
"""Text of the requests that are looked at for defects; longer logs are sampled by conversation."""
MAX_BROKEN_SHOWN = 5
MAX_KINDS = 32
"""Of skipped records; more are counted together."""
MAX_SHARED_PARTS = 0.5
"""An opening takes at most this share of a replica's cache in the estimate for fleets."""

Progress = Callable[[LogLines, int], None]
"""Told the log and the number of requests so far, after every line."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to examine."""

    log: str
    model: Path
    stand_in: bool = False
    """Whether the model only stands in for the one that the log is from."""
    block_size: int = 16
    kv_gib: float = 16.0
    """KV memory of one replica."""
    sample_bytes: int = SAMPLE_BYTES


def examine(
    question: Question,
    progress: Progress = lambda _log, _requests: None,
    prompts: RequestKeys | None = None,
) -> Diagnosis:
    """The diagnosis of a log. Raises `LogError` when it cannot be read or holds no request.

    ``prompts`` takes the place of the model's tokenizer.
    """
    return _Examination(question, prompts).run(progress)


class _Examination:
    def __init__(self, question: Question, prompts: RequestKeys | None) -> None:
        self._question = question
        self._log = LogLines(question.log)
        self._prompts = prompts or Prompts(question.model, question.block_size, question.stand_in)
        self._conversations = Conversations()
        self._fixes = Fixes(self._conversations, asked_for())
        self._collector = FindingCollector(self._prompts)
        self._memory = BlockMemory()
        self._openings = Openings(question.block_size)
        self._personal = PersonalCount()
        self._lines = self._requests = self._broken = self._refused = self._images = 0
        self._first_broken: list[tuple[int, str]] = []
        self._skipped: Counter[str] = Counter()
        self._last_time, self._backwards = "", 0
        self._tokens = self._hits = self._blocks = self._shared = 0

    def run(self, progress: Progress) -> Diagnosis:
        started = time.monotonic()
        for number, record in self._log:
            self._lines += 1
            for request in self._parsed(number, record):
                self._take(request)
            progress(self._log, self._requests)
        if not self._requests:
            raise LogError(self._no_request())
        return self._diagnosis(time.monotonic() - started)

    def _parsed(self, number: int, record: bytes | None) -> list[LoggedRequest]:
        try:
            if record is None:
                raise BrokenLineError("longer than 64 MiB")
            found = parse(record)
            for kind in (one.kind for one in found if isinstance(one, Skipped)):
                self._skipped[kind if len(self._skipped) < MAX_KINDS else "other kinds"] += 1
            return [one for one in found if isinstance(one, LoggedRequest)]
        except BrokenLineError as error:
            self._broken += 1
            if len(self._first_broken) < MAX_BROKEN_SHOWN:
                self._first_broken.append((number, str(error)))
            return []

    def _take(self, request: LoggedRequest) -> None:
        try:
            keyed = self._prompts.keyed(request)
        except PromptError:
            self._refused += 1
            return
        block_size = self._question.block_size
        hits = self._memory.touch(keyed.keys, keyed.num_tokens, block_size)
        self._requests += 1
        self._backwards += request.time < self._last_time
        self._last_time = request.time
        self._images += request.images
        self._tokens += keyed.num_tokens
        self._blocks += len(keyed.keys)
        self._hits += hits * block_size
        conversation = self._conversations.of(request, self._sampled_share())
        self._openings.note(request, conversation, keyed.keys, hits)
        self._shared += conversation.opening != 0
        self._personal.note(request, hits * block_size / max(keyed.num_tokens, 1))
        if conversation.is_sampled:
            try:
                self._collector.add(self._fixes.apply(request, conversation))
            except PromptError:  # a template that takes the request, but not its messages in another order
                conversation.is_sampled = False

    def _sampled_share(self) -> float:
        """Share of new conversations to look at closely: all at first, fewer when there is much."""
        expected = max(self._log.text_bytes, self._log.size)
        return min(1.0, self._question.sample_bytes / max(expected, 1))

    def _no_request(self) -> str:
        if not self._lines:
            return f"{self._log.path} is empty"
        if self._skipped and not self._broken:
            return f"no chat or text completion in {self._log.path}, only {counted(self._skipped)}"
        why = "; ".join(f"line {number}: {reason}" for number, reason in self._first_broken)
        if self._refused:
            return f"no request in {self._log.path} could be rendered with the model's chat template"
        return f"no request in {self._log.path} could be read: {why}"

    def _diagnosis(self, seconds: float) -> Diagnosis:
        collector, question = self._collector, self._question
        scale = self._tokens / max(collector.tokens, 1)
        now = self._hits / max(self._tokens, 1)
        gained = (collector.computed - collector.computed_mended) * scale / max(self._tokens, 1)
        return Diagnosis(
            facts=LogFacts(
                name=question.log,
                lines=self._lines,
                requests=self._requests,
                conversations=self._conversations.total,
                text_bytes=self._log.text_bytes,
                broken=self._broken,
                first_broken=self._first_broken,
                skipped=dict(self._skipped),
                newest_first=2 * self._backwards > self._requests,
                refused=self._refused,
                cut_off=self._log.cut_off,
                images=self._images,
                prompt_tokens=self._tokens,
                blocks=self._blocks,
                block_size=question.block_size,
                model=question.model.name,
                stand_in=question.stand_in,
                tools_added=self._prompts.adds_tools,
                sampled_requests=collector.requests,
                forgotten_blocks=self._memory.forgotten,
                restarts=collector.restarts,
                forgotten_histories=self._conversations.forgotten_histories,
                seconds=seconds,
            ),
            hit_rates=HitRates(now, min(now + max(gained, 0.0), 1.0)),
            findings=collector.findings(scale),
            openings=self._openings.listed(self._conversations.total),
            shared_requests=self._shared,
            sizing=self._sizing(scale),
            personal=self._personal.findings(),
        )

    def _sizing(self, scale: float) -> Sizing:
        block_size = self._question.block_size
        per_token = bytes_per_token(self._question.model)
        memory = self._question.kv_gib * GIB
        per_replica = memory / (per_token * block_size) if per_token else self._memory.distinct
        listed = self._openings.listed(self._conversations.total)
        shared = min(sum(one.tokens for one in listed) / block_size, MAX_SHARED_PARTS * per_replica)
        now = Curve.of(self._memory.reuse)
        mended = Curve.of(self._collector.all_mended.reuse, scale)
        return Sizing(
            curve=_rates(now, block_size, self._tokens, self._tokens),
            curve_mended=_rates(mended, block_size, self._collector.tokens_mended, self._collector.tokens),
            fleets=fleet_points(self._memory.reuse, self._tokens, block_size, per_replica, int(shared)),
            need=self._need(now, per_token, memory),
            need_mended=self._need(mended, per_token, memory),
        )

    def _need(self, curve: Curve, per_token: int | None, memory: float) -> Need:
        blocks = curve.working_set
        tokens = blocks * self._question.block_size
        total = tokens * per_token if per_token else None
        replicas = max(-(-total // int(memory)), 1) if total is not None else None
        return Need(blocks, tokens, per_token, total, replicas, int(memory))


def _rates(curve: Curve, block_size: int, tokens: int, tokens_now: int) -> list[tuple[float, float]]:
    """Capacity in tokens, and the share of today's tokens that is not computed."""
    return [
        (blocks * block_size, max(1 - (tokens - hits * block_size) / max(tokens_now, 1), 0.0))
        for blocks, hits in thinned(curve)
    ]
