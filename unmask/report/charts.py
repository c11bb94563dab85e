"""Decide which curves a run gets and hand them to the page as plain data.

The page draws what it is given; what a chart shows, and what its band means, is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unmask.report.run_folder import Row, RunRecord, number
from unmask.report.series import (
    Column,
    axes,
    bucket_size,
    bucketed,
    column,
    first_of_each_rollout,
    numeric_keys,
    repeats_within_rollouts,
    rounded,
)

MAX_EXTRA_CHARTS = 24
POSITION_KEYS = ("rollout", "step", "time")


@dataclass(frozen=True)
class ChartSpec:
    """What one chart of the training section shows.

    `columns` are the metrics drawn as lines, by legend name. `spread` is a metric drawn as a band
    of plus and minus its value; `low` and `high` are metrics drawn as the edges of a band.
    `evaluation` is the field of an evaluation that is drawn as points.
    """

    title: str
    about: str
    columns: dict[str, str]
    format: str = "number"
    spread: str | None = None
    low: str | None = None
    high: str | None = None
    reference: float | None = None
    evaluation: str | None = None


TRAINING_CHARTS = (
    ChartSpec(
        "Reward",
        "mean over the rollout; band: one standard deviation either side",
        {"training": "reward"},
        spread="reward_std",
        evaluation="reward",
    ),
    ChartSpec(
        "Solved",
        "share exactly solved; points: evaluation with its 95 % interval",
        {"training": "solved"},
        format="percent",
        evaluation="accuracy",
    ),
    ChartSpec("KL", "estimated divergence from the reference policy", {"kl": "kl"}),
    ChartSpec(
        "Ratio",
        "current over rollout policy; band: smallest to largest",
        {"mean": "ratio"},
        low="ratio_min",
        high="ratio_max",
        reference=1.0,
    ),
    ChartSpec(
        "Log-ratio",
        "quantiles over completions, draws or tokens, as the objective's ratio is",
        {
            "largest": "log_ratio_q100",
            "95 %": "log_ratio_q95",
            "75 %": "log_ratio_q75",
            "median": "log_ratio_q50",
            "25 %": "log_ratio_q25",
            "5 %": "log_ratio_q5",
            "smallest": "log_ratio_q0",
        },
        reference=0.0,
    ),
    ChartSpec(
        "Effective sample size",
        "share of the ratios that weigh in; 100 %: all weigh the same",
        {"share": "effective_sample_size"},
        format="percent",
    ),
    ChartSpec(
        "Estimate variance",
        "of a completion's likelihood estimate over its draws, nats squared",
        {"variance": "estimate_variance"},
    ),
    ChartSpec(
        "Clip fraction",
        "share of ratios outside the clipping range",
        {"clip fraction": "clip_fraction"},
        format="percent",
    ),
    ChartSpec("Gradient norm", "before clipping", {"gradient norm": "grad_norm"}),
    ChartSpec("Loss", "the objective that is minimised", {"loss": "loss"}),
    ChartSpec("Learning rate", "after warm-up and schedule", {"learning rate": "learning_rate"}),
    ChartSpec("Tokens per second", "whole step", {"tokens/s": "tokens_per_second"}),
    ChartSpec(
        "Completion length", "mean tokens up to the first EOS", {"tokens": "completion_length"}
    ),
    ChartSpec(
        "Groups without signal",
        "share of groups whose rewards are all equal",
        {"share": "frac_zero_std"},
        format="percent",
    ),
    ChartSpec(
        "Confidence",
        "mean probability of a token when it was revealed",
        {"confidence": "confidence"},
        format="percent",
    ),
    ChartSpec(
        "Where the time goes",
        "seconds",
        {"rollout": "seconds_rollout", "update": "seconds_update"},
    ),
)

SFT_CHARTS = (
    ChartSpec("Loss", "masked-diffusion loss", {"loss": "loss"}),
    ChartSpec("Gradient norm", "before clipping", {"gradient norm": "grad_norm"}),
    ChartSpec("Learning rate", "after warm-up and schedule", {"learning rate": "learning_rate"}),
)


def chart_panels(run: RunRecord) -> dict[str, Any]:
    """Return the axes and the panels of charts of `run`, ready for JSON.

    Returns:
        `axes`: by axis name ("updates", "rollouts", "evaluations", "sft"), the columns "rollout",
        "step" and "time" (seconds). `panels`: each with `title`, `folded`, `charts` and `missing`
        (titles of the charts whose metric the run never logged). A chart has `title`, `about`,
        `format`, `reference`, and `lines` and `points`, which name their axis and have the columns
        `y`, `low` and `high`. `remarks`: sentences on what the charts leave out.
    """
    tables = {
        "updates": _Table(run.updates),
        "rollouts": _Table([run.updates[i] for i in first_of_each_rollout(run.updates)]),
        "evaluations": _Table(run.evaluations),
        "sft": _Table(run.sft),
    }
    panels = []
    remarks: list[str] = []
    if run.updates or run.evaluations:
        panels.append(_panel("Training", TRAINING_CHARTS, tables, "updates"))
        panels.append(_extra_panel(tables, remarks))
    if run.sft:
        panels.append(_panel("Supervised fine-tuning", SFT_CHARTS, tables, "sft"))
    for name, table in tables.items():
        if table.size > 1:
            remarks.append(
                f"The curves over {name} are averaged: each point stands for {table.size} "
                "successive rows, and its band spans their smallest and largest value."
            )
    return {
        "axes": {name: table.axes() for name, table in tables.items() if table.rows},
        "panels": [panel for panel in panels if panel["charts"] or panel["missing"]],
        "remarks": remarks,
    }


class _Table:
    """Rows that share an axis, and how many of them one embedded point stands for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.size = bucket_size(len(rows))

    def axes(self) -> dict[str, Column]:
        return {
            name: rounded(bucketed(values, self.size), digits=9)
            for name, values in axes(self.rows).items()
        }

    def values(self, key: str, how: str = "mean") -> Column:
        return bucketed(column(self.rows, key), self.size, how)


