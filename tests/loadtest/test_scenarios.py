"""Scenario files: what they may say, and the conversations that follow from them."""

from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import StartUpError
from loadtest.replay.settings import ReplaySettings
from loadtest.scenarios.english import english
from loadtest.scenarios.scenario import ScenarioError, load_scenario, scenario_names
from loadtest.scenarios.script import text_of
from loadtest.workloads.bounds import pooled_hit_rate
from loadtest.workloads.text import Part

SMALL = """
description = "two kinds"

[arrivals]
conversations_per_second = 5.0
seconds = 20.0

[users.chat]
weight = 3
system_prompts = { count = 2, tokens = 40 }
turns = 3
question = { median = 20, sigma = 0.5, low = 5, high = 50 }
answer = 10
think = { mean_seconds = 2.0 }

[users.agent]
weight = 1
documents = { count = 5, tokens = 100 }
turns = { median = 2, sigma = 0.3, low = 1, high = 4 }
question = 15
first_question = 60
answer = 8
think = { shortest_seconds = 0.1, longest_seconds = 1.0 }
burst = { share = 1.0, most = 2, instruction = 6 }
"""


@pytest.fixture
def scenario(tmp_path):
    """A scenario of two kinds of users."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return load_scenario(path)


def history_of(session):
    """All that was said before the last turn, with answers of one word."""
    history = session.first_messages()
    for turn in range(len(session.turns)):
        history = [*session.requests(turn, history)[0][0], {"role": "assistant", "content": "Yes"}]
    return history


def error_of(tmp_path, text):
    """What is said of a bad file."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as error:
        load_scenario(path)
    return str(error.value)


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_of_the_package_can_be_played(name):
    """Each gives conversations that share something, and the simulator the same number of conversations."""
    scenario = load_scenario(name)
    sessions = list(scenario.sessions(seed=3, seconds=5.0))
    assert {session.kind for session in sessions} == set(scenario.kinds)
    workload = scenario.workload(seed=3, seconds=5.0)
    assert len(workload.sessions) >= len(sessions)
    assert 0.3 < pooled_hit_rate(workload, None) < 1
    assert scenario.description


def test_five_kinds_of_traffic_come_with_the_package():
    """A support bot, chat, documents, agents, and all of it together."""
    assert scenario_names() == ["agents", "chat", "mixed", "rag", "support-bot"]


def test_same_seed_same_conversations(scenario):
    """Everything follows from the seed, the kind and the number, alone or in a row; texts too."""
    first, again = (list(scenario.sessions(seed=9)) for _ in range(2))
    assert first == again
    assert [history_of(session) for session in first[:5]] == [history_of(session) for session in again[:5]]
    assert list(scenario.sessions(seed=10)) != first
    chats = [session for session in first if session.kind == "chat"]
    assert [session.number for session in chats] == list(range(len(chats)))
    alone = scenario.writer("chat", 9).session(7)
    assert alone.turns == chats[7].turns
    assert history_of(alone) == history_of(chats[7])


def test_conversations_arrive_at_the_rate_by_weight(scenario):
    """Starts are in order within the arrivals' time, and kinds come in proportion to their weights."""
    sessions = list(scenario.sessions(seed=1, seconds=400.0))
    starts = [session.start for session in sessions]
    assert starts == sorted(starts)
    assert starts[0] > 0
    assert starts[-1] < 400
    assert len(sessions) == pytest.approx(5 * 400, rel=0.1)
    kinds = Counter(session.kind for session in sessions)
    assert kinds["chat"] / kinds["agent"] == pytest.approx(3, rel=0.2)


def test_simulator_and_clients_play_the_same(scenario):
    """The simulator's prompts are as long as the texts, requests of a burst beside the conversation included,
    and share what the texts share.
    """
    scripted = list(islice(scenario.sessions(seed=4), 30))
    simulated = iter(scenario.workload(seed=4).sessions)
    prompts: dict[int, str] = {}
    for session in scripted:
        history = session.first_messages()
        tokens_said = 0 if session.opening is None else session.opening.tokens
        num_lanes = 1 + len(session.turns[0].burst)
        lanes = [next(simulated) for _ in range(num_lanes)]
        for number, turn in enumerate(session.turns):
            document = session.document.tokens if number == 0 and session.document else 0
            requests = session.requests(number, history)
            assert len(requests) == num_lanes
            for (messages, max_tokens), lane in zip(requests, lanes, strict=True):
                words = sum(len(message["content"].split()) for message in messages)
                assert words <= lane.turns[number].prompt_tokens
                assert max_tokens == lane.turns[number].output_tokens
                assert lane.start == session.start
                assert lane.turns[number].think_seconds == turn.think_seconds
            main = lanes[0].turns[number]
            assert main.prompt_tokens == tokens_said + document + turn.question.tokens
            tokens_said = main.prompt_tokens + main.output_tokens
            history = [*requests[0][0], {"role": "assistant", "content": "answer"}]
        opening = "".join(message["content"] for message in session.first_messages())
        if lanes[0].turns[0].opening_tokens:
            assert prompts.setdefault(lanes[0].turns[0].keys[0], opening) == opening


