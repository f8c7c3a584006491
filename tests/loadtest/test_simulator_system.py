"""The whole simulated system: repeatable, complete, and right about replicas that join, drain, die or lag."""

import math
from itertools import pairwise

import pytest

from loadtest.simulator.plan import Change, ChangeKind, Plan
from loadtest.simulator.system import simulate
from loadtest.simulator.workload import Session, Turn, Workload
from loadtest.workloads.chat import ClosedChat
from loadtest.workloads.text import Part, Text, mix
from policies.catalog import POLICIES

BLOCK = 16
THINK_SECONDS = 0.5
NETWORK_SECONDS = 0.001
MOMENT = 1.0
"""When something happens to a fleet."""


def conversation(number, turns, prompt_tokens, answer_tokens):
    """All turns of one conversation that shares nothing with others."""
    text = Text(BLOCK)
    for turn in range(turns):
        text = text.then(Part(mix(number, turn), prompt_tokens))
        prompt = text.tokens
        text = text.then(Part(mix(number, turn, 1), answer_tokens))
        yield Turn(THINK_SECONDS, prompt, answer_tokens, text.keys, number + 1, 0)


def conversations(count, turns=1, every=0.05, prompt_tokens=300, answer_tokens=20):
    """Conversations that start one after the other; their keys count from 1."""
    sessions = (
        Session(number * every, tuple(conversation(number, turns, prompt_tokens, answer_tokens)))
        for number in range(count)
    )
    return Workload("hand-made", BLOCK, tuple(sessions))


def run(workload, policy="warm", seed=0, **plan):
    """Simulate a small fleet."""
    fields = {"replicas": 2, "network_seconds": NETWORK_SECONDS} | plan
    return simulate(workload, policy, POLICIES[policy], Plan(**fields), seed=seed)


def test_same_seed_same_answers():
    """A run repeats exactly; another seed sends requests to other routers, and answers them all the same."""
    workload = conversations(40, turns=2)
    first, again, other = (run(workload, seed=seed, routers=3) for seed in (1, 1, 2))
    assert first.answers == again.answers
    assert first.replicas == again.replicas
    assert first.answers != other.answers
    assert len(first.answers) == len(other.answers) == workload.num_turns
    assert first.failures == other.failures == 0


def test_conversations_go_on_after_each_answer():
    """A turn starts when its client has read the last answer and thought; it hits what came before."""
    result = run(conversations(10, turns=3))
    assert len(result.answers) == 30
    for key in range(1, 11):
        turns = sorted((a for a in result.answers if a.conversation_key == key), key=lambda a: a.arrival)
        for before, after in pairwise(turns):
            assert after.arrival == pytest.approx(before.end + THINK_SECONDS)
            assert after.hit_tokens >= before.prompt_tokens // BLOCK * BLOCK
            assert after.expected_tokens == after.hit_tokens


def test_time_to_first_token_has_all_its_parts():
    """An idle fleet's answer takes one step for the prompt and one per further token, there and back."""
    profile = Plan().profile
    (answer,) = run(conversations(1)).answers
    prefill = profile.step_seconds + 300 * profile.prefill_seconds
    decode = 19 * (profile.step_seconds + profile.decode_seconds)
    assert answer.first_token - answer.arrival == pytest.approx(prefill + 2 * NETWORK_SECONDS)
    assert answer.end - answer.first_token == pytest.approx(decode)


