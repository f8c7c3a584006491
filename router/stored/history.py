"""Responses that are kept, and conversations: what a later request refers to becomes items that it holds.

Engines get whole histories and keep nothing, so that any router and any replica can go on. Of
each response its own input and output are kept, and the ids of those before it.
"""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, TypeVar

import msgspec

from cluster.apis.answer_blocks import Json
from cluster.apis.response_answers import ResponseMaker
from router.errors import BodyTooLargeError, InvalidRequestError, NotDecidedError, NotFoundError, quoted
from router.stored.held import MAX_BYTES, Held, held_after, joined, without_reports
from router.stored.vault import Vault

T = TypeVar("T")

MAX_TURNS = 1000
"""Responses that follow each other."""
MAX_ID = 80
"""Characters."""
MAX_TRIES = 8
"""Of changing an entry that others change, too."""
REFERRING = ("previous_response_id", "conversation", "background")
WORKING = ("queued", "in_progress")


class Record(msgspec.Struct):
    """What is kept of one response."""

    response: Json
    input: list[Json]
    ancestors: list[str]
    held: Held = msgspec.field(default_factory=Held)


class Conversation(msgspec.Struct):
    """What is kept of one conversation."""

    id: str
    created_at: int
    metadata: Json | None = None
    items: list[Json] = []

    def described(self) -> Json:
        """As the API writes it."""
        about = {"id": self.id, "object": "conversation", "created_at": self.created_at}
        return {**about, "metadata": self.metadata or {}}


@dataclass(slots=True)
class Turn:
    """A request whose response is kept, or that refers to what is."""

    owner: str
    id: str
    fields: Json
    """As the client sent it."""
    items: list[Json]
    """Its own input."""
    ancestors: list[str] = field(default_factory=list)
    conversation: str = ""
    body: bytes = b""
    """What the engine gets."""
    before: Held = field(default_factory=Held)
    """What is held of the history."""
    before_is_cut: bool = False
    """Whether the answer before was ended by its length."""
    held: Held = field(default_factory=Held)
    """What is held at the end of the response."""
    asks_tokens: bool = False

    @property
    def background(self) -> bool:
        """Whether the client does not wait for it."""
        return bool(self.fields.get("background"))

    @property
    def kept(self) -> bool:
        """Whether the response is kept."""
        return self.fields.get("store") is not False

    def shown(self, response: Json) -> Json:
        """A response as the client sees it, who knows nothing of what the engine was asked."""
        about: Json = {
            "id": self.id,
            "store": self.kept,
            "background": self.background,
            "previous_response_id": self.fields.get("previous_response_id"),
        }
        if self.conversation:
            about["conversation"] = {"id": self.conversation}
        return {**without_reports(response, self.fields), **about}

    def note(self, response: Json) -> None:
        """Take the tokens out of a response that is ready."""
        if self.held.shape:
            self.held = held_after(response, self.before.tokens, self.held.shape)


