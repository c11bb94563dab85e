"""The files of a diagnosis: its numbers as JSON, and a page that draws them without any script."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from unmask.report.page import asset, csp_hash

WIDTH, HEIGHT = 620, 340
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 14, 40

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width">
<title>diagnosis of $title</title>
<style>$style</style>
<main>
<h1>Diagnosis of $title</h1>
<p>$about</p>
<p class="advice">$advice</p>
$figures
$table
</main>
</html>
""")

STYLE = """
main { max-width: 1320px; margin: 0 auto; padding: 24px 16px; font-family: var(--sans); }
main p { margin: 10px 0; }
.advice { font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 16px; }
figure { margin: 0; padding: 14px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); }
figcaption { margin-bottom: 8px; }
svg { width: 100%; height: auto; font: 11px var(--sans); }
.legend svg { width: 22px; }
svg text { fill: var(--muted); }
svg .axis { stroke: var(--grid); }
svg .limit { stroke: var(--bad); stroke-dasharray: 5 4; fill: none; }
svg polyline { fill: none; stroke-width: 1.8; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 12px; }
.scroll { overflow-x: auto; margin-top: 20px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 3px 12px; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tr.own td:first-child { font-weight: 700; }
"""
COLOURS = 8
DASHES = ("none", "6 3")

Points = list[tuple[float, float]]


