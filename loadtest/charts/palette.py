"""The look of every policy: the same in all plots, told apart without relying on colour alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EMPHASIS = ("#d55e00", "#ff8b3d")
"""The default policy's colour on light and on dark ground."""
OTHERS = (
    ("#3548d8", "#6d7cf5"),
    ("#0d4a70", "#4fb3f2"),
    ("#2a9d7c", "#63eaa5"),
    ("#5f4208", "#9c6f38"),
    ("#cc4fc0", "#f0cdf0"),
    ("#2c2c2c", "#8a8a8a"),
)
"""They differ in lightness too, so that they stay apart with every kind of colour blindness."""
DASHES = ((), (4.0, 1.6), (1.2, 1.4), (6.0, 1.4, 1.2, 1.4))
"""Dashes, on and off, in widths of the line. When the colours are used up, the next dash begins."""

INK, MUTED, GRID, PAPER = "#1b1d21", "#5d636b", "#e2e4e8", "#fefefe"
GROUND = {
    "ink": (INK, "#e7e9ec"),
    "muted": (MUTED, "#a2a8b1"),
    "grid": (GRID, "#30343a"),
    "paper": (PAPER, "#15171a"),
}
"""Everything that is not a policy: on light and on dark ground."""


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one policy is drawn."""

    number: int
    light: str
    dark: str
    dash: tuple[float, ...]
    width: float
    """In points."""

    @property
    def name(self) -> str:
        """The name of the CSS class, and of the CSS variable with the colour."""
        return f"series-{self.number}"


def series_styles(policies: Sequence[str], default: str) -> dict[str, SeriesStyle]:
    """One style per policy, the default first and emphasised."""
    styles: dict[str, SeriesStyle] = {}
    if default in policies:
        styles[default] = SeriesStyle(0, *EMPHASIS, dash=(), width=2.6)
    for place, policy in enumerate(policy for policy in policies if policy != default):
        round_, colour = divmod(place, len(OTHERS))
        dash = DASHES[round_ % len(DASHES)]
        styles[policy] = SeriesStyle(place + 1, *OTHERS[colour], dash=dash, width=1.3)
    return styles


def css_variables(styles: Mapping[str, SeriesStyle]) -> dict[str, tuple[str, str]]:
    """Name of each CSS variable to its colour on light and on dark ground."""
    return GROUND | {style.name: (style.light, style.dark) for style in styles.values()}
