"""Trials that were never run, for tests: arms whose speed is known."""

import random

from loadtest.trial.records import Answer, Lag, Probe, Round, Trial

PROMPT = 1000


def answers(
    speed: float, cached: int, conversations: int, seed: int = 1, turns: int = 4, replicas: int = 2
) -> list[Answer]:
    """Conversations that differ from each other much more than their turns do."""
    source = random.Random(seed)
    made = []
    for number in range(conversations):
        own = source.lognormvariate(0, 0.5)
        for turn in range(turns):
            seconds = speed * own * source.lognormvariate(0, 0.1)
            found = cached if turn else 0
            made.append(
                Answer(
                    f"chat:{number}", turn, number + turn / 10, seconds, seconds + 0.5, PROMPT, found, 51,
                    f"replica-{(number + turn) % replicas}",
                )
            )  # fmt: skip
    return made


def trial(
    conversations: int = 60,
    control_speed: float = 0.2,
    our_speed: float = 0.1,
    sweep: bool = True,
    rounds: int = 6,
) -> Trial:
    """Ours is ``warm``, the control ``round-robin``; the same conversations, in ``rounds`` of each."""
    played = [
        Round(
            arm, number, 2.0, 30.0, 60.0, answers(speed, cached, conversations // rounds, 10 * number + seed),
            Lag(0.001, 0.002),
        )
        for number in range(rounds)
        for arm, speed, cached, seed in (("round-robin", control_speed, 500, 1), ("warm", our_speed, 800, 2))
    ]  # fmt: skip
    steps = [
        Round(arm, 0, rate, 30.0, 40.0, answers(speed * rate, 500, 30), Lag(0.001, 0.002))
        for arm, speed in (("round-robin", control_speed), ("warm", our_speed))
        for rate in (1.0, 2.0, 4.0, 8.0)
    ]
    return Trial(
        "bot: warm against <round-robin>", "warmroute loadtest", ("round-robin", "warm"), probes(), played,
        steps if sweep else (), {"Model": "sim & co"},
    )  # fmt: skip


def probes(seconds_per_token: float = 0.0005, count: int = 20, seed: int = 3) -> list[Probe]:
    """Prompts on an idle fleet that takes 20 ms and so long for each uncached token."""
    source = random.Random(seed)
    made = []
    for number in range(count):
        tokens = PROMPT if number % 2 else source.randrange(250, PROMPT)
        ttfts = [0.02 + seconds_per_token * n + source.gauss(0, 0.002) for n in (tokens, 8)]
        both = [
            Answer(f"probe:{number}", turn, 0.0, ttft, ttft, tokens, found, 4, "replica-0")
            for turn, (ttft, found) in enumerate(zip(ttfts, (0, tokens - 8), strict=True))
        ]
        made.append(Probe(*both))
    return made
