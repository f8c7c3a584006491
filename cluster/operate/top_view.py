"""What ``warmroute top`` shows: a router's overview as lines for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.operate.status import STATE_COLOURS

HEALTHY, LOW = 0.85, 0.5
"""Hit rates from the one on are green, under the other red."""
BARS = "▁▂▃▄▅▆▇█"
MAX_ALARMS = 5
MIN_REPLICAS = 3
"""So many replicas are shown even where the terminal is not high enough for them."""
BAR_CELLS = 24
COURSE_SECONDS = 600
PROMPT_TOKENS, DELIVERED_TOKENS = "1", "4"
"""Names of sums in trends."""
PRICED_SHARE = 0.98
"""Where the pace is known for fewer of the saved tokens, the time is a lower bound."""
COURSE_LABEL_CELLS = 26
LINES_AROUND_REPLICAS = 2
WIDE = 100
"""Where the terminal has so many columns, the table of replicas has two more."""
REASONS = {
    "cold": "blue",
    "diverged": "magenta",
    "re_rendered": "purple",
    "evicted": "dark_orange",
    "replica_lost": "red",
    "diverted": "yellow",
    "other_namespace": "cyan",
    "tail": "bright_black",
    "unknown": "bright_red",
}


def frame(
    overview: Mapping[str, Any],
    trends: Mapping[str, Any] | None,
    problem: str,
    console: Console,
    height: int,
) -> RenderableType:
    """The whole overview, with as many replicas as fit into that many lines.

    ``problem`` says why it could not be asked for again just now, or is empty.
    """
    fleet, width = overview["fleet"], console.width
    above = Group(
        *([problem_line(problem)] if problem else []),
        _headline(overview),
        _traffic(fleet),
        Text(),
        _side_by_side(_hit_rates(fleet), _times(fleet)),
        _course(trends, width),
        _savings(fleet["hour"]),
        Text(),
        _misses(fleet),
        *_alarms(overview["alarms"]),
        Text(),
    )
    rows = max(MIN_REPLICAS, height - len(console.render_lines(above)) - LINES_AROUND_REPLICAS)
    return Group(above, *_replicas(overview["replicas"], rows, width >= WIDE))


def problem_line(problem: str) -> Text:
    """Why there is nothing newer to show."""
    return Text(f" {_plain(problem)} ", style="bold white on red")


def _headline(overview: Mapping[str, Any]) -> Text:
    policy = overview["policy"]
    experiment = policy.get("experiment") or {}
    line = Text("Warmroute ", style="bold", no_wrap=True, overflow="ellipsis")
    line.append(_plain(overview["version"]), style="dim")
    line.append(f"  policy {_plain(policy['policy'])}", style="none")
    if experiment:
        line.append("  experiment runs", style="cyan")
    routers = len(overview["routers"])
    line.append(f"  {routers} router{'' if routers == 1 else 's'}", style="none")
    line.append(f"  up {_duration(overview['uptime_seconds'])}", style="dim")
    line.append(f"  {datetime.fromtimestamp(overview['time']):%H:%M:%S}", style="dim")
    return line


def _traffic(fleet: Mapping[str, Any]) -> Text:
    ready, known = fleet["ready"], fleet["replicas"]
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{ready} of {known} ready", style="green" if ready == known > 0 else "bold yellow")
    if fleet["draining"]:
        line.append(f", {fleet['draining']} draining", style="yellow")
    line.append(
        f"  {_count(fleet['requests_per_second'])} requests/s  "
        f"{_count(fleet['prompt_tokens_per_second'])} tokens/s  "
        f"{fleet['running']}+{fleet['waiting']} running+waiting  {fleet['held_requests']} held"
    )
    return line


def _side_by_side(left: RenderableType, right: RenderableType) -> Table:
    grid = Table.grid(padding=(0, 4))
    grid.add_row(left, right)
    return grid


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _hit_rates(fleet: Mapping[str, Any]) -> Table:
    """Three rates over two windows."""
    table = _table("hit rate", "5 min", "1 h")
    for name in ("available", "predicted", "delivered"):
        table.add_row(name, _rate(fleet["recent"][name]), _rate(fleet["hour"][name]))
    return table


def _course(trends: Mapping[str, Any] | None, width: int) -> Text:
    """How the delivered hit rate went."""
    if not trends or not trends["steps"]:
        return Text("no history yet", style="dim")
    rates = delivered_rates(trends)[-(width - COURSE_LABEL_CELLS) :]
    minutes = _duration(len(rates) * trends["step_seconds"])
    return Text.assemble("delivered  ", (sparkline(rates), "green"), (f"  last {minutes}", "dim"))


def _savings(hour: Mapping[str, Any]) -> Text:
    tokens, priced = hour["saved_tokens"], hour["priced_tokens"]
    time = "unknown time" if tokens and not priced else _duration(hour["saved_seconds"])
    least = "at least " if 0 < priced < PRICED_SHARE * tokens else ""
    return Text(f"saved      {_count(tokens)} tokens, {least}{time} of prefill in the last hour")


def _times(fleet: Mapping[str, Any]) -> Table:
    table = _table("first token, 1 h", "p50", "p95", "p99")
    for name in ("warm", "cold"):
        latency = fleet["ttft"][name]
        table.add_row(name, *(_seconds(latency[quantile]) for quantile in ("p50", "p95", "p99")))
    table.caption, table.caption_justify = _speedup(fleet["ttft"]), "left"
    return table


def _speedup(ttft: Mapping[str, Any]) -> str:
    """How warm compares with cold, as far as there are enough streams of both."""
    if times := ttft["speedup"]:
        return f"{times['ratio']:.2f}x faster ({times['low']:.2f} to {times['high']:.2f})"
    missing = {name: ttft["enough"] - ttft[name]["count"] for name in ("warm", "cold")}
    lacking = " and ".join(f"{count} more {name}" for name, count in missing.items() if count > 0)
    return f"{lacking} to compare"


def delivered_rates(trends: Mapping[str, Any]) -> list[float | None]:
    """The fleet's delivered hit rate in each step; None where nothing was asked."""
    sums = {step["time"]: step["sums"] for step in trends["steps"]}
    rates: list[float | None] = []
    for ago in range(COURSE_SECONDS, 0, -trends["step_seconds"]):
        step = sums.get(trends["end"] - ago, {})
        prompt, delivered = step.get(PROMPT_TOKENS), step.get(DELIVERED_TOKENS, 0)
        rates.append(delivered / prompt if prompt else None)
    return rates


