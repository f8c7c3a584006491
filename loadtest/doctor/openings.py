"""Beginnings that conversations share: told by the blocks after which several of them part ways."""

from collections import Counter
from dataclasses import dataclass, replace

from cluster.index.block_table import BlockKeys
from loadtest.doctor.bounded import Bounded
from loadtest.doctor.conversations import Conversation
from loadtest.doctor.log_requests import LoggedRequest
from loadtest.doctor.personal_data import visible, without_names, without_personal_data

MAX_OPENINGS = 20_000
MIN_CONVERSATIONS = 3
MIN_SHARE = 0.01
"""The share of all conversations that makes what they begin with an opening."""
COVERED = 0.8
"""An opening is not listed when longer ones hold this share of its conversations."""
MAX_DEPTHS = 64
EXCERPT = 60
"""Characters."""


@dataclass(slots=True)
class Opening:
    """One shared beginning."""

    tokens: int
    role: str
    excerpt: str
    conversations: int = 1
    requests: int = 1
    parent: int = 0
    """The block of the next shorter one."""


class Openings:
    """The blocks at which conversations have parted. Bounded."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._by_block: Bounded[int, Opening] = Bounded(MAX_OPENINGS)
        self._depths: Counter[int] = Counter()

    def note(self, request: LoggedRequest, conversation: Conversation, keys: BlockKeys, hits: int) -> None:
        """Count a request that found its first ``hits`` blocks."""
        if conversation.requests == 1:
            conversation.opening = self._begin(request, keys, hits)
        block = conversation.opening
        while block and (opening := self._by_block.get(block)) is not None:
            opening.requests += 1
            opening.conversations += conversation.requests == 1
            block = opening.parent

    def listed(self, conversations: int) -> list[Opening]:
        """The openings that enough conversations share, the most frequent first."""
        enough = max(MIN_CONVERSATIONS, MIN_SHARE * conversations)
        children: Counter[int] = Counter()
        for opening in self._by_block.values():
            if opening.parent and opening.conversations >= enough:
                children[opening.parent] += opening.conversations
        alike: dict[tuple[int, str, str], Opening] = {}
        for block, opening in self._by_block.items():
            if opening.conversations < enough or children[block] >= COVERED * opening.conversations:
                continue
            # What differs between two of one length may be masked, or lie behind the excerpt: one row.
            row = alike.setdefault(
                (opening.tokens, opening.role, opening.excerpt), replace(opening, conversations=0, requests=0)
            )
            row.conversations += opening.conversations
            row.requests += opening.requests
        return sorted(alike.values(), key=lambda opening: (-opening.requests, -opening.tokens))

    def _begin(self, request: LoggedRequest, keys: BlockKeys, hits: int) -> int:
        """The block after which a new conversation parts from all others."""
        if not hits:
            return 0
        block = int(keys[hits - 1])
        if self._by_block.get(block) is None:
            shorter = sorted((depth for depth, _ in self._depths.most_common(MAX_DEPTHS)), reverse=True)
            parents = (int(keys[depth - 1]) for depth in shorter if depth < hits)
            parent = next((one for one in parents if self._by_block.get(one) is not None), 0)
            first = request.messages[0]
            excerpt = visible(without_names(without_personal_data(first.text[: 2 * EXCERPT]))[:EXCERPT])
            opening = Opening(hits * self._block_size, first.role, excerpt, parent=parent)
            self._by_block.put(block, opening)
        self._depths[hits] += 1
        if len(self._depths) > MAX_OPENINGS:
            self._depths = Counter(dict(self._depths.most_common(MAX_DEPTHS)))
        return block
