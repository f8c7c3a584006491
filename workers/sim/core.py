"""One simulated engine without its HTTP: cache, scheduler, step loop and event publisher, wired together.

The API submits a `Job` per request and awaits its outputs. A job owns its sequences: cancelling it, once or
more, frees whatever they still hold.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

import zmq

from cluster.prompts.tokenizer import PromptTokenizer
from workers.sim.answers import AnswerBook
from workers.sim.block_manager import BlockManager, Event, Lora, TokenChain
from workers.sim.kv_publisher import KVPublisher, PublisherConfig
from workers.sim.replies import Usage
from workers.sim.requests import Generation
from workers.sim.scheduler import Scheduler, SimRequest, StepLoop, StepTimes
from workers.sim.settings import SimSettings


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

    def submit(self, generation: Generation) -> Job:
        """Queue the sequences of a request, in the order of its choices."""
        job = Job(self.scheduler)
        self._jobs.add(job)
        lora = self.loras.get(generation.model)
        for prompt in generation.prompts:
            for variant in range(generation.num_choices):
                chain = TokenChain(list(prompt), generation.cache_salt, lora)
                self._add(job, chain, generation.max_tokens, variant)
        return job

    def release(self, job: Job) -> None:
        """End a job that `submit` returned; harmless when repeated."""
        job.cancel()
        self._jobs.discard(job)

    def _add(self, job: Job, chain: TokenChain, max_tokens: int, variant: int) -> None:
        index = len(job.requests)
        answer = self._answers.answer(chain.tokens, variant)
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
