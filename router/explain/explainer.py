"""Explains misses: predicts before a request is sent why each of its tokens would have to be computed, and
afterwards why those were that the engine did not find in its cache.
"""

import msgspec

from cluster.fleet.fleet import Fleet
from cluster.fleet.replicas import Model
from cluster.index.block_table import BlockKeys
from cluster.index.evicted_blocks import Outcome
from router.errors import InvalidRequestError
from router.explain.conversations import (
    MAX_REQUEST_BYTES,
    Conversations,
    Messages,
    Turn,
    marks_of,
    opening_mark,
)
from router.explain.divergence import first_change
from router.explain.misses import Divergence, Misses, PromptParts, Reason, attribute
from router.http.sse import Usage
from router.requests.bodies import INLINE_SECONDS, parse_seconds
from router.requests.endpoints import ENDPOINTS
from router.requests.prompts import PreparedPrompt
from router.requests.schema import Call

REASON_OF = {Outcome.EVICTED: Reason.EVICTED, Outcome.LOST: Reason.REPLICA_LOST}


class Prediction(msgspec.Struct, gc=False):
    """What a decision knew of one prompt."""

    parts: PromptParts
    keys: BlockKeys
    block_size: int
    prompt_tokens: int
    divergence: Divergence | None
    path: str
    raw: bytes
    """The body, where it is worth remembering."""
    namespace: int
    marks: list[int]
    """The marks of the conversation; none when it cannot be distinguished from others."""


class Explainer:
    """Knows what was sent before and what became of it."""

    def __init__(self, fleet: Fleet, conversations: Conversations) -> None:
        self._fleet = fleet
        self._conversations = conversations

    def predict(
        self, call: Call, prompt: PreparedPrompt, model: Model, row: int, expected: int, available: int
    ) -> Prediction | None:
        """Why tokens of this prompt would be computed at a replica, before its blocks are. That is believed
        to hold ``expected`` tokens, and the best one ``available``. None when nothing is known of its blocks,
        and for a body that is nested almost as deeply as can be parsed.
        """
        try:
            return self._predict(call, prompt, model, row, expected, available)
        except (RecursionError, InvalidRequestError):  # of encoding, parsing or comparing messages
            return None

    def _predict(
        self, call: Call, prompt: PreparedPrompt, model: Model, row: int, expected: int, available: int
    ) -> Prediction | None:
        if model.namespace is None or not prompt.exact or not model.replicas[row].lease.publishes_events:
            return None
        block_size, keys = model.namespace.block_size, prompt.keys
        reusable = (prompt.prompt_tokens - 1) // block_size
        full = min(reusable, len(keys))
        parts = [(expected, Reason.UNKNOWN), (available, Reason.DIVERTED)]
        known = available // block_size
        messages = call.messages
        marks = marks_of(messages)
        namespace = hash((model.base, model.namespace, call.cache_salt))
        divergence = None
        if known < full:
            missing = keys[known:full]
            outcomes = self._fleet.index.outcomes(missing)
            if outcomes:  # most prompts miss only what nobody ever held
                self._fleet.index.evicted.want(missing)
            for outcome, count in outcomes:
                known += count
                parts.append((known * block_size, REASON_OF[outcome]))
        if known < full and marks:
            turn = self._conversations.last_turn(marks, namespace)
            if turn is None:
                tokens = self._tokens_elsewhere(messages, marks, namespace, prompt, known * block_size)
                parts.append((min(tokens // block_size, full) * block_size, Reason.OTHER_NAMESPACE))
            elif known < (turn.tokens - 1) // block_size and _answered_before(messages):
                divergence = _divergence(turn, call, keys, known, block_size)
                if divergence is None:
                    end = turn.tokens if known < turn.prompt_tokens // block_size else 0
                    reason = Reason.UNKNOWN
                elif divergence.kind == Reason.RE_RENDERED:
                    end, reason = turn.tokens - 1, Reason.RE_RENDERED  # the last one is never computed
                else:
                    end, reason = turn.tokens, Reason.DIVERGED
                parts.append((min(end // block_size, full) * block_size, reason))
        parts.append((full * block_size, Reason.COLD))
        if full < reusable:  # of several prompts in one request only the first has keys
            parts.append((reusable * block_size, Reason.UNKNOWN))
        parts.append((prompt.prompt_tokens, Reason.TAIL))
        raw = call.raw if len(call.raw) <= MAX_REQUEST_BYTES else b""
        return Prediction(
            parts, keys, block_size, prompt.prompt_tokens, divergence, call.path, raw, namespace, marks
        )

    def reconcile(self, prediction: Prediction | None, usage: Usage, answered: bool) -> Misses | None:
        """Why tokens were computed; None when the engine does not report what it had cached. The conversation
        of a request that was ``answered`` is remembered.
        """
        cached = usage.cached_tokens
        if prediction is not None and answered and prediction.marks:
            tokens = usage.prompt_tokens + (usage.completion_tokens or 0)
            turn = Turn(prediction.path, prediction.raw, prediction.keys, usage.prompt_tokens, tokens)
            self._conversations.keep(prediction.marks[0], prediction.namespace, turn)
        if cached is None:
            return None
        if prediction is None or prediction.prompt_tokens != usage.prompt_tokens:
            return attribute((), cached, usage.prompt_tokens)
        parts = prediction.parts
        believed, _ = parts[0]
        if cached < believed:
            first = int(prediction.keys[cached // prediction.block_size])
            if (
                self._fleet.index.evicted.outcome(first) is Outcome.EVICTED
            ):  # between the decision and the engine
                parts = [(believed, Reason.EVICTED), *parts[1:]]
        misses, divergence = attribute(parts, cached, usage.prompt_tokens), prediction.divergence
        if divergence is not None and divergence.kind == Reason.RE_RENDERED:
            # The engine may have held more of an answer than it had announced.
            token = max(divergence.token, cached)
            known = msgspec.structs.replace(divergence, token=token)
            prediction.divergence = known if Reason.RE_RENDERED in misses else None
        return misses

    def _tokens_elsewhere(
        self, messages: Messages, marks: list[int], namespace: int, prompt: PreparedPrompt, known_tokens: int
    ) -> int:
        tokens = self._conversations.tokens_elsewhere(marks, namespace)
        if known_tokens < prompt.opening_tokens and (mark := opening_mark(messages)) is not None:
            tokens = max(tokens, self._conversations.tokens_elsewhere([mark], namespace))
            self._conversations.note(mark, namespace, prompt.opening_tokens)
        return tokens


def _answered_before(messages: Messages) -> bool:
    """Whether this is a later turn: first turns can be alike in many conversations."""
    return any(message["role"] == "assistant" for message in messages)


def _divergence(turn: Turn, call: Call, keys: BlockKeys, known: int, block_size: int) -> Divergence | None:
    """Where a turn differs from the one before, after so many blocks that somebody holds."""
    read = ENDPOINTS[turn.path].read
    if read is None or parse_seconds(turn.raw) > INLINE_SECONDS:
        return None
    before, token = read(turn.raw).fields, known * block_size
    if known < turn.prompt_tokens // block_size:
        if change := first_change(before, call.fields):
            return Divergence(token, change.message, change.role, change.kind)
        if known >= len(turn.keys) or turn.keys[known] == keys[known]:
            return None  # forgotten without a trace
        return Divergence(token, -1, "", Reason.RE_RENDERED.value)
    answer = len(before["messages"])
    roles = [message["role"] for message in call.messages[answer : answer + 1]]
    if roles != ["assistant"] or before.get("n") not in (None, 1):
        return None
    return Divergence(token, answer, "assistant", Reason.RE_RENDERED.value)
