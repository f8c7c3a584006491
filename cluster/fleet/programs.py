"""Conversations as programs: what replicas hold that will soon be used again, and how much room is left.

A program is a conversation whose turns come back: an agent between two calls of a tool, a person who reads.
Its blocks count as kept while a turn of it is under way, and after that for as long as a turn takes, if
programs of its kind mostly come back by then. Where more is kept than there is memory, those that began last
are let go after their turn. Shared blocks count once. Only a sample of all blocks is counted.
"""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.fleet.pauses import Pauses
from cluster.fleet.replicas import Model
from cluster.index.block_table import BlockKeys, as_keys
from policies.types import Costs, Outlook

SAMPLE = 16
"""One of so many blocks is counted. Keys are hashes, so these stand for all."""
MAX_PROGRAMS = 100_000
"""Programs that are remembered; those not continued for longest are forgotten."""
MAX_KINDS = 10_000
DECAY = 0.99
"""What remains of the past with every turn, in means and shares."""
ENOUGH_RETURNS = 4.0
"""Of a kind of which fewer returns were seen, those come back soon that did so the last time."""
MIN_SECONDS = 1.0
"""Shortest time for which a program is kept."""
NEW, QUICK, SLOW = range(3)
"""What a program did after its last turn: nothing was seen, it came back soon, it did not."""


@dataclass(slots=True, eq=False)
class Program:
    """One conversation. Times are monotonic seconds."""

    key: int
    opening: int
    """Key of the first block: programs of one application begin alike."""
    began: float
    """When its first turn came."""
    slot: int = -1
    """The replica on which its blocks are kept; -1 while they are not."""
    blocks: tuple[int, ...] = ()
    """Those of its blocks that are counted, while they are kept."""
    open_turns: int = 0
    prompt_tokens: int = 0
    """Of its last turn."""
    last: int = NEW
    kept_until: float = 0.0


@dataclass(slots=True)
class Returns:
    """How many programs of one kind came back soon, and how many did not; those long ago count less."""

    soon: float = 0.0
    late: float = 0.0

    @property
    def mostly_soon(self) -> bool:
        """Whether more come back soon than not."""
        return self.soon > self.late

    @property
    def seen(self) -> float:
        """How many returns are known."""
        return self.soon + self.late

    def add(self, soon: bool) -> None:
        """One has come back soon, or has not."""
        self.soon = self.soon * DECAY + soon
        self.late = self.late * DECAY + (not soon)


