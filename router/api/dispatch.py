"""From a prepared prompt to the first bytes of an answer: decide, book, send, and try elsewhere on
failure."""

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import xxhash

from cluster.apis.answer_blocks import Maker
from cluster.fleet.booking import Booking
from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model, Replica
from cluster.protocol.wire import ReplicaState
from policies.baselines import least_load
from policies.catalog import NEED_ROOM
from policies.types import Decision, NoReplicaError, Policy, Request, Snapshot
from router.errors import AttemptFailedError, AttemptsFailedError, NoReplicaReadyError, Repeat
from router.explain.explainer import Explainer
from router.explain.misses import Considered
from router.health.probes import Probes
from router.health.readiness import without_replicas
from router.history.record import RequestRecord
from router.requests.agent_calls import chat_body
from router.requests.prompts import PreparedPrompt
from router.requests.schema import CHAT_PATH, CHAT_PATHS, Call
from router.settings import RouterSettings
from router.steer.experiment import Assignment
from router.steer.steering import Steering
from router.tenants.keys import Tenant
from router.upstream.client import Upstream
from router.upstream.reply import UpstreamReply

MAX_HELD_SECONDS = 60.0
"""Longest wait in the router; then a request joins its engine's queue whatever that is believed to be."""
LOOK_SECONDS = 1.0
"""How often a request that waits makes sure that what it waits for can still come."""
UNKEYED = Assignment("least-load", least_load)
"""Decides requests that belong to no conversation: what replicas hold of their prompts is not known."""
TRANSLATED = CHAT_PATHS - {CHAT_PATH}
MAX_LACKING = 10_000
"""Pairs of a replica and a path; beyond, engines are asked again."""
MAX_HARMFUL_ATTEMPTS = 2
"""Attempts of one request after which an engine was dead or reported an error: it may be the cause."""


@dataclass(slots=True)
class Exchange:
    """An answer under way and the load booked for it. `close` it, however it ends."""

    reply: UpstreamReply
    booking: Booking
    is_chat: bool = False
    """Whether the engine was asked for the chat completion that the request stands for."""
    maker: Maker | None = None
    """What makes the answer of that one's, then."""

    def close(self, succeeded: bool) -> None:
        """Give back the booking and the connection; only the first call counts."""
        self.booking.release(time.monotonic(), succeeded)
        self.reply.close()


