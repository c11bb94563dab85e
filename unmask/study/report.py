"""A study's results.json, figures, table and page, written from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.report.headline import environment_rows
from unmask.report.page import assemble
from unmask.report.series import Column, rounded
from unmask.study.curves import BUDGETS, Curve, held_out_curves, training_curves
from unmask.study.plan import STUDY_FILE, show
from unmask.study.plots import curve_plot, interval_plot
from unmask.study.results import MethodRuns, collect

STYLES = ("theme.css", "layout.css", "charts.css", "study.css")
SCRIPTS = ("core.js", "scale.js", "chart.js", "board.js", "provenance.js", "study.js")
PLOTS = {"completions": "completions", "forwards": "forwards", "time": "seconds"}


def report_study(folder: Path) -> dict[str, Any]:
    """Write what a study has found so far: results.json, plots/*.svg, table.md and report.html.

    Returns:
        The content of results.json.

    Raises:
        ValueError: if `folder` holds no study.
    """
    results, methods = collect(folder)
    solved = results["quantity"] == "solved"
    curves = held_out_curves(methods, results["measure"], "accuracy" if solved else "reward")
    _add_equal_budget(results, curves)
    _write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    _write(folder / "table.md", markdown_table(results))
    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in _figures(results, curves).items():
        _write(folder / "plots" / f"{name}.svg", figure)
    page = assemble(
        folder.resolve().name, _payload(folder, results, methods, curves), STYLES, SCRIPTS
    )
    _write(folder / "report.html", page)
    return results


def markdown_table(results: dict[str, Any]) -> str:
    """The main table for documents, a row per method."""
    percent = results["quantity"] == "solved"
    budget = results["equal_forwards"]
    at_equal = "" if budget is None else f" at {_thousands(budget)} forwards |"
    lines = [
        f"| method | {results['tuned'] or 'setting'} | {results['quantity']} (IQM) | 95 % interval "
        f"|{at_equal} forwards | time | peak memory |",
        "|---|---|---|---|" + ("---|" if at_equal else "") + "---|---|---|",
    ]
    for name, row in results["methods"].items():
        score, costs = row["score"], row["costs"]
        value = "-" if row["value"] is None else show(row["value"])
        cells = [
            name.replace("|", "\\|"),
            value + (" (edge of the grid)" if row["at_edge"] else ""),
        ]
        if score is None:
            lines.append("| " + " | ".join([*cells, *["-"] * (6 if at_equal else 5)]) + " |")
            continue
        cells += [_score(score["iqm"], percent)]
        cells += [f"{_score(score['low'], percent)} to {_score(score['high'], percent)}"]
        if at_equal:
            cells.append(_score(row["at_equal_forwards"], percent))
        cells += [_thousands(costs["forwards"]), f"{costs['seconds'] / 60:.1f} min"]
        cells += [f"{costs['peak_memory_bytes'] / 2**20:.0f} MiB"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _add_equal_budget(results: dict[str, Any], curves: Sequence[Curve]) -> None:
    """The held-out score of every method at the forwards that the cheapest one took in all."""
    spent = [float(curve.spent["forwards"][-1]) for curve in curves]
    results["equal_forwards"] = min(spent, default=None)
    found = {curve.method: curve.at("forwards", min(spent)) for curve in curves}
    for name, row in results["methods"].items():
        row["at_equal_forwards"] = found.get(name)


def _figures(results: dict[str, Any], curves: Sequence[Curve]) -> dict[str, str]:
    percent = results["quantity"] == "solved"
    title = f"Held-out problems {results['quantity']}" if percent else "Held-out reward"
    figures = {
        f"{results['quantity']}-by-{PLOTS[budget]}": curve_plot(
            curves, budget, f"{title}: mean over seeds, 95 % band", percent=percent
        )
        for budget in BUDGETS
    }
    scored = {name: row for name, row in results["methods"].items() if row["score"]}
    figures[f"{results['quantity']}-final"] = interval_plot(
        {name: row["score"] for name, row in scored.items()},
        {name: [run["after"] for run in row["runs"].values()] for name, row in scored.items()},
        f"{title}: interquartile mean, 95 % interval, seeds",
        percent=percent,
    )
    return figures


def _payload(
    folder: Path, results: dict[str, Any], methods: Sequence[MethodRuns], held_out: Sequence[Curve]
) -> dict[str, Any]:
    percent = results["quantity"] == "solved"
    axes: dict[str, dict[str, Column]] = {}
    charts = []
    if held_out:
        chart = _chart(
            f"{results['quantity'].capitalize()}, held out",
            "evaluations; mean over seeds, whiskers: 95 % bootstrap interval",
            percent,
        )
        charts.append({**chart, "points": [_line(curve, "held out", axes) for curve in held_out]})
    for key, title in (("solved", "Solved in training"), ("reward", "Reward in training")):
        curves = training_curves(methods, key)
        if curves:
            about = (
                "of each round's completions, before it is learnt from; mean over seeds, band: "
                "95 % bootstrap interval"
            )
            chart = _chart(title, about, key == "solved")
            charts.append({**chart, "lines": [_line(curve, key, axes) for curve in curves]})
    first = next((run for method in methods for run in method.runs.values()), None)
    return {
        "name": folder.resolve().name,
        "results": results,
        "axis_names": BUDGETS,
        "axes": axes,
        "panels": [{"title": "Learning curves", "folded": False, "charts": charts, "missing": []}]
        if charts
        else [],
        "remarks": [
            "Forwards count sequences: each denoising step of a rollout and each view of a "
            "likelihood under the current, old and reference policy is one; backward passes and "
            "measuring are not counted. Wall-clock includes measuring."
        ],
        "config": (folder / STUDY_FILE).read_text("utf-8"),
        "environment": environment_rows(first.environment) if first else [],
    }


def _chart(title: str, about: str, percent: bool) -> dict[str, Any]:
    return {
        "title": title,
        "about": about,
        "format": "percent" if percent else "number",
        "reference": None,
        "lines": [],
        "points": [],
    }


def _line(curve: Curve, kind: str, axes: dict[str, dict[str, Column]]) -> dict[str, Any]:
    """A curve as the page draws it; its horizontal positions go into `axes`."""
    axis = f"{curve.method}/{kind}"
    axes[axis] = {name: rounded(xs.tolist(), digits=9) for name, xs in curve.spent.items()}
    edges = {"y": curve.mean, "low": curve.low, "high": curve.high}
    drawn = {name: rounded(values.tolist()) for name, values in edges.items()}
    return {"name": curve.method, "axis": axis, **drawn}


def _score(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.3f}"


def _thousands(value: float) -> str:
    return f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:.0f}"


def _write(path: Path, text: str) -> None:
    """Replace a file in one move."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)
