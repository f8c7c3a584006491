"""What is replayed, in words: for the terminal before the runs, and for the report after them."""

import math
from collections.abc import Sequence

from loadtest.replay.run import capacities, changes_of
from loadtest.replay.settings import ReplaySettings
from loadtest.replay.survey import Survey
from loadtest.replay.verdict import listed
from loadtest.simulator.results import Run


def title_of(settings: ReplaySettings) -> str:
    """Workload and fleet."""
    return f"{settings.source().name} on {_count(settings.replicas, 'replica')}"


def introduction(settings: ReplaySettings, survey: Survey) -> list[str]:
    """What can be said before anything is played."""
    lines = [_workload(settings, survey), _own_rate(survey), _loads(settings, survey)]
    if changes := _changes(settings, survey):
        lines.append(f"The fleet changes in runs of their own: {changes}")
    return lines


def facts_of(settings: ReplaySettings, survey: Survey, changed: Sequence[Run]) -> dict[str, str]:
    """The conditions of a replay, for its report. ``changed`` are the runs in which the fleet changed."""
    plan = settings.plan()
    profile = plan.profile
    facts = {
        "Workload": _workload(settings, survey),
        "Rate": _own_rate(survey),
        "Loads": _loads(settings, survey),
        "Fleet": f"{_count(plan.replicas, 'replica')} with {profile.num_blocks:,} KV blocks each, "
        f"{_count(plan.routers, 'router')}",
        "Engines": f"profile {settings.profile}: {1 / profile.prefill_seconds:,.0f} prompt tokens/s, "
        f"{1000 * profile.step_seconds:g} ms per step of at most {profile.max_batched_tokens:,} tokens, "
        f"{1000 * profile.decode_seconds:g} ms per answer token"
        + (
            ", and attention on top"
            if profile.prefill_context_seconds or profile.decode_context_seconds
            else ""
        ),
        "Event lag": f"{1000 * plan.event_lag_seconds:g} ms",
    }
    if plan.slow:
        slow = (f"number {number} needs {factor:g} times as long" for number, factor in plan.slow.items())
        facts["Slow replicas"] = ", ".join(slow)
    if plan.routers > 1:
        facts["Gossip lag"] = f"{1000 * plan.gossip_lag_seconds:g} ms"
    facts["Seeds"] = "0" if settings.seeds == 1 else f"0 to {settings.seeds - 1}"
    if changes := _changes(settings, survey):
        facts["Changes"] = f"{changes}. {failures_in(changed)}"
    if settings.capacity:
        sizes = sorted([profile.num_blocks, *capacities(plan, survey)])
        facts["Cache capacity"] = (
            f"{', '.join(f'{size:,}' for size in sizes)} blocks per replica, at load {survey.middle_load:g}; "
            f"the largest request needs {survey.largest_blocks:,}"
        )
    return facts


def _workload(settings: ReplaySettings, survey: Survey) -> str:
    source = settings.source()
    text = (
        f"{source.name}, {survey.requests:,} requests with {survey.prompt_tokens:,.0f} prompt and "
        f"{survey.answer_tokens:,.0f} answer tokens on average"
    )
    return text if source.length_scale == 1 else f"{text} (lengths times {source.length_scale:g})"


def _own_rate(survey: Survey) -> str:
    if math.isinf(survey.num_replicas_of_work):
        return "Half of them or more come at once: there is no rate"
    return (
        f"At load 1, their own rate, they come in {survey.seconds:,.0f} s, and the busiest half is work for "
        f"about {survey.num_replicas_of_work:.2g} replicas, if all shared one cache and every step were full"
    )


def _loads(settings: ReplaySettings, survey: Survey) -> str:
    loads = listed([f"{load:g}" for load in survey.loads])
    shares = listed([f"{share:.0%}" for share in survey.shares])
    what = "Load" if len(survey.loads) == 1 else "Loads"
    if math.isinf(survey.num_replicas_of_work):
        return f"{what} {loads}"
    fleet = _count(settings.replicas, "replica")
    return f"{what} {loads}: {shares} of the most that {fleet} could do by that estimate"


def _changes(settings: ReplaySettings, survey: Survey) -> str:
    changes = changes_of(settings, survey)
    what = " and ".join(f"a {change.kind} at {change.at:g} s" for change in changes)
    return f"{what}, at load {survey.middle_load:g}" if changes else ""


def failures_in(runs: Sequence[Run]) -> str:
    """How many requests of each policy failed; of several seeds, the most."""
    failed: dict[str, list[int]] = {}
    for run in runs:
        failed.setdefault(run.policy, []).append(run.failures)
    each = (f"{policy} {max(numbers)}" for policy, numbers in failed.items() if max(numbers))
    return f"Requests that failed meanwhile: {', '.join(each) or 'none'}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
