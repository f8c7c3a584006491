"""What replies with another count of prompt tokens lead to, and for whom."""

import pytest

from router.requests import exactness as module
from router.requests.exactness import Exactness, shape_of
from tests.router.test_shapes import HELLO, UNUSUAL, chat

PLAIN = chat()
START = 1000.0


@pytest.fixture
def exactness():
    """Nothing has been compared yet."""
    return Exactness()


def differ(exactness, call, conversations, now=START):
    """Replies to conversations that have other counts."""
    for conversation in conversations:
        exactness.differs(shape_of(call), conversation, now)


@pytest.mark.parametrize("fields", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_shapes_are_doubted_and_come_back(exactness, fields):
    """Three conversations of an unusual shape switch that shape to the ring, until one of it agrees."""
    odd = chat(**fields)
    other = next(call for name in UNUSUAL if shape_of(call := chat(**UNUSUAL[name])) != shape_of(odd))
    differ(exactness, odd, (1, 2))
    assert exactness.is_exact(odd, 9, START)
    assert not list(exactness.problems())
    differ(exactness, odd, (3,))
    assert not exactness.is_exact(odd, 9, START)
    assert exactness.is_exact(PLAIN, 9, START)
    assert exactness.is_exact(PLAIN, 1, START), "the same beginning, but another shape"
    assert exactness.is_exact(other, 9, START)
    [problem] = exactness.problems()
    assert problem.startswith(f"{shape_of(odd)}: ")
    exactness.agrees(shape_of(odd), 9, START)
    assert exactness.is_exact(odd, 9, START)
    assert not list(exactness.problems())


def test_ordinary_requests_are_never_doubted(exactness):
    """However many differ: only these conversations go by the ring, and operators are told."""
    differ(exactness, PLAIN, range(1, 101))
    assert exactness.is_exact(PLAIN, 0, START)
    assert not exactness.is_exact(PLAIN, 100, START)
    [problem] = exactness.problems()
    assert "in 100 conversations in a row" in problem
    exactness.agrees(shape_of(PLAIN), 0, START)
    assert not list(exactness.problems())
    assert not exactness.is_exact(PLAIN, 100, START)


def test_one_conversation_counts_once(exactness):
    """A client that repeats itself is one client."""
    odd = chat(documents=[])
    differ(exactness, odd, [1] * 10)
    assert exactness.is_exact(odd, 2, START)
    assert not exactness.is_exact(odd, 1, START)


def test_a_shape_that_agreed_lately_is_believed(exactness):
    """A client that makes requests differ on purpose harms nobody else with the same kind of requests."""
    odd = chat(documents=[])
    differ(exactness, odd, (1,))
    exactness.agrees(shape_of(odd), 2, START)
    differ(exactness, odd, range(3, 100), START + module.AGREED_SECONDS - 1)
    assert exactness.is_exact(odd, 2, START)
    differ(exactness, odd, (100,), START + module.AGREED_SECONDS)
    assert not exactness.is_exact(odd, 2, START + module.AGREED_SECONDS)


def test_a_shape_that_others_use_is_believed(exactness):
    """Those who asked in it before anything differed count; who asks as usual pays next to nothing for it."""
    odd = chat(documents=[])
    assert exactness.wants_agreement(START)
    exactness.agrees(shape_of(odd), 1, START)
    assert not exactness.wants_agreement(START + module.LOOK_SECONDS / 2)
    assert exactness.wants_agreement(START + module.LOOK_SECONDS)
    differ(exactness, odd, range(2, 100), START + module.AGREED_SECONDS - 1)
    assert exactness.is_exact(odd, 1, START)
    assert exactness.wants_agreement(START)


def test_trials_become_rare(exactness):
    """A shape that is doubted is compared now and then, one request at a time."""
    odd = chat(documents=[])
    differ(exactness, odd, (1, 2, 3))
    pauses, now, last = [], START, START
    while len(pauses) < 9:
        now += 1.0
        if exactness.is_exact(odd, 4, now):
            assert not exactness.is_exact(odd, 5, now)
            differ(exactness, odd, (4,), now)
            pauses.append(now - last)
            last = now
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_trial_may_be_one_of_those_that_differed(exactness):
    """Where there is no other client of this shape, it is one of them that agrees again."""
    odd = chat(documents=[])
    differ(exactness, odd, (1, 2, 3))
    later = START + module.TRIAL_SECONDS
    assert exactness.is_exact(odd, 1, later)
    exactness.agrees(shape_of(odd), 1, later)
    assert [exactness.is_exact(odd, conversation, later) for conversation in (1, 2, 9)] == [True, False, True]


def test_what_is_remembered_is_bounded(exactness, monkeypatch):
    """Clients can send any number of conversations and shapes; the oldest are forgotten."""
    monkeypatch.setattr(module, "MAX_CONVERSATIONS", 10)
    for number in range(1000):
        odd = chat(chat_template_kwargs={f"x{number}": 1}, messages=[{**HELLO, "content": f"{number}"}])
        differ(exactness, odd, (3 * number, 3 * number + 1, 3 * number + 2))
    assert len(exactness._conversations) == 10
    for number in range(2 * module.MAX_AGREED):
        exactness.agrees(shape_of(chat(chat_template_kwargs={f"y{number}": 1})), 0, START)
    assert len(exactness._agreed) == module.MAX_AGREED
    assert len(exactness._records) == len(list(exactness.problems())) == module.MAX_SHAPES
    assert exactness.is_exact(PLAIN, 3, START)
    exactness.forget_until(START + module.FORGET_SECONDS + 1)
    assert not list(exactness.problems())
    assert exactness.is_exact(odd, 0, START)