def write_diagnosis(folder: Path, result: dict[str, Any]) -> Path:
    """Write `diagnose.json` and `diagnose.html` and return the page's path.

    Args:
        folder: created if missing; what else it holds is left alone.
        result: of `unmask.diagnosis.run.diagnose`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "diagnose.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = folder / "diagnose.html"
    page.write_text(render(result), encoding="utf-8")
    return page


def render(result: dict[str, Any]) -> str:
    """The page of a diagnosis."""
    style = asset("theme.css") + STYLE + _colour_rules()
    target = result["target"]
    how = "enumerated"
    if target["num_draws"] is not None:
        how = f"standard error {target['se']:.2g}, {target['num_draws']} draws each"
    about = (
        f"{result['completions']} completions of {result['prompts']} prompts of "
        f"{result['task']}, {result['canvas']} tokens each, seed {result['seed']}. Mean ELBO "
        f"{target['elbo']:.4g} nats ({how}); standard deviation between completions of one prompt "
        f"{result['spread']:.3g} nats."
    )
    return PAGE.substitute(
        policy=f"default-src 'none'; style-src '{csp_hash(style)}'",
        title=html.escape(str(result["model"])),
        style=style,
        about=html.escape(about),
        advice=html.escape(result["advice"]),
        figures=_figures(result),
        table=_table(result),
    )


def bias_text(row: dict[str, Any]) -> str:
    """A bias with its standard error, marked ~0 where its own noise explains it."""
    mark = "~0" if abs(row["bias"]) <= 2 * row["bias_se"] else "  "
    return f"{row['bias']:+.3f} ± {row['bias_se']:.3f} {mark}"


def _figures(result: dict[str, Any]) -> str:
    names = list(dict.fromkeys(row["estimator"] for row in result["estimates"]))

    def lines(key: str) -> dict[str, Points]:
        return {
            name: [(r["views"], r[key]) for r in result["estimates"] if r["estimator"] == name]
            for name in names
        }

    limit = result["share"] * result["spread"]
    rule = f"dashed: {result['share']:g} x the spread between completions of one prompt"
    views = "forward passes per estimate"
    snr = {result["own"]: [(r["num_mc"], r["snr"] or 0) for r in result["gradients"]]}
    own = f"ESPO's gradient over redraws of {result['own']}, rollouts held fixed"
    figures = [
        _figure("Standard deviation", f"of one estimate, nats; {rule}", lines("std"), views, limit),
        _figure("Error", "root mean square against the ELBO, nats", lines("rmse"), views),
        _figure("Gradient signal / noise", own, snr, "num_mc"),
    ]
    return f'<div class="figures">{"".join(figures)}</div>'


def _figure(
    title: str, about: str, lines: dict[str, Points], xlabel: str, limit: float | None = None
) -> str:
    legend = "".join(
        f'<span><svg viewBox="0 0 22 8">'
        f'<polyline class="{_line_class(i)}" points="0,4 22,4"/></svg> {html.escape(name)}</span>'
        for i, name in enumerate(lines)
    )
    return (
        f"<figure><figcaption><strong>{html.escape(title)}</strong><br>"
        f'<span class="muted">{html.escape(about)}</span></figcaption>'
        f"{_svg(lines, xlabel, limit)}"
        f'<div class="legend">{legend}</div></figure>'
    )


def _svg(lines: dict[str, Points], xlabel: str, limit: float | None) -> str:
    """A chart with two logarithmic axes; 0, and what rounding makes of it, has no place on one."""
    floor = 1e-5 * max(y for points in lines.values() for _, y in points)
    shown = {name: [(x, y) for x, y in points if y > floor] for name, points in lines.items()}
    everything = [point for points in shown.values() for point in points]
    if not everything:
        return f'<svg viewBox="0 0 {WIDTH} 30"><text x="0" y="20">nothing above 0</text></svg>'
    heights = [y for _, y in everything] + ([limit] if limit else [])
    across = _Log([x for x, _ in everything], LEFT, WIDTH - RIGHT, base=2)
    up = _Log(heights, HEIGHT - BOTTOM, TOP, base=10)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for tick in across.ticks:
        x = across.place(tick)
        parts.append(f'<path class="axis" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{tick:g}</text>')
    for tick in up.ticks:
        y = up.place(tick)
        parts.append(f'<path class="axis" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{xlabel}</text>')
    if limit:
        parts.append(f'<path class="limit" d="M{LEFT} {up.place(limit):.1f}H{WIDTH - RIGHT}"/>')
    for index, (name, points) in enumerate(shown.items()):
        kind, title = _line_class(index), f"<title>{html.escape(name)}</title>"
        places = [(across.place(x), up.place(y)) for x, y in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{kind}" points="{joined}">{title}</polyline>')
        parts += [
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6">{title}</circle>'
            for x, y in places
        ]
    return "".join([*parts, "</svg>"])


class _Log:
    """A logarithmic axis from `start` to `end` pixels that holds all values, with its ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, base: int) -> None:
        logs = [math.log(value, base) for value in values]
        # Whole powers at both ends: a tick at each end, and room for a single value.
        self._low = math.floor(min(logs) + 1e-9)
        self._high = max(math.ceil(max(logs) - 1e-9), self._low + 1)
        self._base, self._start, self._end = base, start, end
        step = max(1, (self._high - self._low) // 8)
        self.ticks = [float(base) ** k for k in range(self._low, self._high + 1, step)]

    def place(self, value: float) -> float:
        """Where a value lies, in pixels."""
        share = (math.log(value, self._base) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _table(result: dict[str, Any]) -> str:
    heads = ("estimator", "num_mc", "views", "std", "bias ± se", "rmse", "ms")
    rows = []
    for row in result["estimates"]:
        own = ' class="own"' if row["estimator"] == result["own"] else ""
        cells = (
            html.escape(row["estimator"]),
            row["num_mc"],
            row["views"],
            f"{row['std']:.3f}",
            bias_text(row),
            f"{row['rmse']:.3f}",
            f"{1000 * row['seconds']:.2f}",
        )
        rows.append(f"<tr{own}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _line_class(index: int) -> str:
    return f"line-{index % (COLOURS * len(DASHES))}"


def _colour_rules() -> str:
    rules = []
    for index in range(COLOURS * len(DASHES)):
        colour, dash = f"var(--series-{index % COLOURS + 1})", DASHES[index // COLOURS]
        rules.append(f"polyline.line-{index} {{ stroke: {colour}; stroke-dasharray: {dash}; }}")
        rules.append(f"circle.line-{index} {{ fill: {colour}; }}")
    return "\n".join(rules)