class StoredResponses:
    """Keeps responses and conversations in a vault. Raises `NotFoundError` for what is not there."""

    def __init__(self, vault: Vault, max_bytes: int, token_exact: Container[str] = ()) -> None:
        self.vault = vault
        self._max_bytes = max_bytes
        self._token_exact = token_exact

    async def open(self, owner: str, fields: Json) -> Turn | None:
        """The request with all that it refers to; None where it refers to nothing and is not to be kept."""
        previous, conversation = fields.get("previous_response_id"), fields.get("conversation")
        if isinstance(conversation, dict):
            conversation = conversation.get("id")
        if fields.get("store") is False and previous is None and conversation is None:
            if fields.get("background"):
                raise InvalidRequestError("'background' needs 'store'.", param="background")
            return None
        if previous is not None and conversation is not None:
            raise InvalidRequestError(
                "'previous_response_id' and 'conversation' exclude each other.", "conversation"
            )
        turn = Turn(owner, f"resp_{token_hex(24)}", fields, items_of(fields.get("input")))
        history: list[Json] = []
        if previous is not None:
            records, turn.ancestors = await self._history(owner, previous)
            history = [item for one in records for item in (*one.input, *one.response["output"])]
            turn.before = joined([one.held for one in records])
            turn.before_is_cut = records[-1].response["status"] == "incomplete"
        elif conversation is not None:
            history = (await self.conversation(owner, conversation)).items
            turn.conversation = conversation
        asked = {name: value for name, value in fields.items() if name not in REFERRING}
        asked |= {"input": [_sent(item) for item in (*history, *turn.items)]}
        asked |= {"store": False, "request_id": turn.id}
        if turn.background:
            asked["stream"] = True
        turn.body = msgspec.json.encode(asked)
        exact = "*" in self._token_exact or fields.get("model") in self._token_exact
        # Of a token there are four bytes kept, and there is one for each byte at most.
        if exact and turn.kept and len(turn.body) <= min(MAX_BYTES, self._max_bytes // 8):
            turn.asks_tokens = True
            turn.body = msgspec.json.encode(asked | {"enable_response_messages": True})
        return turn

    async def begin(self, turn: Turn) -> Json:
        """Keep a response that is not ready yet."""
        response = turn.shown(ResponseMaker(turn.fields).begun() | {"status": "queued"})
        await self._write(turn.owner, turn.id, Record(response, turn.items, turn.ancestors))
        return response

    async def finish(self, turn: Turn, response: Json) -> None:
        """Keep a response that is ready, unless it has been cancelled or deleted meanwhile."""
        if turn.background:
            await self.change(turn.owner, turn.id, lambda record: _finished(record, response, turn.held))
        elif turn.kept:
            await self._write(turn.owner, turn.id, Record(response, turn.items, turn.ancestors, turn.held))
        if turn.conversation:
            added = [*turn.items, *response["output"]]
            await self.change_conversation(turn.owner, turn.conversation, added)

    async def record(self, owner: str, response_id: str) -> Record:
        """What is kept of a response."""
        return (await self._entry(owner, response_id, Record))[0]

    async def conversation(self, owner: str, conversation_id: str) -> Conversation:
        """What is kept of a conversation."""
        return (await self._entry(owner, conversation_id, Conversation))[0]

    async def change(self, owner: str, response_id: str, how: Callable[[Record], Record | None]) -> Record:
        """Change what is kept of a response, all at once; None leaves it as it is."""
        for _ in range(MAX_TRIES):
            record, version = await self._entry(owner, response_id, Record)
            changed = how(record)
            if changed is None or await self._write(owner, response_id, changed, version):
                return changed or record
        raise NotDecidedError("Others are changing this response; try again.")

    async def change_conversation(
        self,
        owner: str,
        conversation_id: str,
        added: Sequence[Json] = (),
        removed: str = "",
        metadata: Json | None = None,
    ) -> Conversation:
        """Add items to a conversation, remove one, or replace its metadata, all at once."""
        for _ in range(MAX_TRIES):
            found, version = await self._entry(owner, conversation_id, Conversation)
            found.items = [item for item in found.items if item.get("id") != removed] + named(added)
            found.metadata = found.metadata if metadata is None else metadata
            if await self._write(owner, conversation_id, found, version):
                return found
        raise NotDecidedError("Others are changing this conversation; try again.")

    async def create_conversation(self, owner: str, fields: Mapping[str, Any]) -> Conversation:
        """A new conversation."""
        items = named(items_of(fields.get("items") or []))
        made = Conversation(f"conv_{token_hex(24)}", int(time.time()), fields.get("metadata"), items)
        await self._write(owner, made.id, made)
        return made

    async def _history(self, owner: str, response_id: str) -> tuple[list[Record], list[str]]:
        """The turns up to the end of a response, and the ids that they are kept under."""
        last = await self.record(owner, response_id)
        if last.response["status"] in WORKING:
            raise InvalidRequestError(f"{quoted(response_id)} is not ready yet.", "previous_response_id")
        if len(last.ancestors) >= MAX_TURNS:
            raise InvalidRequestError("The conversation has too many turns.", "previous_response_id")
        entries = await self.vault.read(owner, *last.ancestors)
        records = []
        for ancestor, entry in zip(last.ancestors, entries, strict=True):
            if entry is None:
                raise NotFoundError(f"Response with id {quoted(ancestor)}, an earlier turn, not found.")
            records.append(msgspec.msgpack.decode(entry.value, type=Record))
        return [*records, last], [*last.ancestors, response_id]

    async def _entry(self, owner: str, name: str, kind: type[T]) -> tuple[T, bytes]:
        prefix = "resp_" if kind is Record else "conv_"
        known = isinstance(name, str) and len(name) <= MAX_ID and name.startswith(prefix)
        [entry] = await self.vault.read(owner, name) if known else [None]
        if entry is None:
            what = "Response" if kind is Record else "Conversation"
            raise NotFoundError(f"{what} with id {quoted(str(name))} not found.")
        return msgspec.msgpack.decode(entry.value, type=kind), entry.version

    async def _write(self, owner: str, name: str, value: Any, version: bytes = b"") -> bool:
        encoded = msgspec.msgpack.encode(value)
        if len(encoded) > self._max_bytes:
            raise BodyTooLargeError(self._max_bytes)
        return await self.vault.write(owner, name, encoded, version)


def items_of(given: Any) -> list[Json]:
    """The items of an input. Raises `InvalidRequestError` for what is none."""
    if isinstance(given, str):
        text = {"type": "input_text", "text": given}
        return [{"type": "message", "role": "user", "content": [text]}]
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise InvalidRequestError("'input' must be a text or a list of items.", param="input")
    return given


def named(items: Sequence[Json]) -> list[Json]:
    """The same items, each with an id."""
    return [item if item.get("id") else {**item, "id": f"item_{token_hex(24)}"} for item in items]


def _sent(item: Json) -> Json:
    """An item as an engine gets it: ids are its own only."""
    if str(item.get("id", "")).startswith("item_") or item.get("role", "assistant") != "assistant":
        return {name: value for name, value in item.items() if name != "id"}
    return item


def _finished(record: Record, response: Json, held: Held) -> Record | None:
    if record.response["status"] not in WORKING:
        return None
    return Record(response, record.input, record.ancestors, held)
