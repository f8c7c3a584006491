"""One simulated engine without its HTTP: cache, scheduler, step loop and event publisher, wired together.

It answers in plain words. The next turn of a conversation repeats the answer as text, whose cached blocks are
hit only if it becomes the tokens that were generated: so answers are made of common words of one token each.

The API submits a `Job` per request and awaits its outputs. A job owns its sequences: cancelling it, once or
more, frees whatever they still hold.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import xxhash
import zmq

from cluster.prompts.tokenizer import PromptTokenizer
from workers.sim.block_manager import BlockManager, Event, Lora, TokenChain
from workers.sim.kv_publisher import KVPublisher, PublisherConfig
from workers.sim.scheduler import Scheduler, SimRequest, StepLoop, StepTimes
from workers.sim.schema import Generation, Usage
from workers.sim.settings import SimSettings

WORDS = (
    "the of and to in is that for it was on are with they be at one have this from or had by but some what "
    "there we can out other were all your when up use word how said an each she which do their time if will "
    "way about many then them would write like so these her long make thing see him two has look more day "
    "could go come did number sound no most people my over know water than call first who may down side been "
    "now find"
)

ANCHOR = "a"
MIN_SINGLE_TOKEN_WORDS = 8
SEED_TOKENS = 512
"""An answer depends on its prompt's length and last tokens; all of them would cost time per request."""

_MULTIPLIER, _INCREMENT, _MASK = 6364136223846793005, 1442695040888963407, (1 << 64) - 1

Piece = tuple[int, str]
"""A token and what it adds to the text."""


class AnswerBook:
    """The answers of one model. They follow from the prompt and have no end: the token limit ends them."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._openings = _stable_words([_pieces(tokenizer, "", word) for word in WORDS.split()])
        self._followers = _stable_words([_pieces(tokenizer, ANCHOR, f" {word}") for word in WORDS.split()])

    def answer(self, prompt: Sequence[int], variant: int) -> Iterator[Piece]:
        """The answer to a prompt, piece by piece; variants of one prompt differ."""
        seed = repr((variant, len(prompt), prompt[-SEED_TOKENS:]))
        state = xxhash.xxh3_64_intdigest(seed.encode())
        yield from self._openings[state % len(self._openings)]
        while True:
            state = (state * _MULTIPLIER + _INCREMENT) & _MASK
            yield from self._followers[(state >> 33) % len(self._followers)]


@dataclass(frozen=True, slots=True)
class Host:
    """What all simulated engines of one process share."""

    settings: SimSettings
    tokenizer: PromptTokenizer
    answers: AnswerBook
    hash_seed: int
    context: zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True, slots=True)
class Output:
    """One generated token: of which choice, its text, and whether the choice ends with it."""

    index: int
    text: str
    is_last: bool


class Job:
    """The sequences of one API request while they are generated."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.requests: list[SimRequest] = []
        self.cancelled = False
        self._scheduler = scheduler
        self._outbox: asyncio.Queue[Output | None] = asyncio.Queue()

    @property
    def finished(self) -> bool:
        """Whether every sequence is complete and its tokens were taken."""
        return self._outbox.empty() and all(request.finished for request in self.requests)

    def deliver(self, index: int, text: str, is_last: bool) -> None:
        """Take one token from the scheduler."""
        self._outbox.put_nowait(Output(index, text, is_last))

    async def outputs(self) -> list[Output]:
        """Wait for tokens and return all there are; empty once the job is cancelled."""
        taken = [await self._outbox.get()]
        while not self._outbox.empty():
            taken.append(self._outbox.get_nowait())
        return [] if self.cancelled else [output for output in taken if output]

    def cancel(self) -> None:
        """Free what the sequences hold and wake whoever waits for tokens."""
        self.cancelled = True
        for request in self.requests:
            self._scheduler.cancel(request)
        self._outbox.put_nowait(None)

    def usage(self, num_choices: int) -> Usage:
        """Token counts so far. Choices of one prompt count it once; cached tokens are those of the first."""
        first = self.requests[0]
        hits = first.num_hit_tokens or 0
        block_size = self._scheduler.blocks.block_size
        return Usage(
            prompt_tokens=sum(request.num_prompt_tokens for request in self.requests[::num_choices]),
            completion_tokens=sum(request.num_generated for request in self.requests),
            cached_tokens=hits,
            created_cache_tokens=first.num_prompt_tokens // block_size * block_size - hits,
        )