def sparkline(rates: Sequence[float | None]) -> str:
    """Rates as bars, one cell each; a blank where there is none."""
    top = len(BARS) - 1
    return "".join(" " if rate is None else BARS[min(top, int(rate * len(BARS)))] for rate in rates)


def _misses(fleet: Mapping[str, Any]) -> Table:
    """Why tokens were computed again, the most frequent reason first."""
    window, misses = "5 min", fleet["recent"]["misses"]
    if not any(misses.values()):
        window, misses = "1 h", fleet["hour"]["misses"]
    total = sum(misses.values())
    table = _table(f"computed again, {window}", "share", "tokens")
    table.add_column("", no_wrap=True)
    for reason, tokens in sorted(misses.items(), key=lambda item: -item[1]):
        if tokens:
            cells = max(1, round(BAR_CELLS * tokens / total))
            bar = Text("█" * cells, style=REASONS.get(reason, "white"))
            table.add_row(Text(_plain(reason)), f"{tokens / total:.1%}", _count(tokens), bar)
    if not total:
        table.add_row("nothing", "", "", "")
    return table


def _alarms(alarms: Sequence[Mapping[str, Any]]) -> Iterable[RenderableType]:
    for alarm in alarms[:MAX_ALARMS]:
        text = f"! {datetime.fromtimestamp(alarm['since']):%H:%M} {_plain(alarm['text'])}"
        yield Text(text, style="bold yellow", no_wrap=True, overflow="ellipsis")
    if len(alarms) > MAX_ALARMS:
        yield Text(f"  and {len(alarms) - MAX_ALARMS} more alarms", style="yellow")


def _replicas(replicas: Sequence[Mapping[str, Any]], rows: int, wide: bool) -> Iterable[RenderableType]:
    """The replicas with the most to do."""
    table = _table("replica", "state", "run+wait", "booked", "queued", "kv", "blocks", "hit 5m")
    table.columns[0].ratio, table.columns[0].overflow = 1, "ellipsis"
    table.columns[1].justify = "left"
    table.expand = True
    if wide:
        for heading in ("hit 1h", "requests 5m"):
            table.add_column(heading, justify="right", no_wrap=True)
    for replica in sorted(replicas, key=_busiest_first)[:rows]:
        load, recent = replica["load"], replica["recent"]
        cells: list[str | Text] = [
            Text(_plain(replica["replica"])),
            _state(replica),
            f"{load['running']}+{load['waiting']}",
            str(load["booked"] + load["booked_by_others"]),
            _count(load["queued_tokens"]),
            f"{load['kv_usage']:.0%}",
            _count(replica["owned_blocks"]),
            _rate(recent["delivered"]),
        ]
        if wide:
            cells += [_rate(replica["hour"]["delivered"]), _count(recent["requests"])]
        table.add_row(*cells)
    yield table if replicas else Text("no replicas", style="yellow")
    hidden = len(replicas) - rows
    yield Text(
        "q quits" + (f"; {hidden} replicas with less to do not shown" if hidden > 0 else ""), style="dim"
    )


def _busiest_first(replica: Mapping[str, Any]) -> tuple[float, int, str]:
    load = replica["load"]
    return -load["queued_tokens"], -(load["running"] + load["waiting"]), replica["replica"]


def _state(replica: Mapping[str, Any]) -> Text:
    state = (
        "unreachable" if not replica["reachable"] else "drained" if replica["drained"] else replica["state"]
    )
    text = Text(_plain(state), style=STATE_COLOURS.get(state, "white"))
    return text.append(" !", style="bold yellow") if replica["alarms"] else text


def _rate(rate: float | None) -> Text:
    if rate is None:
        return Text("-", style="dim")
    colour = "green" if rate >= HEALTHY else "red" if rate < LOW else "yellow"
    return Text(f"{rate:.1%}", style=colour)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _count(number: float) -> str:
    """At most five characters."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.{1 if number < 100 * size else 0}f}{letter}"
    return f"{number:.1f}" if 0 < number < 10 and number != int(number) else f"{number:.0f}"


def _plain(text: object) -> str:
    """Without what a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in str(text))