class Programs:
    """All programs, and what is kept of them on each replica, by slot."""

    def __init__(self) -> None:
        self._programs: OrderedDict[int, Program] = OrderedDict()
        self._kept: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self._anywhere: Counter[int] = Counter()
        self._members: defaultdict[int, dict[int, Program]] = defaultdict(dict)
        self._counts = np.zeros((2, 1), dtype=np.int64)
        """Counted blocks, and programs, that are kept on each slot."""
        self.pauses = Pauses()
        """Requests that wait for room."""
        self.away: OrderedDict[int, Program] = OrderedDict()
        """Programs without an open turn that may still come back soon, in the order in which that ends."""
        self._returns: OrderedDict[tuple[int, int], Returns] = OrderedDict()
        self._turn_seconds = self._growth = self._num_turns = 0.0

    def __len__(self) -> int:
        """Programs that are remembered."""
        return len(self._programs)

    @property
    def soon(self) -> float:
        """Seconds that a turn takes, the time for which programs are kept: for longer, their memory could
        have carried another program's turn.
        """
        return max(self._turn_seconds / self._num_turns if self._num_turns else 0.0, MIN_SECONDS)

    def is_kept(self, key: int) -> bool:
        """Whether a program's blocks count as kept."""
        program = self._programs.get(key)
        return program is not None and program.slot >= 0

    def comes_back_soon(self, key: int, keys: BlockKeys) -> bool:
        """Whether a conversation, of which this is the next prompt, will mostly come back soon after it."""
        program = self._programs.get(key)
        opening = int(keys[0]) if len(keys) else 0
        return self._soon(opening, program.last if program else NEW)

    def outlook(self, model: Model, key: int, prompt: Sequence[int] | BlockKeys) -> Outlook:
        """What a policy sees for a program's next prompt. Where the program is kept there is room for it."""
        keys = as_keys(prompt)
        self._make_room_for(int(model.slots.max()))
        blocks, members = self._counts[:, model.slots]
        new = sum(block not in self._anywhere for block in _sampled(keys))
        tokens = SAMPLE * model.namespace.block_size if model.namespace else 0
        growth = self._growth / self._num_turns if self._num_turns else 0.0
        room: Costs = model.capacity_tokens - (blocks + new) * tokens - members * growth
        program = self._programs.get(key)
        if program and program.slot >= 0:
            room = np.where(model.slots == program.slot, np.maximum(room, 0.0), room)
        return Outlook(room, self.comes_back_soon(key, keys))

    def begin(self, key: int, slot: int, keys: BlockKeys, prompt_tokens: int, now: float) -> None:
        """A turn of a program begins on a replica."""
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = Program(key, int(keys[0]), now)
        elif not program.open_turns:
            self._growth = self._growth * DECAY + max(prompt_tokens - program.prompt_tokens, 0)
            self._came_back(program)
        self._programs.move_to_end(key)
        self._let_go(program)
        program.open_turns += 1
        program.prompt_tokens = prompt_tokens
        program.slot, program.blocks = slot, tuple(_sampled(keys))
        self._kept[slot].update(program.blocks)
        self._anywhere.update(program.blocks)
        self._members[slot][key] = program
        self._recount(slot)
        if len(self._programs) > MAX_PROGRAMS:
            _, oldest = self._programs.popitem(last=False)
            self._let_go(oldest)
            self.away.pop(oldest.key, None)
        self.pauses.wake()

    def end(self, key: int, seconds: float, capacity_blocks: int, now: float) -> None:
        """A program's turn has ended, which took so many seconds, on a replica of so many blocks."""
        program = self._programs.get(key)
        if program is None or not program.open_turns:
            return
        program.open_turns -= 1
        self._turn_seconds = self._turn_seconds * DECAY + seconds
        self._num_turns = self._num_turns * DECAY + 1
        if not program.open_turns:
            program.kept_until = now + self.soon
            self.away[key] = program
            soon = self._soon(program.opening, program.last)
            if program.slot >= 0 and not (soon and self._fits(program, capacity_blocks)):
                self._let_go(program)
        self.pauses.wake()

    def wait(self, key: int, now: float) -> float:
        """A program's next turn has come, and waits for room. Returns when the program began."""
        program = self._programs.get(key)
        if program is None:
            return now
        self._came_back(program)
        if not program.open_turns:
            self._let_go(program)
        return program.began

    def expire(self, now: float) -> None:
        """Let go of programs that have not come back soon."""
        made_room = False
        while self.away and (program := next(iter(self.away.values()))).kept_until <= now:
            del self.away[program.key]
            self._count(program, soon=False)
            made_room = made_room or program.slot >= 0
            self._let_go(program)
        if made_room:
            self.pauses.wake()

    def dismiss(self, slot: int) -> None:
        """A replica is gone, or holds nothing any more."""
        for program in list(self._members[slot].values()):
            self._let_go(program)

    def check_integrity(self) -> None:
        """What is kept is the sum of what each program keeps. Raises `AssertionError` otherwise."""
        kept: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for program in self._programs.values():
            if program.slot >= 0:
                kept[program.slot].update(program.blocks)
                assert program.open_turns or program.key in self.away
            else:
                assert not program.blocks
        assert {slot: blocks for slot, blocks in self._kept.items() if blocks} == dict(kept)
        assert self._anywhere == sum(kept.values(), Counter())
        assert sum(map(len, self._members.values())) == sum(p.slot >= 0 for p in self._programs.values())
        for slot, (blocks, members) in enumerate(self._counts.T.tolist()):
            assert (blocks, members) == (len(kept[slot]), len(self._members[slot]))

    def _soon(self, opening: int, last: int) -> bool:
        returns = self._returns.get((opening, last))
        if returns is None or returns.seen < ENOUGH_RETURNS:
            return last == QUICK
        return returns.mostly_soon

    def _came_back(self, program: Program) -> None:
        if self.away.pop(program.key, None):
            self._count(program, soon=True)

    def _count(self, program: Program, soon: bool) -> None:
        """A program has come back soon, or not."""
        kind = program.opening, program.last
        self._returns.setdefault(kind, Returns()).add(soon)
        self._returns.move_to_end(kind)
        if len(self._returns) > MAX_KINDS:
            self._returns.popitem(last=False)
        program.last = QUICK if soon else SLOW

    def _let_go(self, program: Program) -> None:
        slot = program.slot
        if slot < 0:
            return
        for counts in (self._kept[slot], self._anywhere):
            counts.subtract(program.blocks)
            for block in program.blocks:
                if not counts[block]:
                    del counts[block]
        program.slot, program.blocks = -1, ()
        del self._members[slot][program.key]
        self._recount(slot)

    def _recount(self, slot: int) -> None:
        self._make_room_for(slot)
        self._counts[:, slot] = len(self._kept[slot]), len(self._members[slot])

    def _goes_before(self, program: Program, other: Program) -> bool:
        """Which of two is rather kept."""
        return program.began <= other.began

    def _fits(self, program: Program, capacity_blocks: int) -> bool:
        """Whether its replica has room for it and for those kept there that began before it."""
        kept = len(self._kept[program.slot])
        capacity = capacity_blocks / SAMPLE
        if kept <= capacity:
            return True
        members = self._members[program.slot].values()
        alone = sum(len(member.blocks) for member in members)
        before = sum(len(member.blocks) for member in members if self._goes_before(member, program))
        return before * kept <= capacity * alone

    def _make_room_for(self, slot: int) -> None:
        missing = slot + 1 - self._counts.shape[1]
        if missing > 0:
            self._counts = np.pad(self._counts, ((0, 0), (0, missing + slot)))


def counted(keys: BlockKeys) -> BlockKeys:
    """Of a prompt's keys those that a ledger looks at: the first, and the sample."""
    chosen = keys % SAMPLE == 0
    chosen[:1] = True
    found: BlockKeys = keys[chosen]
    return found


def _sampled(keys: BlockKeys) -> list[int]:
    sampled: list[int] = keys[keys % SAMPLE == 0].tolist()
    return sampled