@dataclass(slots=True, eq=False, repr=False)
class Dispatcher:
    """Sends requests to replicas."""

    fleet: Fleet
    upstream: Upstream
    probes: Probes
    steering: Steering
    explainer: Explainer
    settings: RouterSettings
    _lacking: set[tuple[str, int, str]] = field(default_factory=set)
    """Replicas, their epochs, and paths of other APIs that their engines do not serve."""

    async def start(
        self, call: Call, prompt: PreparedPrompt, record: RequestRecord, headers: Mapping[str, str]
    ) -> Exchange:
        """Send a request to the best replica, and to the next best while no byte of an answer has come and
        the failure is not the request's own.

        Raises `NoReplicaReadyError`, `UnknownModelError` or `AttemptsFailedError`.
        """
        body = call.upstream_body()
        key = prompt.conversation_key
        record.assignment = assignment = self.steering.policy_for(key) if key else UNKEYED
        failures: dict[str, AttemptFailedError] = {}
        harmful = 0
        while True:
            decided = self._decide(call, prompt, assignment.policy, record, failures)
            if decided is None:
                await self._pause(key, record)
                continue
            booking, room_tokens = decided
            replica = booking.replica
            try:
                if not await self._turn(booking, room_tokens, record):
                    booking.release(time.monotonic(), succeeded=False)
                    continue
                record.attempts += 1
                record.sent = time.monotonic()
                booking.measure_from(record.sent)
                with self.probes.watched(replica):
                    reply, is_chat = await self._send(replica, call, body, headers)
            except AttemptFailedError as failure:
                booking.release(time.monotonic(), succeeded=False)
                if failure.replica_down:
                    replica.failed_until = time.monotonic() + self.settings.failed_replica_seconds
                    self.probes.suspect(replica)
                failures[replica.lease.replica] = failure
                harmful += failure.repeat is Repeat.ONCE
                if (
                    failure.repeat is Repeat.NEVER
                    or harmful >= MAX_HARMFUL_ATTEMPTS
                    or record.attempts >= self.settings.max_attempts
                ):
                    raise AttemptsFailedError(record.attempts, failure) from failure
            except BaseException:
                booking.release(time.monotonic(), succeeded=False)
                raise
            else:
                # A stream of another format may begin before its engine has begun with the prompt.
                booking.prefill_done(time.monotonic(), reply.has_token and key != 0)
                return Exchange(reply, booking, is_chat)

    async def _send(
        self, replica: Replica, call: Call, body: bytes, headers: Mapping[str, str]
    ) -> tuple[UpstreamReply, bool]:
        """Send a request as its engine serves it; whether that is as a chat completion."""
        url, lacks = replica.lease.url, (replica.lease.replica, replica.epoch, call.path)
        if lacks not in self._lacking:
            reply = await self.upstream.send(url, call.path, body, headers, call.stream)
            missing = reply.status in (404, 405) and b'"error"' not in reply.first
            if not missing or call.path not in TRANSLATED:
                return reply, False
            reply.close()
            if len(self._lacking) >= MAX_LACKING:
                self._lacking.clear()
            self._lacking.add(lacks)
        return await self.upstream.send(url, CHAT_PATH, chat_body(call), headers, call.stream), True

    async def _turn(self, booking: Booking, room_tokens: float, record: RequestRecord) -> bool:
        """Wait in the router until the engine has room. False when the replica takes no requests any more."""
        fleet = self.fleet
        if fleet.has_room(booking, room_tokens):
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        limit = began + MAX_HELD_SECONDS + record.paused_seconds - record.held_seconds
        if began >= limit or not fleet.hold(booking, room_tokens, record.started, turn.set_result):
            return True
        fleet.waiting_requests += 1
        try:
            while not turn.done() and fleet.sees_progress(booking) and time.monotonic() < limit:
                await asyncio.wait([turn], timeout=min(LOOK_SECONDS, limit - time.monotonic()))
                fleet.forget_until(time.monotonic())
        finally:
            fleet.waiting_requests -= 1
            record.held_seconds += time.monotonic() - began
        booking.resume()
        return fleet.takes_requests(booking.replica, time.monotonic())

    async def _pause(self, program: int, record: RequestRecord) -> None:
        """Wait until there may be room in KV memory, or for as long as a request may be held for that."""
        fleet, woken, began = self.fleet, asyncio.Event(), time.monotonic()
        pause = fleet.programs.pauses.enter(fleet.turns.wait(program, record.started), woken.set)
        limit = record.started + self.settings.max_paused_seconds
        fleet.programs.pauses.num_turns += not record.paused_seconds
        fleet.waiting_requests += 1
        try:
            while not woken.is_set() and time.monotonic() < limit:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(LOOK_SECONDS, limit - time.monotonic())):
                        await woken.wait()
                fleet.forget_until(time.monotonic())
                if fleet.programs.pauses.is_first(pause):
                    break  # whatever has changed: replicas may have joined
        except BaseException:
            if pause.over:
                fleet.programs.pauses.wake()  # it was this one's turn
            raise
        finally:
            pause.over = True
            fleet.waiting_requests -= 1
            seconds = time.monotonic() - began
            record.held_seconds += seconds
            record.paused_seconds += seconds

    def _decide(
        self,
        call: Call,
        prompt: PreparedPrompt,
        policy: Policy,
        record: RequestRecord,
        failures: Mapping[str, AttemptFailedError],
    ) -> tuple[Booking, float] | None:
        """Choose a replica and book it, without giving control to anybody in between.

        The number says how many tokens its engine may still have to compute when the request is sent. None:
        there is no room in KV memory, and the request is to wait for it.
        """
        started = time.perf_counter()
        model = self.fleet.models.get(call.model)
        if model is None:
            raise without_replicas(self.fleet, call.model)
        snapshot, decision = self._choose(model, prompt, policy, record, failures)
        if decision.waits:
            return None
        replica = model.replicas[decision.row]
        expected = int(snapshot.cached_tokens[decision.row])
        booking = self.fleet.book(
            replica,
            prompt.keys,
            prompt.prompt_tokens,
            expected,
            prompt.conversation_key,
            streamed=call.stream,
            exact=prompt.exact,
            program_at=time.monotonic() if prompt.exact and policy in NEED_ROOM else None,
        )
        record.replica = replica.lease.replica
        record.reason = "retry" if failures else decision.reason
        record.expected_cached_tokens = expected if prompt.exact else 0
        record.seconds_per_token = replica.pace.seconds_per_token
        record.considered = _considered(snapshot, decision)
        record.decided = time.monotonic()
        record.decision_seconds = time.perf_counter() - started
        cached = snapshot.cached_tokens
        available = cached.item(cached.argmax()) if prompt.exact else 0  # sooner than cached.max()
        record.available_cached_tokens = available
        record.prediction = self.explainer.predict(call, prompt, model, decision.row, expected, available)
        return booking, decision.room_tokens

    def _choose(
        self,
        model: Model,
        prompt: PreparedPrompt,
        policy: Policy,
        record: RequestRecord,
        failures: Mapping[str, AttemptFailedError],
    ) -> tuple[Snapshot, Decision]:
        """The policy's choice among sound replicas; else among those that failed others, those that only
        seem to be out of reach, or, at last, those that failed us.
        """
        # Without a conversation, replicas with the same load have the same share of requests.
        key = prompt.conversation_key or xxhash.xxh3_64_intdigest(record.request_id.encode())
        may_wait = not failures and time.monotonic() < record.started + self.settings.max_paused_seconds
        request = Request(prompt.prompt_tokens, prompt.opening_tokens, key, may_wait)
        useless = [name for name, failure in failures.items() if failure.timed_out or failure.answer]
        barred = _barred(model, record.rights)
        shut = [*failures, *barred]
        for excluded, heed_failures, reachable in (
            (shut, True, True),
            (shut, False, True),
            (shut, False, False),
            ([*useless, *barred], False, True),
        ):
            snapshot = self.fleet.snapshot(
                model,
                prompt.keys,
                prompt.prompt_tokens,
                time.monotonic(),
                excluded,
                prompt.conversation_key,
                heed_failures,
                prompt.context_tokens,
                prompt.exact,
                prompt.exact and policy in NEED_ROOM,
            )
            with suppress(NoReplicaError):
                if reachable:
                    return snapshot, policy(request, snapshot)
                snapshot = _out_of_reach(snapshot, model, excluded, prompt.context_tokens)
                return snapshot, policy(request, snapshot)._replace(room_tokens=math.inf)
        if len(barred) == len(model.replicas):
            wanted = ", ".join(f"{name}={label}" for name, label in record.rights.replicas.items())
            raise NoReplicaReadyError(f"No replica of {model.name!r} has {wanted}, as this API key wants.")
        if failures and model.ready:
            raise AttemptsFailedError(record.attempts, list(failures.values())[-1])
        if any(replica.drained for replica in model.replicas):
            raise NoReplicaReadyError(f"No replica of {model.name!r} takes requests: some are drained.")
        if any(replica.lease.state is ReplicaState.ASLEEP for replica in model.replicas):
            raise NoReplicaReadyError(f"No replica of {model.name!r} takes requests: some are asleep.")
        lacks = f" and has room for {prompt.context_tokens} tokens" if model.ready else ""
        raise NoReplicaReadyError(f"No replica of {model.name!r} is ready{lacks}; try again shortly.")


def _barred(model: Model, rights: Tenant) -> list[str]:
    """Replicas that may not serve a tenant."""
    if not rights.replicas:
        return []
    return [one.lease.replica for one in model.replicas if not rights.admits(one.lease.labels)]


def _out_of_reach(
    snapshot: Snapshot, model: Model, excluded: Collection[str], context_tokens: int
) -> Snapshot:
    """The same, but only replicas are eligible that agents cannot reach. A busy engine may look like that."""
    eligible = [
        replica.lease.state is ReplicaState.UNREACHABLE
        and not replica.drained
        and name not in excluded
        and replica.has_context_for(context_tokens)
        for name, replica in zip(model.ids, model.replicas, strict=True)
    ]
    return snapshot._replace(eligible=np.array(eligible, dtype=np.bool_))


def _considered(snapshot: Snapshot, decision: Decision) -> Considered:
    return Considered(
        snapshot.replicas,
        decision.row,
        snapshot.eligible,
        snapshot.cached_tokens,
        snapshot.queued_tokens,
        snapshot.running,
        decision.costs,
        snapshot.last_replica,
        snapshot.caches_seen,
    )
