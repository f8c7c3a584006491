"""The end of a load test: what it measured, as text and as JSON."""

from collections.abc import Iterator
from typing import Any

from loadtest.users.tally import Row, Tally, Times, total_of

PERCENTILES = (50, 95, 99)
LAG_LIMIT_SECONDS = 0.025
"""At the 99th percentile. Above, times to the first token are in part the generator's own."""
CPU_LIMIT = 0.85
"""Share of one core. A process that uses more has no time left when many answers come at once."""
WAITING_LIMIT = 0.02
"""Share of the time that processes may wait for a CPU before that is called the cause of the lag."""
MAX_LINES = 20
"""How many replicas, and how many errors, are shown; JSON has all."""


def rows_of(tally: Tally) -> Iterator[tuple[str, Row]]:
    """All rows with their names, sums at the end."""
    for kind in sorted({*tally.first_turns, *tally.later_turns}):
        for name, rows in (("turn 1", tally.first_turns), ("turn 2+", tally.later_turns)):
            if kind in rows:
                yield f"{kind} {name}", rows[kind]
    first, later = total_of(tally.first_turns), total_of(tally.later_turns)
    yield "all turn 1 (cold)", first
    yield "all turn 2+ (warm)", later
    yield "all", total_of({"first": first, "later": later})


def limits_exceeded(tally: Tally) -> list[str]:
    """In which ways the generator was itself a bottleneck; empty if it was none."""
    lag, busiest = tally.lag.percentile(99) or 0.0, busiest_share(tally)
    complaints = []
    if lag > LAG_LIMIT_SECONDS:
        complaints.append(f"one in a hundred of its own wake-ups was {1000 * lag:.0f} ms late or more")
    if busiest > CPU_LIMIT:
        complaints.append(f"a process used {busiest:.0%} of a CPU core")
    if (behind := tally.behind.percentile(99) or 0.0) > LAG_LIMIT_SECONDS:
        complaints.append(
            f"one in a hundred requests of the trace went out {1000 * behind:.0f} ms late or more"
        )
    return complaints


def busiest_share(tally: Tally) -> float:
    """The share of one CPU core that the busiest of the generator's processes used."""
    return max((work.cpu_seconds / work.seconds for work in tally.work.values() if work.seconds), default=0.0)


def waiting_share(tally: Tally) -> float:
    """The share of the time that processes spent waiting for a CPU that others were using."""
    seconds = sum(work.seconds for work in tally.work.values())
    return sum(work.waited_seconds for work in tally.work.values()) / seconds if seconds else 0.0


def as_text(tally: Tally, facts: dict[str, Any]) -> str:
    """What was measured, as text for the terminal."""
    header = (
        "",
        "requests",
        "failed",
        "prompt",
        "hit rate",
        "TTFT p50",
        "p95",
        "p99",
        "TPOT p50",
        "total p50",
        "p99",
    )
    table: list[tuple[str, ...]] = [header]
    for name, row in rows_of(tally):
        table.append(
            (
                name,
                f"{row.requests:,}",
                f"{row.failures:,}",
                f"{row.prompt_tokens / row.requests:,.0f}" if row.requests else "-",
                "-" if row.hit_rate is None else f"{row.hit_rate:.1%}",
                *(_milliseconds(row.ttft, percent) for percent in PERCENTILES),
                _milliseconds(row.time_per_output_token, 50),
                _milliseconds(row.latency, 50),
                _milliseconds(row.latency, 99),
            )
        )
    if not any(row.requests + row.failures for _, row in rows_of(tally)):
        return "Nothing was sent."
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), "", *_aligned(table)]
    lines.append("Times in milliseconds; prompt: mean tokens; hit rate: cached share of all prompt tokens.")
    if tally.replicas:
        lines.append("")
        lines += [
            f"replica {name}: {row.requests:,} requests, hit rate "
            + ("-" if row.hit_rate is None else f"{row.hit_rate:.1%}")
            for name, row in sorted(tally.replicas.items())[:MAX_LINES]
        ]
    lines += [f"{count:,} x {error}" for error, count in _most(tally.errors)]
    lag = ", ".join(f"p{percent} {_milliseconds(tally.lag, percent)}" for percent in (50, 99))
    lines.append(
        f"\nGenerator: lag {lag}, longest {1000 * tally.lag.longest:.1f} ms; "
        f"{len(tally.work)} process(es), the busiest with {busiest_share(tally):.0%} of a core; "
        f"waited for a CPU {waiting_share(tally):.0%} of the time"
    )
    if complaints := limits_exceeded(tally):
        lines.append(f"WARNING: the generator is a bottleneck: {'; '.join(complaints)}.")
        lines.append(_advice(tally))
    return "\n".join(lines)


def _advice(tally: Tally) -> str:
    if busiest_share(tally) > CPU_LIMIT:
        return "Its own work is too much for one process: use more, with --processes."
    if waiting_share(tally) > WAITING_LIMIT:
        return "Other processes take the CPU that it needs: give it priority (nice) or a machine of its own."
    return "Figures of single requests are that much too long at worst."


def as_json(tally: Tally, facts: dict[str, Any]) -> dict[str, Any]:
    """What was measured, for programs: times in seconds."""
    return {
        **facts,
        "rows": {name: _row(row) for name, row in rows_of(tally)},
        "replicas": {name: _row(row) for name, row in sorted(tally.replicas.items())},
        "errors": dict(_most(tally.errors, len(tally.errors))),
        "generator": {
            "lag_seconds": _times(tally.lag),
            "behind_schedule_seconds": _times(tally.behind),
            "processes": len(tally.work),
            "cpu_seconds": sum(work.cpu_seconds for work in tally.work.values()),
            "busiest_core_share": busiest_share(tally),
            "waiting_share": waiting_share(tally),
            "is_bottleneck": bool(limits_exceeded(tally)),
        },
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "requests": row.requests,
        "failures": row.failures,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "output_tokens": row.output_tokens,
        "hit_rate": row.hit_rate,
        "ttft_seconds": _times(row.ttft),
        "time_per_output_token_seconds": _times(row.time_per_output_token),
        "latency_seconds": _times(row.latency),
    }


def _times(times: Times) -> dict[str, float | int | None]:
    percentiles = {f"p{percent}": times.percentile(percent) for percent in PERCENTILES}
    return {"count": times.count, "mean": times.mean, **percentiles, "max": times.longest}


def _milliseconds(times: Times, percent: float) -> str:
    value = times.percentile(percent)
    return "-" if value is None else f"{1000 * value:,.1f}"


def _most(errors: dict[str, int], count: int = MAX_LINES) -> list[tuple[str, int]]:
    """The most frequent ones first."""
    return sorted(errors.items(), key=lambda item: -item[1])[:count]


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
