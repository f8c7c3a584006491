"""The results as a table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from loadtest.replay.figures import Column, Mark, Row, rows_by_load, shown_columns

SYMBOLS = {Mark.BEST: "●", Mark.NEAR: "○", Mark.NONE: " "}
LEGEND = "● best at this load   ○ within 2% of it   medians over seeds"
BREAKS = {"Imbalance": "Imbal-\nance", "Utilisation": "Utili-\nsation", "Failures": "Fail-\nures"}
"""Where a heading is wider than its figures."""
STYLES = {Mark.BEST: "bold", Mark.NEAR: "", Mark.NONE: ""}


def results_table(rows: Sequence[Row], default: str) -> Table:
    """One section per load. The default policy's name is bold."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1), caption=LEGEND, caption_justify="left"
    )
    table.add_column("policy", no_wrap=True, min_width=8)
    columns = shown_columns(rows)
    for column in columns:
        heading = BREAKS.get(column.label, column.label.replace(" ", "\n"))
        width = max(len(row.text(column)) for row in rows) + 1
        unit = f" {column.unit}" if column.unit else ""
        table.add_column(f"{heading}{unit} ", justify="right", no_wrap=True, min_width=width)
    for load, group in rows_by_load(rows).items():
        table.add_row(Text(f"load {load:g}", style="underline"))
        for number, row in enumerate(group):
            name = Text(row.policy, style="bold" if row.policy == default else "")
            cells = [_cell(row, column) for column in columns]
            table.add_row(name, *cells, end_section=number == len(group) - 1)
    return table


def _cell(row: Row, column: Column) -> Text:
    mark = row.marks[column.key]
    return Text(f"{row.text(column)}{SYMBOLS[mark]}", style=STYLES[mark])
