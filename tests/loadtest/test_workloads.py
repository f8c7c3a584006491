"""Generated workloads: what is drawn is consistent, repeatable, and shared as its parameters say."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from loadtest.workloads.agents import Agents
from loadtest.workloads.bounds import pooled_hits
from loadtest.workloads.catalog import WORKLOADS
from loadtest.workloads.chat import Applications, Bursts, Chat, ClosedChat, Rollout, Tenants
from loadtest.workloads.dialogue import Dialogue
from loadtest.workloads.draws import Lengths, zipf_weights
from loadtest.workloads.forest import Forest
from loadtest.workloads.single import HotPrefix, NoSharing, Rag
from loadtest.workloads.text import Part, Text

SMALL = {
    "chat": Chat(seconds=10),
    "chat-closed": ClosedChat(users=40, turns_per_user=6),
    "agents": Agents(seconds=4),
    "rag": Rag(seconds=6),
    "hot-prefix": HotPrefix(seconds=6),
    "no-sharing": NoSharing(seconds=10),
    "forest": Forest(seconds=8),
    "bursts": Bursts(seconds=12),
    "tenants": Tenants(seconds=20),
    "rollout": Rollout(seconds=10),
}
"""Every entry of the catalog for a short time."""

SHORT_REQUEST = Dialogue(
    turns=Lengths(1, 0, 1, 1),
    question=Lengths(9, 0, 9, 9),
    answer=Lengths(9, 0, 9, 9),
    think_seconds=1.0,
)
REPLICAS, BLOCKS_PER_REPLICA = 8, 6000


@pytest.fixture(scope="module")
def small():
    """The small workloads, drawn once."""
    return {name: generator.build(seed=1) for name, generator in SMALL.items()}


def turns_of(workload):
    """All requests, session by session."""
    return [turn for session in workload.sessions for turn in session.turns]


def conversations_of(session):
    """The turns of one session, one list per conversation."""
    conversations = {}
    for turn in session.turns:
        conversations.setdefault(turn.conversation_key, []).append(turn)
    return list(conversations.values())


def opening_key(turn, block_size=16):
    """Key of the last full block of the opening."""
    return turn.keys[turn.opening_tokens // block_size - 1]


def test_every_workload_of_the_catalog_is_tested(small):
    """Under the name that it bears."""
    assert set(WORKLOADS) == set(SMALL)
    assert all(workload.name == name for name, workload in small.items())


@pytest.mark.parametrize("name", SMALL)
def test_every_full_block_has_a_key(small, name):
    """Of prompt and answer together; the block that is not full has none."""
    for turn in turns_of(small[name]):
        assert len(turn.keys) == (turn.prompt_tokens + turn.output_tokens) // small[name].block_size
        assert turn.output_tokens >= 1
        assert 0 <= turn.opening_tokens < turn.prompt_tokens
        assert all(0 <= key < 2**64 for key in (*turn.keys, turn.conversation_key))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "agents"])
def test_a_turn_begins_with_all_that_was_said(small, name):
    """Prompt and answer of the turn before are the beginning of the next prompt, key by key."""
    for session in small[name].sessions:
        for conversation in conversations_of(session):
            for before, after in pairwise(conversation):
                assert after.prompt_tokens > before.prompt_tokens + before.output_tokens
                assert after.keys[: len(before.keys)] == before.keys
                assert after.opening_tokens == before.opening_tokens


@pytest.mark.parametrize("name", SMALL)
def test_sessions_are_in_order_of_their_start(small, name):
    """The first at 0 or later; a session's first request comes at its start, the others after a pause."""
    starts = [session.start for session in small[name].sessions]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert all(session.turns[0].think_seconds == 0 for session in small[name].sessions)
    assert all(turn.think_seconds >= 0 for turn in turns_of(small[name]))


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_everything(name):
    """The same seed gives the same workload, another seed another one."""
    assert SMALL[name].build(seed=5) == SMALL[name].build(seed=5)
    assert SMALL[name].build(seed=5) != SMALL[name].build(seed=6)


