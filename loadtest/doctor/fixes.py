"""Finds the defects of one request, and writes the request as it would be without some of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from loadtest.doctor.alignment import Piece, kinds_of, mended
from loadtest.doctor.bounded import Bounded
from loadtest.doctor.conversations import Conversation, Conversations, History, Slot
from loadtest.doctor.history import Step, compare
from loadtest.doctor.kinds import ALL, NONE, Kind, Kinds
from loadtest.doctor.log_requests import LoggedRequest, Message, message
from loadtest.doctor.shared_texts import Documents, Shared, SharedTexts, Version
from loadtest.doctor.text_units import canonical

MAX_TOOLS = 20_000
POINTER_BYTES = 100
"""What a message in a slot takes besides its text."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a defect is."""

    kind: Kind
    message: int
    """Counted from 1; 0 for the tools."""
    role: str
    offset: int
    """Characters from the beginning of the message."""
    piece: Piece | None = None
    shared: Shared | None = None


@dataclass(slots=True)
class Mended:
    """A request by the kinds that are mended in it."""

    kinds: Kinds
    """The kinds found in its conversation so far."""
    requests: dict[Kinds, LoggedRequest]
    """The request for each set of kinds that somebody asks for, restricted to those found."""
    places: list[Place] = field(default_factory=list)
    """The places of this request's own defects."""


