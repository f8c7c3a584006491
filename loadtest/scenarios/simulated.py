"""Scripted conversations as the simulator plays them: by block keys, with answers of full length."""

from collections.abc import Iterator

from loadtest.scenarios.script import ScriptedSession
from loadtest.simulator.workload import Session, Turn
from loadtest.workloads.dialogue import ask
from loadtest.workloads.text import Part, Text, mix


def simulated_sessions(session: ScriptedSession, block_size: int) -> list[Session]:
    """The conversation, and a session for each of the requests that go out beside it.

    These run in step by their pauses only, as in `loadtest.workloads.agents`.
    """
    lanes = zip(*_steps(session, block_size), strict=True)
    return [Session(session.start, lane) for lane in lanes]


def _steps(session: ScriptedSession, block_size: int) -> Iterator[list[Turn]]:
    """The requests of each turn; the first one's answer continues the conversation."""
    said = Text(block_size) if session.opening is None else Text(block_size).then(session.opening)
    opening_tokens = said.tokens
    if session.document:
        said = said.then(session.document)
    conversation_key = 0
    for number, turn in enumerate(session.turns):
        asked = said.then(turn.question)
        if number == 0:
            conversation_key = asked.identity
        prompts = [(asked, turn.answer_tokens)]
        prompts += [(asked.then(instruction), tokens) for instruction, tokens in turn.burst]
        answered = [
            ask(
                prompt,
                Part(mix(prompt.identity, tokens), tokens),
                conversation_key=conversation_key,
                opening_tokens=opening_tokens,
                think_seconds=turn.think_seconds,
                tenant=session.tenant or 0,
            )
            for prompt, tokens in prompts
        ]
        yield [simulated for simulated, _ in answered]
        said = answered[0][1]