@pytest.mark.parametrize("name", WORKLOADS)
def test_eight_replicas_are_about_70_percent_busy(name):
    """As the catalog says: in the middle half, with hits as in one pooled cache."""
    workload = WORKLOADS[name](0)
    assert 3_500 <= workload.num_turns <= 7_000
    hits = list(pooled_hits(workload, REPLICAS * BLOCKS_PER_REPLICA))
    middle = hits[len(hits) // 4 : len(hits) * 3 // 4]
    computed = sum(turn.prompt_tokens - hit for _, turn, hit in middle)
    answered = sum(turn.output_tokens for _, turn, _ in middle)
    work = computed * (1 / 12_000 + 0.010 / 2048) + answered * 0.0001
    assert 0.55 < work / REPLICAS / (middle[-1][0] - middle[0][0]) < 0.8
    prompts = sorted(turn.prompt_tokens for turn in turns_of(workload))
    assert prompts[len(prompts) * 9 // 10] < 8_500


def test_equal_text_has_equal_keys_up_to_the_first_difference():
    """A block across two parts belongs to both; parts in another order are another text."""
    first, second, third = Part(1, 40), Part(2, 40), Part(3, 40)
    begun = Text(16).then(first)
    one, other = begun.then(second), begun.then(third)
    assert len(begun.keys) == 2
    assert one.keys[:2] == other.keys[:2] == begun.keys
    assert not set(one.keys[2:]) & set(other.keys[2:])
    assert Text(16).then(first).then(second) == one
    assert not set(Text(16).then(second).then(first).keys) & set(one.keys)


def test_lengths_stay_within_their_limits_around_the_median():
    """What falls outside is moved to the limit."""
    source = Random(1)
    drawn = sorted(Lengths(100, 1.0, 20, 500).draw(source) for _ in range(2001))
    assert drawn[0] == 20
    assert drawn[-1] == 500
    assert 90 < drawn[1000] < 110


def test_zipf_weights_fall_with_the_rank():
    """The n-th weight is the first over n to the exponent."""
    assert zipf_weights(3, 2.0) == pytest.approx([1, 1 + 1 / 4, 1 + 1 / 4 + 1 / 9])


def test_conversations_share_few_system_prompts():
    """The first of the Zipf law twice as often as the second."""
    workload = Chat(
        conversations_per_second=40, applications=Applications(count=4), dialogue=SHORT_REQUEST
    ).build(seed=1)
    counts = Counter(opening_key(session.turns[0]) for session in workload.sessions)
    shares = [count / counts.total() for _, count in counts.most_common()]
    assert shares == pytest.approx([0.48, 0.24, 0.16, 0.12], abs=0.03)


def test_closed_users_go_from_one_conversation_to_the_next(small):
    """All users have as many turns; they think before each but the first."""
    for session in small["chat-closed"].sessions:
        assert len(session.turns) == 6
        assert all(turn.think_seconds > 0 for turn in session.turns[1:])
    assert max(len(conversations_of(session)) for session in small["chat-closed"].sessions) > 1


def test_lanes_of_a_task_start_together_and_share_its_history():
    """At every step each lane asks about what the first lane has been told so far; its end is its own."""
    workload = Agents(seconds=3, parallel_share=1.0).build(seed=1)
    tasks = {}
    for session in workload.sessions:
        tasks.setdefault(session.turns[0].conversation_key, []).append(session)
    for lanes in tasks.values():
        assert 2 <= len(lanes) <= 4
        assert len({lane.start for lane in lanes}) == 1
        for first, *others in zip(*(lane.turns for lane in lanes), strict=True):
            shared = first.prompt_tokens // 16
            for other in others:
                assert other.think_seconds == first.think_seconds <= 1.0
                assert other.prompt_tokens > first.prompt_tokens
                assert other.keys[:shared] == first.keys[:shared]
                assert not set(other.keys[shared:]) & set(first.keys[shared:])
        for before, after in pairwise(lanes[0].turns):
            assert after.keys[: len(before.keys)] == before.keys


def test_agents_share_long_tool_prompts(small):
    """There are as many as kinds."""
    turns = turns_of(small["agents"])
    assert {turn.opening_tokens >= 2500 for turn in turns} == {True}
    assert len({opening_key(turn) for turn in turns}) == Agents().kinds


def test_questions_about_one_document_are_conversations_of_their_own():
    """The document is shared, but it is no part of the opening, and the conversation's key is not shared."""
    workload = Rag(seconds=5, documents=1).build(seed=1)
    firsts = [session.turns[0] for session in workload.sessions]
    document_blocks = (firsts[0].opening_tokens + 1000) // 16
    assert len({tuple(turn.keys[:document_blocks]) for turn in firsts}) == 1
    assert len({turn.conversation_key for turn in firsts}) == len(firsts)
    assert all(turn.opening_tokens <= 400 for turn in firsts)


def test_nearly_everybody_has_the_hot_prefix():
    """The others' prefixes are as long and nobody else's."""
    turns = turns_of(HotPrefix(seconds=30).build(seed=1))
    counts = Counter(opening_key(turn) for turn in turns)
    (_, hot), *others = counts.most_common()
    assert hot / len(turns) == pytest.approx(0.95, abs=0.02)
    assert {count for _, count in others} == {1}
    assert {turn.opening_tokens for turn in turns} == {3000}


def test_from_the_middle_of_a_rollout_everybody_begins_with_the_new_prompt(small):
    """Who has begun before goes on with the old one."""
    openings = [
        (session.start < 5, {opening_key(turn) for turn in session.turns})
        for session in small["rollout"].sessions
    ]
    (old,), (new,) = (
        set().union(*(keys for early, keys in openings if early is half)) for half in (True, False)
    )
    assert old != new


def test_nothing_is_shared_without_sharing(small):
    """Every key exists once."""
    keys = Counter(key for turn in turns_of(small["no-sharing"]) for key in turn.keys)
    assert max(keys.values()) == 1


def test_bursts_have_many_times_the_mean_rate():
    """The busiest second has about five times the mean, and the mean is what was asked for."""
    workload = Bursts(seconds=200, dialogue=SHORT_REQUEST).build(seed=1)
    starts = [session.start for session in workload.sessions]
    per_second = Counter(int(start) for start in starts)
    assert len(starts) / 200 == pytest.approx(37, rel=0.1)
    assert 4.5 < max(per_second.values()) / 37 < 7
    assert sum(count > 90 for count in per_second.values()) < 40


def test_few_tenants_make_most_of_the_traffic():
    """Each tenant has a system prompt of its own."""
    turns = turns_of(Tenants(dialogue=SHORT_REQUEST).build(seed=1))
    traffic = Counter(turn.tenant for turn in turns)
    assert sum(traffic[tenant] for tenant in range(10)) > len(turns) / 2
    assert len(traffic) > 100
    openings = {(turn.tenant, opening_key(turn)) for turn in turns}
    assert len(openings) == len({key for _, key in openings}) == len(traffic)
