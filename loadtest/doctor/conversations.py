"""Which request continues which: by the log's own ids, else by messages that both of them hold."""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise

import xxhash

from loadtest.doctor.bounded import Bounded
from loadtest.doctor.kinds import NONE, Kinds
from loadtest.doctor.log_requests import LoggedRequest, Message

MAX_CONVERSATIONS = 100_000
MAX_LINKS = 200_000
LINKS_PER_REQUEST = 4
MIN_LINK_CHARACTERS = 20
"""A shorter message ties a conversation together only at its beginning."""
MAX_TEXT_BYTES = 40 * 1024 * 1024
"""Texts kept of the conversations that are looked at closely."""
SAMPLE_STEPS = 1 << 16

Slot = tuple[Message, ...]
"""What stands in one message's place: dropped ones put back, and the message or an earlier version."""


@dataclass(slots=True)
class History:
    """What is remembered of a conversation's last request."""

    messages: tuple[Message, ...]
    """System messages first."""
    tools: dict[Kinds, str] = field(default_factory=dict)
    """The first list of tools, as JSON, by the kinds that are mended."""
    slots: dict[Kinds, list[Slot]] = field(default_factory=dict)
    """One slot for each message, by the kinds that are mended."""
    kinds: Kinds = NONE
    """All that were found in the conversation."""
    num_bytes: int = 0


@dataclass(slots=True)
class Conversation:
    """One conversation."""

    number: int
    is_sampled: bool
    """Whether it is looked at closely."""
    requests: int = 0
    history: History | None = None
    opening: int = 0
    """The block after which it parted from all earlier ones; 0 for none."""


class Conversations:
    """The conversations met last. Bounded: a forgotten one that goes on counts as new."""

    def __init__(self) -> None:
        self.total = 0
        self.forgotten_histories = 0
        self._links: Bounded[int, Conversation] = Bounded(MAX_LINKS)
        self._named: Bounded[str, Conversation] = Bounded(MAX_CONVERSATIONS)
        self._with_text: OrderedDict[int, Conversation] = OrderedDict()
        self._text_bytes = 0

    def of(self, request: LoggedRequest, sampled_share: float) -> Conversation:
        """The conversation that a request continues; a new one when none is known."""
        if request.conversation:
            name = f"{request.salt}\0{request.conversation}"
            found = self._named.get(name) or self._named.put(name, self._new(sampled_share))
        else:
            singles, pairs = _links(request)
            # The last message is new: whoever holds it too asks the same, and is somebody else.
            known = (self._links.get(link) for link in (*pairs[-2::-1], *singles[-2::-1]))
            found = next(filter(None, known), None) or self._new(sampled_share)
            for link in (*pairs[-LINKS_PER_REQUEST:], *singles[-LINKS_PER_REQUEST:]):
                self._links.put(link, found)
        found.requests += 1
        return found

    def remember(self, conversation: Conversation, history: History) -> None:
        """Keep what the next request is compared with; what was not used for longest goes."""
        if conversation.history is not None:
            self._text_bytes -= conversation.history.num_bytes
        conversation.history = history
        self._with_text[conversation.number] = conversation
        self._with_text.move_to_end(conversation.number)
        self._text_bytes += history.num_bytes
        while self._text_bytes > MAX_TEXT_BYTES and len(self._with_text) > 1:
            _, oldest = self._with_text.popitem(last=False)
            assert oldest.history is not None
            self._text_bytes -= oldest.history.num_bytes
            oldest.history = None
            self.forgotten_histories += 1

    def _new(self, sampled_share: float) -> Conversation:
        self.total += 1
        step = xxhash.xxh3_64_intdigest(self.total.to_bytes(8, "little")) % SAMPLE_STEPS
        return Conversation(self.total, step < sampled_share * SAMPLE_STEPS)


def _links(request: LoggedRequest) -> tuple[list[int], list[int]]:
    """Hashes of the messages that are long, or first, and of neighbouring pairs; the instructions left out.

    Several conversations may hold the same message, fewer the same pair: pairs are asked first.
    """
    if not request.is_chat:
        return [], []
    said = [one for one in request.messages if not one.is_system]
    salt = request.salt.encode("utf-8", "surrogatepass")
    singles = [
        _hash(salt, one.digest)
        for place, one in enumerate(said)
        if not place or place == len(said) - 1 or len(one.text) >= MIN_LINK_CHARACTERS
    ]
    return singles, [_hash(salt, one.digest, other.digest) for one, other in pairwise(said)]


def _hash(salt: bytes, *digests: int) -> int:
    return xxhash.xxh3_64_intdigest(salt + b"".join(digest.to_bytes(8, "little") for digest in digests))
