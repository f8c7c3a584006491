"""From a prepared prompt to the first bytes of an answer: decide, book, send, and try elsewhere on
failure."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from cluster.booking import Booking
from cluster.fleet import Fleet
from cluster.replicas import Model
from policies.types import Decision, NoReplicaError, Policy, Request, Snapshot
from router.accounting import RequestRecord
from router.api.schema import Call
from router.errors import (
    AttemptFailedError,
    NoReplicaReadyError,
    ReplyBrokenError,
    UnknownModelError,
    UpstreamError,
)
from router.explainer import Explainer
from router.misses import Considered
from router.probes import Probes
from router.prompts import PreparedPrompt
from router.settings import RouterSettings
from router.sse import error_status
from router.steering import Steering
from router.upstream import Upstream, UpstreamReply

MAX_HELD_SECONDS = 60.0
"""Longest wait in the router; then a request joins its engine's queue whatever that is believed to be."""
LOOK_SECONDS = 1.0
"""How often a request that waits makes sure that what it waits for can still come."""


@dataclass(slots=True)
class Exchange:
    """An answer under way and the load booked for it. `close` it, however it ends."""

    reply: UpstreamReply
    booking: Booking

    def close(self, succeeded: bool) -> None:
        """Give back the booking and the connection; only the first call counts."""
        self.booking.release(time.monotonic(), succeeded)
        self.reply.close()


