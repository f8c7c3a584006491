"""What ``warmroute check`` found."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """Lines for people, and the verdict."""

    lines: list[str] = field(default_factory=list)
    agree: bool = True

    def differ(self, line: str) -> None:
        """Add a line that says what is wrong."""
        self.lines.append(line)
        self.agree = False
