"""The diagnosis for a terminal."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from loadtest.doctor.diagnosis import Diagnosis
from loadtest.doctor.kinds import REMEDIES
from loadtest.doctor.wording import (
    caveats,
    need_in_words,
    percent,
    points,
    size,
    title,
    verdict,
    where,
    worth,
)

MAX_OPENINGS = 10
MAX_PERSONAL = 15


def print_report(diagnosis: Diagnosis, console: Console) -> None:
    """The most valuable first."""
    facts, rates = diagnosis.facts, diagnosis.hit_rates
    console.print(f"\n[bold]{escape(verdict(diagnosis))}[/bold]\n")
    console.print(
        f"{facts.requests:,} requests in {facts.conversations:,} conversations, {facts.prompt_tokens:,} "
        f"prompt tokens ({facts.blocks:,} blocks of {facts.block_size}). Ideal hit rate, one endless cache: "
        f"{percent(rates.now)} now, {percent(rates.mended)} with all mended.\n"
    )
    for number, finding in enumerate(diagnosis.findings, start=1):
        share = percent(finding.requests / facts.requests)
        console.print(f"[bold]{number}. {title(finding)}[/bold]  +{points(finding.tokens, diagnosis)} points")
        rows = [
            ("Wins", worth(finding, diagnosis)),
            ("In", f"{finding.requests:,} requests ({share}); {where(finding)}"),
            ("Looks like", finding.example),
            ("Do", REMEDIES[finding.kind].advice),
        ]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        for name, text in rows:
            if text:
                grid.add_row(name, escape(text))
        console.print(Padding(grid, (0, 0, 1, 3)))
    _openings(diagnosis, console)
    _sizing(diagnosis, console)
    _personal(diagnosis, console)
    for note in caveats(diagnosis):
        console.print(f"[dim]{escape(note)}[/dim]")


def _table(title_: str, *columns: str) -> Table:
    table = Table(
        title=title_, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == len(columns) - 1 else "right")
    return table


def _openings(diagnosis: Diagnosis, console: Console) -> None:
    share = percent(diagnosis.shared_requests / max(diagnosis.facts.requests, 1))
    if not diagnosis.openings:
        console.print("No opening is shared by several conversations.\n")
        return
    table = _table(
        f"Shared openings: {len(diagnosis.openings)}; {share} of requests begin with something shared",
        "tokens", "conversations", "of requests", "begins with",
    )  # fmt: skip
    for opening in diagnosis.openings[:MAX_OPENINGS]:
        table.add_row(
            f"{opening.tokens:,}",
            f"{opening.conversations:,}",
            percent(opening.requests / diagnosis.facts.requests),
            escape(f"{opening.role}: {opening.excerpt}"),
        )
    console.print(table)
    console.print()


def _sizing(diagnosis: Diagnosis, console: Console) -> None:
    sizing = diagnosis.sizing
    console.print("[bold]Working set[/bold] (95% of what can be found)")
    console.print(f"  now: {need_in_words(sizing.need)}")
    if diagnosis.findings:
        console.print(f"  mended: {need_in_words(sizing.need_mended)}")
    table = _table(
        f"\nHit rate of a fleet, {size(sizing.need.kv_bytes_per_replica)} of KV cache each, approximately",
        "replicas", "requests go where their blocks are", "requests go anywhere",
    )  # fmt: skip
    for point in sizing.fleets:
        table.add_row(str(point.replicas), percent(point.aware), percent(point.blind))
    console.print(table)
    console.print()


def _personal(diagnosis: Diagnosis, console: Console) -> None:
    if not diagnosis.personal:
        return
    table = _table(
        f"Personal data in shared openings: {len(diagnosis.personal):,} values", "requests", "masked", "kind"
    )
    for one in diagnosis.personal[:MAX_PERSONAL]:
        table.add_row(f"{one.requests:,}", escape(one.masked), one.kind)
    console.print(table)
    console.print()