class Fixes:
    """Knows all that was seen before, as far as it is bounded."""

    def __init__(self, conversations: Conversations, asked: Iterable[Kinds]) -> None:
        self.texts = SharedTexts()
        self._documents = Documents()
        self._conversations = conversations
        self._asked = tuple(asked)
        self._tools: Bounded[str, str] = Bounded(MAX_TOOLS)
        self._groups: Bounded[int, int] = Bounded(MAX_TOOLS)

    def apply(self, request: LoggedRequest, conversation: Conversation) -> Mended:
        """The request without each asked-for set of defects."""
        order = self._order(request.messages)
        back = sorted(range(len(order)), key=order.__getitem__)
        messages = tuple(request.messages[place] for place in order)
        places: list[Place] = []
        if list(order) != sorted(order):
            place = next(number for number, at in enumerate(order) if number != at)
            places.append(Place(Kind.ROLE, order[place] + 1, messages[place].role, 0))
        versions = self._versions(messages, order, places)
        before = conversation.history
        steps = compare(before.messages, messages) if before else None
        if steps is not None:
            _note_steps(steps, before.messages if before else (), messages, order, places)
        tools = self._tool_lists(request.tools, before, places)
        found = frozenset(place.kind for place in places) | (before.kinds if before else NONE)

        effective = {kinds & found for kinds in self._asked}
        history = History(messages, kinds=found)
        mended_requests = {}
        for kinds in effective:
            slots = _slots(kinds, messages, versions, before, steps)
            history.slots[kinds] = slots
            history.tools[kinds] = _first_tools(kinds, tools, before)
            arranged = slots if Kind.ROLE in kinds else [slots[place] for place in back]
            mended_requests[kinds] = LoggedRequest(
                tuple(one for slot in arranged for one in slot),
                tuple(json.loads(history.tools[kinds])),
                request.conversation,
                request.salt,
                request.is_chat,
                request.images,
            )
        history.num_bytes = _size(history)
        self._conversations.remember(conversation, history)
        return Mended(found, mended_requests, places)

    def _order(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Places of the messages with the instructions first, those that were met first in front."""
        systems = [place for place, one in enumerate(messages) if one.is_system]
        if systems == [0] or not systems:
            return tuple(range(len(messages)))
        groups = {place: self._group(messages[place]) for place in systems}
        systems.sort(key=groups.__getitem__)
        return (*systems, *(place for place, one in enumerate(messages) if not one.is_system))

    def _group(self, one: Message) -> int:
        shared = self.texts.instruction(one.text).shared
        return shared.number if shared else 0

    def _versions(
        self, messages: Sequence[Message], order: Sequence[int], places: list[Place]
    ) -> dict[int, dict[bool, Version]]:
        """Versions of the messages at the start: as they are, and with documents in order (True)."""
        versions: dict[int, dict[bool, Version]] = {}
        for number, one in enumerate(messages):
            if not one.is_system and number and not messages[number - 1].is_system:
                break
            compare_text = self.texts.instruction if one.is_system else self.texts.user_text
            ordered = self._documents.in_first_order(one.text)
            version = compare_text(one.text)
            versions[number] = {False: version, True: version}
            if ordered != one.text:
                versions[number][True] = compare_text(ordered)
                places.append(Place(Kind.DOCUMENTS, order[number] + 1, one.role, _common(ordered, one.text)))
            places += _places(version, order[number] + 1, one.role)
            if not one.is_system:
                break
        return versions

    def _tool_lists(
        self, tools: Sequence[Mapping[str, Any]], before: History | None, places: list[Place]
    ) -> dict[Kinds, str]:
        """The tools as JSON, by which of their defects are mended."""
        raw = [json.dumps(tool, separators=(",", ":")) for tool in tools]
        keys = [canonical(tool) for tool in tools]
        fields = [self._tools.first(key, text) for key, text in zip(keys, raw, strict=True)]
        group = xxhash.xxh3_64_hexdigest("\0".join(sorted(keys)).encode("utf-8", "surrogatepass"))
        order = json.loads(self._tools.first(group, json.dumps(keys)))
        ranks = sorted(range(len(keys)), key=lambda place: order.index(keys[place]))
        if fields != raw:
            places.append(Place(Kind.JSON, 0, "tools", 0))
        lists = {
            NONE: _joined(raw),
            frozenset({Kind.JSON}): _joined(fields),
            frozenset({Kind.TOOLS}): _joined([raw[place] for place in ranks]),
            frozenset({Kind.JSON, Kind.TOOLS}): _joined([fields[place] for place in ranks]),
        }
        last = json.loads(before.tools[NONE]) if before is not None else []
        if (last and set(map(canonical, last)) != set(keys)) or ranks != sorted(ranks):
            places.append(Place(Kind.TOOLS, 0, "tools", 0))
        return lists


def _slots(
    kinds: Kinds,
    messages: Sequence[Message],
    versions: Mapping[int, Mapping[bool, Version]],
    before: History | None,
    steps: Sequence[Step] | None,
) -> list[Slot]:
    """One slot for each message, with these kinds mended."""
    slots: list[Slot] = [(one,) for one in messages]
    for number, version in versions.items():
        text = mended(version[Kind.DOCUMENTS in kinds].pieces, kinds)
        if text != messages[number].text:
            slots[number] = (message(messages[number].role, text, messages[number].body),)
    if before is None or steps is None:
        return slots
    without_history = list(slots)
    old = before.slots[kinds & before.kinds]
    waiting: Slot = ()
    for step in steps:
        kept = tuple(one for place in step.before for one in old[place])
        if not step.kinds:
            for i, j in zip(step.before, step.now, strict=True):
                slots[j] = old[i]
        elif step.kinds <= kinds and step.now:
            for j in step.now:
                slots[j] = ()
            slots[step.now[0]] = kept
        elif step.kinds <= kinds:
            waiting += kept
            continue
        if waiting and step.now:
            slots[step.now[0]] = (*waiting, *slots[step.now[0]])
            waiting = ()
    own = sum(len(one.text) for one in messages)
    if sum(len(one.text) for slot in slots for one in slot) > 2 * own + 200:
        # What was put back has grown as long as the rest: now it is dropped at once.
        return without_history
    return slots


def _note_steps(
    steps: Sequence[Step],
    before: Sequence[Message],
    messages: Sequence[Message],
    order: Sequence[int],
    places: list[Place],
) -> None:
    known = {place.kind for place in places}
    for step in steps:
        at = step.now[0] if step.now else min(step.now.start, len(messages) - 1)
        for kind in step.kinds - known:
            role = messages[at].role if step.now else before[step.before[0]].role
            places.append(Place(kind, order[at] + 1, role, step.offset))


def _places(version: Version, number: int, role: str) -> Iterable[Place]:
    offset = 0
    met: set[Kind] = set()
    for piece in version.pieces:
        for kind in kinds_of([piece]) - met:
            met.add(kind)
            yield Place(kind, number, role, offset, piece, version.shared)
        offset += len(piece.own)


def _first_tools(kinds: Kinds, lists: Mapping[Kinds, str], before: History | None) -> str:
    """The tools with these kinds mended: with `Kind.TOOLS` those of the conversation's first request."""
    if Kind.TOOLS in kinds and before is not None:
        first = before.tools[kinds & before.kinds]
        if first != "[]":
            return first
    return lists[kinds & {Kind.JSON, Kind.TOOLS}]


def _joined(tools: Iterable[str]) -> str:
    return f"[{','.join(tools)}]"


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _size(history: History) -> int:
    texts = {id(one): len(one.text) for one in history.messages}
    pointers = len(history.messages)
    for slots in history.slots.values():
        for slot in slots:
            pointers += 1
            texts.update((id(one), len(one.text)) for one in slot)
    tools = sum(map(len, history.tools.values()))
    return sum(texts.values()) + tools + POINTER_BYTES * pointers


def asked_for() -> list[Kinds]:
    """The sets of kinds to mend: nothing, everything, each kind alone, and everything but each kind."""
    alone = [frozenset({kind}) for kind in Kind]
    return [NONE, ALL, *alone, *(ALL - one for one in alone)]