def _panel(
    title: str, specs: Sequence[ChartSpec], tables: dict[str, _Table], axis: str
) -> dict[str, Any]:
    charts = [(spec, _chart(spec, tables, axis)) for spec in specs]
    return {
        "title": title,
        "folded": False,
        "charts": [chart for _, chart in charts if chart["lines"] or chart["points"]],
        "missing": [spec.title for spec, c in charts if not (c["lines"] or c["points"])],
    }


def _extra_panel(tables: dict[str, _Table], remarks: list[str]) -> dict[str, Any]:
    shown = {key for spec in TRAINING_CHARTS for key in spec.columns.values()}
    shown |= {key for spec in TRAINING_CHARTS for key in (spec.spread, spec.low, spec.high) if key}
    others = [
        key
        for key in numeric_keys(tables["updates"].rows)
        if key not in shown and key not in POSITION_KEYS
    ]
    parts = {key.removeprefix("rewards/"): key for key in others if key.startswith("rewards/")}
    specs = [ChartSpec("Rewards by part", "mean of each reward function", parts)] if parts else []
    singles = [key for key in others if key not in parts.values()]
    specs += [ChartSpec(key, "as logged", {key: key}) for key in singles[:MAX_EXTRA_CHARTS]]
    if len(singles) > MAX_EXTRA_CHARTS:
        remarks.append(
            f"{len(singles) - MAX_EXTRA_CHARTS} further metrics are in metrics.jsonl only: "
            f"this page shows {MAX_EXTRA_CHARTS} beside the usual ones."
        )
    return _panel("Further metrics", specs, tables, "updates") | {"folded": True}


def _chart(spec: ChartSpec, tables: dict[str, _Table], axis: str) -> dict[str, Any]:
    lines = [_line(name, key, spec, tables, axis) for name, key in spec.columns.items()]
    points = _evaluation_points(spec.evaluation, tables["evaluations"]) if spec.evaluation else []
    return {
        "title": spec.title,
        "about": spec.about,
        "format": spec.format,
        "reference": spec.reference,
        "lines": [line for line in lines if _any(line["y"])],
        "points": points,
    }


def _line(
    name: str, key: str, spec: ChartSpec, tables: dict[str, _Table], axis: str
) -> dict[str, Any]:
    if axis == "updates" and repeats_within_rollouts(tables["updates"].rows, key):
        axis = "rollouts"
    table = tables[axis]
    y = table.values(key)
    low: Column = []
    high: Column = []
    if spec.spread:
        spread = table.values(spec.spread)
        low, high = _shifted(y, spread, -1.0), _shifted(y, spread, 1.0)
    elif spec.low and spec.high:
        low, high = table.values(spec.low, "min"), table.values(spec.high, "max")
    elif table.size > 1:
        low, high = table.values(key, "min"), table.values(key, "max")
    return _drawn(name, axis, y, low, high)


def _evaluation_points(quantity: str, table: _Table) -> list[dict[str, Any]]:
    points = []
    for mode in ("greedy", "sampled"):
        measured = _Table([_as_dict(row.get(mode)) for row in table.rows])
        low: Column = []
        high: Column = []
        if quantity == "accuracy":
            low, high = measured.values("low"), measured.values("high")
        y = measured.values(quantity)
        if _any(y):
            points.append(_drawn(f"{mode} evaluation", "evaluations", y, low, high))
    return points


def _drawn(name: str, axis: str, y: Column, low: Column, high: Column) -> dict[str, Any]:
    has_band = _any(low) and _any(high)
    return {
        "name": name,
        "axis": axis,
        "y": rounded(y),
        "low": rounded(low) if has_band else None,
        "high": rounded(high) if has_band else None,
    }


def _shifted(values: Column, offsets: Column, sign: float) -> Column:
    return [
        None if value is None or offset is None else value + sign * offset
        for value, offset in zip(values, offsets, strict=True)
    ]


def _any(values: Column) -> bool:
    return any(number(value) is not None for value in values)


def _as_dict(value: Any) -> Row:
    return value if isinstance(value, dict) else {}
