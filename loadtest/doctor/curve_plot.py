"""Hit rate against the size of the cache, as an SVG element that takes its colours from the page."""

import math
from collections.abc import Sequence

from loadtest.doctor.diagnosis import Sizing
from loadtest.doctor.wording import size

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 40
NAMES = {"now": "as it is", "mended": "all mended"}
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def curve_svg(sizing: Sizing) -> str:
    """The plot; "" when nothing is ever found."""
    lines = {"now": sizing.curve, "mended": sizing.curve_mended}
    capacities = [capacity for line in lines.values() for capacity, _ in line]
    if not capacities:
        return ""
    first, last = math.log2(min(capacities)), math.log2(max(capacities))
    span = max(last - first, 1.0)

    def x(capacity: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log2(capacity) - first) / span

    def y(rate: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - rate)

    parts = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(rate):.1f}" y2="{y(rate):.1f}" stroke="var(--grid)"/>'
        f'<text x="{LEFT - 8}" y="{y(rate) + 4:.1f}" text-anchor="end">{rate:.0%}</text>'
        for rate in RATES
    ]
    step = max(round(span / 5), 1)
    for power in range(math.ceil(first), math.floor(last) + 1, step):
        place = x(2.0**power)
        if place > WIDTH - 48:
            break  # its label would not fit
        label = _label(power, sizing)
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>')
    unit = "KV memory" if sizing.need.bytes_per_token else "tokens"
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">cache, {unit}</text>'
    )
    for name, line in lines.items():
        parts += _line(name, [(x(capacity), y(rate)) for capacity, rate in line])
    ends = ", ".join(f"{NAMES[name]} {line[-1][1]:.0%}" for name, line in lines.items() if line)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="Hit rate by size of the cache; at the right end: {ends}">{"".join(parts)}</svg>'
    )


def _line(name: str, points: Sequence[tuple[float, float]]) -> list[str]:
    if not points:
        return []
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    end = f"{WIDTH - RIGHT},{points[-1][1]:.1f}"
    dash = ' stroke-dasharray="6 4"' if name == "now" else ""
    return [f'<polyline points="{path} {end}" fill="none" stroke="var(--{name})" stroke-width="2.5"{dash}/>']


def _label(power: int, sizing: Sizing) -> str:
    per_token = sizing.need.bytes_per_token
    if per_token:
        return size(2.0**power * per_token)
    return f"{2.0**power / 1000:,.0f}k" if power >= 10 else f"{2**power}"