class EngineCore:
    """One engine: its cache, its queue and its clock. `start` inside a running loop, `stop` once."""

    def __init__(self, host: Host, index: int) -> None:
        settings = host.settings
        self.settings = settings
        self.tokenizer = host.tokenizer
        self.script = msgspec.json.decode(settings.script.read_bytes()) if settings.script else []
        self.started_at = time.time()
        self.publisher = _publisher(host, index) if settings.kv_events else None
        self.loras = {name: Lora(number, name) for number, name in enumerate(settings.lora, start=1)}
        events: list[Event] = []
        self.blocks = BlockManager(settings.num_blocks, settings.block_size, host.hash_seed, events.append)
        self.scheduler = Scheduler(self.blocks, settings.max_num_seqs, settings.max_num_batched_tokens)
        times = StepTimes(settings.step_ms / 1000, settings.prefill_rate, settings.decode_ms / 1000)
        self._loop = StepLoop(self.scheduler, times, events, self._publish)
        self._answers = host.answers
        self._jobs: set[Job] = set()
        self._task: asyncio.Task[None] | None = None
        self.sleep_level: int | None = None
        """None while it is awake."""

    def start(self) -> None:
        """Start stepping."""
        self._task = asyncio.create_task(self._loop.run())

    async def stop(self) -> None:
        """Cancel all jobs, stop stepping, unbind the publisher."""
        for job in list(self._jobs):
            job.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.publisher is not None:
            self.publisher.close()

    def sleep(self, level: int, abort: bool) -> None:
        """Take requests, and do nothing with them until `wake_up`. Those under way end or stand still.

        (vLLM says "abort" where an answer ends; here it looks like one that has reached its limit.)
        """
        self.sleep_level, self._loop.paused = level, True
        for request in [request for job in self._jobs for request in job.requests if not request.finished]:
            if abort:
                self.scheduler.cancel(request)
                request.deliver("", True)
        if level:
            self.blocks.clear()  # as vLLM's, its event goes out with the first step after it

    def wake_up(self) -> None:
        """Go on."""
        self.sleep_level = None
        self._loop.resume()

    def submit(self, generation: Generation) -> Job:
        """Queue the sequences of a request, in the order of its choices."""
        job = Job(self.scheduler)
        self._jobs.add(job)
        lora = self.loras.get(generation.model)
        for prompt in generation.prompts:
            for variant in range(generation.num_choices):
                chain = TokenChain(list(prompt), generation.cache_salt, lora)
                answer = (
                    self._answers.answer(chain.tokens, variant)
                    if generation.answer is None
                    else iter(_pieces(self.tokenizer, "", generation.answer))
                )
                self._add(job, chain, generation.max_tokens, answer)
        return job

    def release(self, job: Job) -> None:
        """End a job that `submit` returned; harmless when repeated."""
        job.cancel()
        self._jobs.discard(job)

    def _add(self, job: Job, chain: TokenChain, max_tokens: int, answer: Iterator[Piece]) -> None:
        index = len(job.requests)
        request = SimRequest(
            chain, max_tokens, answer, lambda text, is_last: job.deliver(index, text, is_last)
        )
        self._loop.add(request)
        job.requests.append(request)

    def _publish(self, events: list[Event]) -> None:
        if self.publisher is not None:
            self.publisher.publish(events)


def _publisher(host: Host, index: int) -> KVPublisher:
    settings = host.settings
    endpoint = settings.endpoint_of(index, settings.kv_endpoint)
    replay_endpoint = settings.endpoint_of(index, settings.kv_replay_endpoint)
    config = PublisherConfig(endpoint, replay_endpoint, buffer_steps=settings.kv_buffer_steps)
    return KVPublisher(host.context, config)


def _pieces(tokenizer: PromptTokenizer, before: str, text: str) -> list[Piece]:
    """The tokens of a text that stands behind another one, each with what it adds."""
    start = len(tokenizer.completion(before, add_special_tokens=False).token_ids)
    tokens = tokenizer.completion(before + text, add_special_tokens=False).token_ids
    texts = [tokenizer.decode(tokens[:end]) for end in range(start, len(tokens) + 1)]
    return [
        (token, longer.removeprefix(shorter))
        for token, shorter, longer in zip(tokens[start:], texts[:-1], texts[1:], strict=True)
    ]


def _stable_words(words: list[list[Piece]]) -> list[list[Piece]]:
    """The words of one token; all words when the vocabulary has too few of these."""
    single = [word for word in words if len(word) == 1]
    return single if len(single) >= MIN_SINGLE_TOKEN_WORDS else words