@pytest.mark.parametrize("routers", [1, 3])
def test_death(routers):
    """What had begun to stream on the dead replica fails, once; all else is answered by the others, and
    every session ends.
    """
    workload = conversations(60, turns=2, every=0.03, answer_tokens=40)
    result = run(workload, routers=routers, changes=(Change(ChangeKind.DEATH, MOMENT),))
    failed = [answer for answer in result.answers if answer.failed]
    saved = [answer for answer in result.answers if answer.attempts > 1]
    assert failed
    assert saved
    assert result.failures == len(failed)
    assert all(answer.replica == "replica-0000" for answer in failed)
    assert all(answer.first_token <= MOMENT + NETWORK_SECONDS <= answer.end for answer in failed)
    assert all(answer.replica == "replica-0001" and math.isfinite(answer.first_token) for answer in saved)
    first_turns = {answer.conversation_key for answer in failed if answer.prompt_tokens == 300}
    assert len(result.answers) == workload.num_turns - len(first_turns), "the others end all their turns"


def test_without_replicas_requests_fail():
    """When the last replica dies, what comes later fails at once instead of waiting for ever."""
    result = run(conversations(30, every=0.2), replicas=1, changes=(Change(ChangeKind.DEATH, MOMENT),))
    assert len(result.answers) == 30
    late = [answer for answer in result.answers if answer.arrival > MOMENT]
    assert late
    assert all(answer.failed and answer.first_token == math.inf for answer in late)


def test_drain():
    """A draining replica finishes what it has and gets nothing more; nobody fails."""
    result = run(conversations(60, turns=2, every=0.03), changes=(Change(ChangeKind.DRAIN, MOMENT),))
    assert len(result.answers) == 120
    assert result.failures == 0
    drained = [answer for answer in result.answers if answer.replica == "replica-0000"]
    assert all(answer.arrival <= MOMENT for answer in drained)
    assert any(answer.end > MOMENT for answer in drained)


def test_join():
    """A replica that joins gets a good part of the new conversations, and none before."""
    workload = conversations(90, every=0.03, prompt_tokens=900)
    result = run(workload, changes=(Change(ChangeKind.JOIN, MOMENT),))
    assert result.failures == 0
    joined = [answer for answer in result.answers if answer.replica == "replica-0002"]
    assert min(answer.arrival for answer in joined) >= MOMENT
    assert len(joined) >= 15


def test_slow_replica():
    """A replica at half speed needs twice as long for every step."""
    result = run(conversations(10, every=5.0), "round-robin", slow={1: 2.0})
    seconds = {
        replica: {
            round(answer.end - answer.arrival - 2 * NETWORK_SECONDS, 9)
            for answer in result.answers
            if answer.replica == replica
        }
        for replica in ("replica-0000", "replica-0001")
    }
    (fast,), (slow,) = seconds["replica-0000"], seconds["replica-0001"]
    assert slow == pytest.approx(2 * fast)


def test_routers_that_know_everything_do_as_well_as_one():
    """With events and bookings known at once, four routers give nearly the results of one; four that learn
    nothing of each other in time do not.
    """
    chat = ClosedChat(users=80, turns_per_user=3).build(seed=1)
    one = run(chat, event_lag_seconds=0.0)
    four = run(chat, routers=4, event_lag_seconds=0.0, gossip_lag_seconds=0.0)
    deaf = run(chat, routers=4, event_lag_seconds=5.0, gossip_lag_seconds=5.0)
    assert four.hit_rate == pytest.approx(one.hit_rate, abs=0.01)
    assert four.ttft().mean() == pytest.approx(one.ttft().mean(), rel=0.05)
    assert deaf.hit_rate < four.hit_rate
    assert deaf.ttft().mean() > four.ttft().mean()


def test_higher_load_is_the_same_in_less_time():
    """At twice the load sessions start twice as often, as the workload itself says."""
    workload = conversations(20)
    plan = Plan(replicas=2)
    fast = simulate(workload, "warm", POLICIES["warm"], plan, load=2.0)
    same = simulate(workload.faster(2.0), "warm", POLICIES["warm"], plan)
    assert fast.answers == same.answers
    assert fast.load == 2.0


def test_empty_workload():
    """A run without requests ends at once."""
    result = run(conversations(0), routers=2)
    assert (len(result.answers), result.seconds, result.hit_rate) == (0, 0.0, 0.0)
