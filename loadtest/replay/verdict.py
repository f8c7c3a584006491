"""The outcome of a replay in plain sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.replay.figures import COLUMN, Better, Column, Row, is_near, ranked, rows_by_load

DECIDING = (
    (COLUMN["ttft_mean_ms"], "mean TTFT"),
    (COLUMN["ttft_p99_ms"], "p99 TTFT"),
    (COLUMN["hit_rate"], "hit rate"),
)
MOST_LISTED = 4
"""The longest list that is named; longer ones stand in the table."""


@dataclass(frozen=True, slots=True)
class LoadVerdict:
    """Who is best at one load, a sentence for each deciding figure."""

    load: float
    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome as a whole, and load by load."""

    headline: str
    failures: str
    loads: Sequence[LoadVerdict]


def judge(rows: Sequence[Row], default: str, bound_hit_rate: float | None) -> Verdict:
    """Compare the default policy with all others at every load."""
    headline = _headline(rows, default)
    if bound_hit_rate is not None:
        headline += f" One pooled cache of the same total size reaches a hit rate of {bound_hit_rate:.3f}."
    loads = [
        LoadVerdict(load, [_sentence(group, column, name, default) for column, name in DECIDING])
        for load, group in rows_by_load(rows).items()
    ]
    return Verdict(headline, _failures(rows), loads)


def _headline(rows: Sequence[Row], default: str) -> str:
    policies = {row.policy for row in rows}
    if default not in policies:
        return f"The default policy, {default}, is not part of this replay."
    if len(policies) == 1:
        return f"Only {default} was replayed; there is nothing to compare it with."
    compared = 0
    behind: list[str] = []
    groups = rows_by_load(rows)
    for load, group in groups.items():
        for column, name in DECIDING:
            order = _best_first(group, column, default)
            ours = next((row for row in order if row.policy == default), None)
            compared += 1
            if ours is None:
                behind.append(f"{name} at load {load:g} (no figure)")
            elif not is_near(ours.figures[column.key], order[0].figures[column.key]):
                distance = _distance(ours, order[0], column)
                behind.append(f"{name} at load {load:g} ({distance} {order[0].policy})")
    good = "the best, or within 2% of the best,"
    if not behind:
        at = "every load" if len(groups) > 1 else f"load {next(iter(groups)):g}"
        return f"At {at} {default} is {good} in mean TTFT, p99 TTFT and hit rate."
    where = f"It is not in {listed(behind)}." if len(behind) <= MOST_LISTED else "The others are below."
    return (
        f"{default} is {good} in {compared - len(behind)} of {compared} comparisons: "
        f"mean TTFT, p99 TTFT and hit rate at each load. {where}"
    )


def _sentence(group: Sequence[Row], column: Column, name: str, default: str) -> str:
    """Who is best in one figure at one load, and how far from it the default is, or else the next policy."""
    order = _best_first(group, column, default)
    if not order:
        return f"There is no {name}: no request was answered."
    best = order[0]
    unit = f"\u00a0{column.unit}" if column.unit else ""
    if len(order) == 1:
        return f"The {name} of {best.policy} is {best.text(column)}{unit}."
    extreme = "highest" if column.better is Better.HIGHER else "lowest"
    start = f"The {extreme} {name} is that of {best.policy}, {best.text(column)}{unit}"
    if best.policy == default:
        other, verb = order[1], "follows with"
    else:
        other, verb = next((row for row in order if row.policy == default), best), "has"
    if other is best:
        return f"{start}."
    return f"{start}; {other.policy} {verb} {other.text(column)}{unit}, {_distance(other, best, column)} it."


def _best_first(group: Sequence[Row], column: Column, default: str) -> list[Row]:
    """The rows, the best first; of equals the default comes first."""
    return ranked(sorted(group, key=lambda row: row.policy != default), column)


def _distance(row: Row, best: Row, column: Column) -> str:
    """How far a figure lies from the best one: "12% above"."""
    value, reference = row.figures[column.key], best.figures[column.key]
    if value == reference:
        return "level with"
    side = "above" if value > reference else "below"
    if not reference:
        return side
    share = abs(value / reference - 1)
    return f"{share:.0%} {side}" if share >= 0.095 else f"{max(share, 0.001):.1%} {side}"


def _failures(rows: Sequence[Row]) -> str:
    key = "failures"
    failed = [row for row in rows if row.figures[key]]
    if not failed:
        return "No request failed."
    if len(failed) > MOST_LISTED:
        what = f"with {len({row.policy for row in failed})} of the policies (last column)"
    else:
        what = listed([f"{row.text(COLUMN[key])} with {row.policy} at load {row.load:g}" for row in failed])
    return f"Requests failed: {what}. Those that got no first token are missing from the TTFT figures."


def listed(parts: Sequence[str]) -> str:
    """Some parts as one would say them: with "and" before the last."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
