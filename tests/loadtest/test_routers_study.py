"""The trace of conversations: the same for the same seed."""

from loadtest.studies.routers import TURNS, write_scripts


def test_the_same_seed_gives_the_same_scripts():
    """And another seed gives others."""
    assert write_scripts(5, 9, 3, 1.0, seed=1) == write_scripts(5, 9, 3, 1.0, seed=1)
    assert write_scripts(5, 9, 3, 1.0, seed=1) != write_scripts(5, 9, 3, 1.0, seed=2)


def test_every_user_has_as_many_turns():
    """In conversations of at most six."""
    for script in write_scripts(20, 9, 3, 1.0, seed=1):
        lengths = [len(conversation.turns) for conversation in script]
        assert sum(lengths) == 9
        assert max(lengths) <= TURNS[1]


def test_few_system_prompts_are_shared():
    """Conversations draw from as many as were asked for."""
    scripts = write_scripts(20, 9, 3, 1.0, seed=1)
    assert len({conversation.system for script in scripts for conversation in script}) == 3
