"""What happened to a conversation's earlier messages since its last request."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from loadtest.doctor.alignment import kinds_of, pieces_of
from loadtest.doctor.kinds import NONE, Kind, Kinds
from loadtest.doctor.log_requests import Message
from loadtest.doctor.text_units import units_of

MAX_COMPARED_CHARACTERS = 50_000
"""Longer messages that differ count as rewritten, without a look at how."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of some messages in a row."""

    before: range
    """Their places in the last request."""
    now: range
    """Their places in this one."""
    kinds: Kinds = NONE
    """Why they are not the same; empty when they are."""
    offset: int = 0
    """Characters from the beginning of the first message to the first difference."""


def compare(before: Sequence[Message], now: Sequence[Message]) -> list[Step] | None:
    """What became of the messages before; None when this request does not go on where that one ended.

    In both, instructions stand in front.

    Somebody who sends the last message again, or another one in its place, does no harm to the history.
    """
    old, new = [one.digest for one in before], [one.digest for one in now]
    if new[: len(old)] == old:
        return [Step(range(len(old)), range(len(old)))]
    # Instructions stand for instructions, even if nothing in them is the same.
    front, new_front = (sum(one.is_system for one in messages) for messages in (before, now))
    steps: list[Step] = []
    for i, j, a, b in (
        (0, 0, old[:front], new[:new_front]),
        (front, new_front, old[front:], new[new_front:]),
    ):
        for tag, i1, i2, j1, j2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            places, now_places = range(i + i1, i + i2), range(j + j1, j + j2)
            if tag == "equal":
                steps.append(Step(places, now_places))
            elif tag == "delete":
                kind = Kind.REWRITTEN if before[places[0]].is_system else Kind.TRIMMED
                steps.append(Step(places, now_places, frozenset({kind})))
            elif tag == "replace":
                steps += _replaced(before, now, places, now_places)
    return steps if _goes_on(before, now, steps) else None


def _goes_on(before: Sequence[Message], now: Sequence[Message], steps: Sequence[Step]) -> bool:
    """Whether what was the end is still there, with more behind it."""
    last = next((step for step in reversed(steps) if len(before) - 1 in step.before), None)
    if last is None or not last.now or last.now[-1] == len(now) - 1:
        return False
    return not last.kinds or now[last.now[-1] + 1].role != "user"


def _replaced(before: Sequence[Message], now: Sequence[Message], old: range, new: range) -> list[Step]:
    """Pairs of messages, where as many stand there now; else all of them as one step."""
    at_end = old.stop == len(before)
    roles = [before[place].role for place in old]
    paired = roles == [now[place].role for place in new[: len(old)]]
    if paired and (len(old) == len(new) or (at_end and len(new) > len(old))):
        return [_edited(before[i], now[j], i, j) for i, j in zip(old, new[: len(old)], strict=True)]
    return [Step(old, new, frozenset({Kind.REWRITTEN}))]


def _edited(before: Message, now: Message, i: int, j: int) -> Step:
    kinds, offset = frozenset({Kind.REWRITTEN}), 0
    small = max(len(before.text), len(now.text)) <= MAX_COMPARED_CHARACTERS
    if small and before.extra == now.extra:
        pieces = pieces_of(units_of(now.text), units_of(before.text), counting=True)
        found = kinds_of(pieces) if pieces else NONE
        if pieces is not None and found and (now.is_system or Kind.VALUE not in found):
            kinds = found
            for piece in pieces:
                if piece.kind is not None:
                    break
                offset += len(piece.own)
    return Step(range(i, i + 1), range(j, j + 1), kinds, offset)