class Dispatcher:
    """Sends requests to replicas."""

    def __init__(
        self,
        fleet: Fleet,
        upstream: Upstream,
        probes: Probes,
        steering: Steering,
        explainer: Explainer,
        settings: RouterSettings,
    ) -> None:
        self._fleet = fleet
        self._explainer = explainer
        self._upstream = upstream
        self._probes = probes
        self._steering = steering
        self._settings = settings

    async def start(
        self, call: Call, prompt: PreparedPrompt, record: RequestRecord, headers: Mapping[str, str]
    ) -> Exchange:
        """Send a request to the best replica, and to the next best while no byte of an answer has come.

        Raises `NoReplicaReadyError`, `UnknownModelError` or `UpstreamError`.
        """
        body = call.upstream_body()
        record.assignment = assignment = self._steering.policy_for(prompt.conversation_key)
        failures: dict[str, AttemptFailedError] = {}
        while True:
            booking, room_tokens = self._decide(call, prompt, assignment.policy, record, failures)
            replica = booking.replica
            try:
                if not await self._turn(booking, room_tokens, record):
                    booking.release(time.monotonic(), succeeded=False)
                    continue
                record.attempts += 1
                record.sent = time.monotonic()
                booking.measure_from(record.sent)
                with self._probes.watched(replica):
                    reply = await self._upstream.send(replica.lease.url, call.path, body, headers)
                    first_token = await _require_sound(reply, call)
            except AttemptFailedError as failure:
                booking.release(time.monotonic(), succeeded=False)
                if failure.replica_down:
                    replica.failed_until = time.monotonic() + self._settings.failed_replica_seconds
                    self._probes.suspect(replica)
                failures[replica.lease.replica] = failure
                if record.attempts >= self._settings.max_attempts:
                    raise _exhausted(record, failure) from failure
            except BaseException:
                booking.release(time.monotonic(), succeeded=False)
                raise
            else:
                booking.prefill_done(time.monotonic(), first_token)
                return Exchange(reply, booking)

    async def _turn(self, booking: Booking, room_tokens: float, record: RequestRecord) -> bool:
        """Wait in the router until the engine has room. False when the replica takes no requests any more."""
        fleet = self._fleet
        if fleet.has_room(booking, room_tokens):
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        limit = began + MAX_HELD_SECONDS - record.held_seconds
        if began >= limit or not fleet.hold(booking, room_tokens, record.started, turn.set_result):
            return True
        fleet.waiting_requests += 1
        try:
            while not turn.done() and fleet.store_reachable and time.monotonic() < limit:
                await asyncio.wait([turn], timeout=min(LOOK_SECONDS, limit - time.monotonic()))
                fleet.forget_until(time.monotonic())
        finally:
            fleet.waiting_requests -= 1
            record.held_seconds += time.monotonic() - began
        booking.let_go()
        return fleet.takes_requests(booking.replica, time.monotonic())

    def _decide(
        self,
        call: Call,
        prompt: PreparedPrompt,
        policy: Policy,
        record: RequestRecord,
        failures: Mapping[str, AttemptFailedError],
    ) -> tuple[Booking, float]:
        """Choose a replica and book it, without giving control to anybody in between.

        The number says how many tokens its engine may still have to compute when the request is sent.
        """
        started = time.perf_counter()
        model = self._fleet.models.get(call.model)
        if model is None:
            raise UnknownModelError(call.model)
        snapshot, decision = self._choose(model, prompt, policy, record, failures)
        replica = model.replicas[decision.row]
        expected = int(snapshot.cached_tokens[decision.row])
        booking = self._fleet.book(
            replica,
            prompt.keys,
            prompt.prompt_tokens,
            expected,
            prompt.conversation_key,
            streamed=call.stream,
        )
        record.replica = replica.lease.replica
        record.reason = "retry" if failures else decision.reason
        record.expected_cached_tokens = expected
        record.seconds_per_token = replica.pace.seconds_per_token
        record.considered = _considered(snapshot, decision)
        record.decided = time.monotonic()
        record.decision_seconds = time.perf_counter() - started
        cached = snapshot.cached_tokens
        record.available_cached_tokens = available = cached.item(cached.argmax())  # sooner than cached.max()
        record.prospect = self._explainer.look(call, prompt, model, decision.row, expected, available)
        return booking, decision.room_tokens

    def _choose(
        self,
        model: Model,
        prompt: PreparedPrompt,
        policy: Policy,
        record: RequestRecord,
        failures: Mapping[str, AttemptFailedError],
    ) -> tuple[Snapshot, Decision]:
        """The policy's choice among sound replicas; else among those that failed others or, at last, us."""
        request = Request(prompt.prompt_tokens, prompt.opening_tokens, prompt.conversation_key)
        hung = [replica for replica, failure in failures.items() if failure.timed_out]
        for excluded, heed_failures in ((failures, True), (failures, False), (hung, False)):
            snapshot = self._fleet.snapshot(
                model,
                prompt.keys,
                prompt.prompt_tokens,
                time.monotonic(),
                excluded,
                prompt.conversation_key,
                heed_failures,
            )
            with suppress(NoReplicaError):
                return snapshot, policy(request, snapshot)
        if failures:
            raise _exhausted(record, list(failures.values())[-1])
        if any(replica.drained for replica in model.replicas):
            raise NoReplicaReadyError(f"No replica of {model.name!r} takes requests: some are drained.")
        raise NoReplicaReadyError(f"No replica of {model.name!r} is ready; try again shortly.")


def _considered(snapshot: Snapshot, decision: Decision) -> Considered:
    return Considered(
        snapshot.replicas,
        decision.row,
        snapshot.eligible,
        snapshot.cached_tokens,
        snapshot.queued_tokens,
        snapshot.running,
        decision.costs,
        snapshot.home,
        snapshot.caches_seen,
    )


async def _require_sound(reply: UpstreamReply, call: Call) -> bool:
    """Whether a first token has just come. Raises `AttemptFailedError` for an answer of which nothing should
    reach the client.

    Of a stream, the first event decides; an error there that blames the request is an answer. Any other
    answer is read whole, so that it can still be repeated.
    """
    try:
        if not call.stream or reply.status != 200:
            await reply.read_all()
            return False
        error = error_status(await reply.read_event())
        if (error or 0) >= 500:
            raise AttemptFailedError("the engine began its stream with an error", replica_down=True)
        return error is None
    except ReplyBrokenError as error:
        reply.close()
        raise AttemptFailedError(f"the answer broke off: {error}", replica_down=True) from error
    except BaseException:
        reply.close()
        raise


def _exhausted(record: RequestRecord, last: AttemptFailedError) -> UpstreamError:
    return UpstreamError(
        f"All {record.attempts} attempts failed; the last one: {last}", status=504 if last.timed_out else 502
    )