def test_openings_and_documents_are_shared_and_questions_are_not(scenario):
    """Two system prompts and five documents make all openings; no question is asked twice."""
    sessions = list(scenario.sessions(seed=2, seconds=60.0))
    openings = {session.opening for session in sessions if session.kind == "chat"}
    documents = {session.document for session in sessions if session.kind == "agent"}
    assert len(openings) == 2
    assert len(documents) == 5
    questions = [turn.question for session in sessions for turn in session.turns]
    assert len({text_of(question) for question in questions}) == len(questions)


def test_tenants_have_system_prompts_of_their_own(tmp_path):
    """No opening belongs to two tenants, and the first tenant is the biggest."""
    path = tmp_path / "tenants.toml"
    path.write_text(SMALL.replace("turns = 3\n", "turns = 3\ntenants = { count = 4, exponent = 1.0 }\n"))
    sessions = [s for s in load_scenario(path).sessions(seed=5, seconds=200.0) if s.kind == "chat"]
    owners: dict[object, set[int | None]] = {}
    for session in sessions:
        owners.setdefault(session.opening, set()).add(session.tenant)
    assert all(len(tenants) == 1 for tenants in owners.values())
    sizes = Counter(session.tenant for session in sessions)
    assert set(sizes) == {0, 1, 2, 3}
    assert max(sizes, key=sizes.__getitem__) == 0


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("turns = 3", "turns = 0", "users.chat.turns.median: "),
        ("turns = 3", "turn = 3", "users.chat.turn: Extra inputs are not permitted"),
        (
            "low = 5, high",
            "low = 30, high",
            "users.chat.question: low, median and high must be in this order",
        ),
        ("mean_seconds = 2.0", "", "users.chat.think: give either mean_seconds, or "),
        ("shortest_seconds = 0.1, ", "", "users.agent.think: shortest_seconds and longest_seconds belong"),
        ("shortest_seconds = 0.1", "shortest_seconds = 3.0", "users.agent.think: shortest_seconds is more"),
        ("answer = 10\n", "", "users.chat.answer: Field required"),
        ("[users.agent]", "[users.Agent]", "users.Agent"),
        ("seconds = 20.0", "seconds = inf", "arrivals.seconds: "),
        ("count = 2, ", "count = 200_000, ", "users.chat.system_prompts.count: "),
        ("weight = 3", "weight = 'a'", "users.chat.weight: "),
        ("turns = 3", "turns = 3\ntenants = 1", "users.chat.tenants: "),
        ("documents", "tenants = {count = 2}\ndocuments", "users.agent: tenants: need system_prompts"),
        ("description", "= description", "Invalid"),
    ],
)
def test_errors_name_the_file_and_the_field(tmp_path, old, new, complaint):
    """Whoever writes a scenario is told where it is wrong."""
    assert old in SMALL
    message = error_of(tmp_path, SMALL.replace(old, new, 1))
    assert str(tmp_path / "bad.toml") in message
    assert complaint in message


def test_unknown_scenarios_are_refused(tmp_path):
    """An unknown name lists those there are; a missing file and one of megabytes are errors too."""
    with pytest.raises(ScenarioError, match="choose one of agents, chat, "):
        load_scenario("nope")
    with pytest.raises(ScenarioError, match="No such file"):
        load_scenario(tmp_path / "missing.toml")
    assert "longer than" in error_of(tmp_path, SMALL + "#" * 2_000_000)


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.sampled_from(["statement", "question"]))
def test_texts_have_the_wanted_number_of_words_and_marks(tokens, identity, voice):
    """Words and marks, each one token to usual tokenizers, are exactly as many as asked for; the same part
    has the same words.
    """
    text = text_of(Part(identity, tokens), voice)
    assert len(text.replace(".", " .").replace("?", " ?").split()) == tokens
    assert text == text_of(Part(identity, tokens), voice)


def test_texts_differ_from_the_start():
    """Of two thousand texts no two share their first twelve words: prompts share no block by accident."""
    beginnings = {" ".join(english(40, Random(seed)).split()[:12]) for seed in range(2000)}
    assert len(beginnings) == 2000


def test_replay_takes_scenarios(tmp_path):
    """``warmroute replay`` plays the same file, by name or path, and refuses what is none."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    source = ReplaySettings(scenario=str(path)).source()
    assert source.name == "small"
    assert source.build(3) == load_scenario(path).workload(3)
    assert ReplaySettings(scenario="rag").source().name == "rag"
    for settings, message in (
        (ReplaySettings(scenario="nope"), "--scenario: unknown scenario nope"),
        (ReplaySettings(scenario="rag", workload="chat"), "give either"),
        (ReplaySettings(scenario="rag", first=3), "--first: only for a --trace"),
    ):
        with pytest.raises(StartUpError, match=message):
            settings.source()
    path.write_text("description = 1")
    with pytest.raises(StartUpError, match="description"):
        source.build(3)
