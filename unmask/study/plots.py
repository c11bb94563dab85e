"""A study's figures as SVG files for documents: curves against a budget, final scores as bars.

They stand on a white ground of their own, so that they read the same on light and dark pages.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from unmask.study.curves import BUDGETS, Curve
from unmask.study.statistics import Array

COLOURS = (
    "#0b7a70", "#bb5208", "#4557c9", "#a8327a", "#66760f",
    "#1679ad", "#8a5a3c", "#66707b", "#c22f3d", "#2f2a86",
)  # fmt: skip
WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 44, 52
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#3c444d}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#e6e2d9}.axis{stroke:#a7a196}.band{opacity:.09}"
    ".curve{fill:none;stroke-width:2;stroke-linejoin:round}"
)


def curve_plot(curves: Sequence[Curve], budget: str, title: str, *, percent: bool) -> str:
    """Mean curves with their bands against one budget."""
    unit, name = _unit(curves, budget)
    right = max((float(curve.spent[budget][-1]) for curve in curves), default=1.0) or 1.0
    values = [edge for curve in curves for edge in (*curve.low, *curve.high)]
    low = min([0.0, *values]) if percent else min(values, default=0.0)
    high = max(values, default=1.0)
    high = high * 1.05 if high > low else low + 1.0
    across = _Scale(0.0, right, LEFT, WIDTH - RIGHT)
    up = _Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = _frame(across, up, unit, percent)
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, name, anchor="middle"))
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        xs = [across(x) for x in curve.spent[budget]]
        edges = [*zip(xs, _mapped(up, curve.high), strict=True)]
        edges += reversed([*zip(xs, _mapped(up, curve.low), strict=True)])
        parts.append(f'<path class="band" fill="{colour}" d="{_path(edges)}Z"/>')
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        points = [
            *zip([across(x) for x in curve.spent[budget]], _mapped(up, curve.mean), strict=True)
        ]
        parts.append(f'<path class="curve" stroke="{colour}" d="{_path(points)}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        y = TOP + 8 + 19 * index
        x = WIDTH - RIGHT + 16
        parts.append(f'<path class="curve" stroke="{colour}" d="M{x} {y}h18"/>')
        parts.append(_text(x + 24, y + 4, curve.method))
    return _document(HEIGHT, title, parts)


def interval_plot(
    scores: Mapping[str, Mapping[str, float]], points: Mapping[str, Sequence[float]], title: str,
    *, percent: bool,
) -> str:  # fmt: skip
    """Interquartile mean with its interval, and each run as a dot, a row per method.

    Args:
        scores: by method "iqm", "low" and "high".
        points: by method, its runs.
        title: of the figure.
        percent: write scores as percentages.
    """
    bottom = TOP + 34 * len(scores)
    everything = [value for row in scores.values() for value in row.values()]
    everything += [value for runs in points.values() for value in runs]
    low, high = min([0.0, *everything]), max(everything, default=1.0)
    across = _Scale(low, high * 1.05 if high > low else low + 1.0, RIGHT, WIDTH - 24)
    parts = []
    for tick in _ticks(across.low, across.high):
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(_text(x, bottom + 18, _label(tick, percent), anchor="middle"))
    for index, (method, row) in enumerate(scores.items()):
        colour, y = COLOURS[index % len(COLOURS)], TOP + 17 + 34 * index
        from_, to = across(row["low"]), across(row["high"])
        parts.append(_text(RIGHT - 14, y + 4, method, anchor="end"))
        parts.append(
            f'<rect x="{from_:.1f}" y="{y - 8}" width="{max(to - from_, 1):.1f}" height="16" '
            f'rx="3" fill="{colour}" opacity=".22"/>'
        )
        x = across(row["iqm"])
        parts.append(f'<path stroke="{colour}" stroke-width="3" d="M{x:.1f} {y - 9}v18"/>')
        parts += [
            f'<circle cx="{across(value):.1f}" cy="{y}" r="3" fill="{colour}"/>'
            for value in points[method]
        ]
    return _document(bottom + 32, title, parts)


class _Scale:
    """Numbers from `low` to `high` as pixels between two edges."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self.low, self.high, self._first, self._last = low, high, first, last

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._first + share * (self._last - self._first)


def _frame(across: _Scale, up: _Scale, unit: float, percent: bool) -> list[str]:
    parts = []
    for tick in _ticks(up.low, up.high):
        y = up(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, y + 4, _label(tick, percent), anchor="end"))
    for tick in _ticks(across.low / unit, across.high / unit):
        x = across(tick * unit)
        parts.append(f'<path class="axis" d="M{x:.1f} {HEIGHT - BOTTOM}v5"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 19, f"{tick:,g}", anchor="middle"))
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return parts


def _unit(curves: Sequence[Curve], budget: str) -> tuple[float, str]:
    longest = max((float(curve.spent[budget][-1]) for curve in curves), default=0.0)
    name = BUDGETS[budget]
    if budget == "time":
        return (60.0, f"{name} (minutes)") if longest >= 120 else (1.0, f"{name} (seconds)")
    return (1000.0, f"{name}, thousands") if longest >= 10_000 else (1.0, name)


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _mapped(scale: _Scale, values: Array) -> list[float]:
    return [scale(float(value)) for value in values]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _label(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{html.escape(text)}</text>'


def _document(height: int, title: str, parts: Sequence[str]) -> str:
    heading = _text(24, 26, title, style="title")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{heading}{"".join(parts)}</svg>\n'
    )
