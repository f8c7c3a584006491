"""How a start that takes a while is shown."""

import io

from rich.console import Console

from cluster.process.progress import step


def test_elsewhere_than_on_a_terminal_each_change_is_one_line():
    """However often the same is said, and however long it takes."""
    file = io.StringIO()
    with step(Console(file=file, width=100), "Model") as current:
        for detail in ("reading", "reading", "reading", "writing"):
            current.update(detail)
        current.done("/models/m")
    lines = [line.split(" (")[0].strip() for line in file.getvalue().splitlines()]
    assert lines == ["… Model: reading", "… Model: writing", "✔ Model: /models/m"]
