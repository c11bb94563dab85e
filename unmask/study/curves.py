"""Learning curves of a study: means over seeds with bootstrap bands, against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask.report.run_folder import Row, RunRecord, number
from unmask.study.results import MethodRuns
from unmask.study.statistics import Array, bootstrap_band

# Budget -> what an axis of it is called.
BUDGETS = {
    "completions": "completions sampled",
    "forwards": "model forwards (sequences)",
    "time": "wall-clock",
}


@dataclass(frozen=True)
class Curve:
    """The mean curve of one method.

    Attributes:
        method: its name.
        spent: by budget, mean over seeds of what had been spent at each point.
        mean: over seeds, at each point.
        low: lower edge of the 95 % band.
        high: upper edge.
    """

    method: str
    spent: dict[str, Array]
    mean: Array
    low: Array
    high: Array

    def at(self, budget: str, spent: float) -> float:
        """The mean at a budget, on straight lines between the points."""
        return float(np.interp(spent, self.spent[budget], self.mean))


# The four values of a point: three budgets in the order of BUDGETS, then the score.
Point = tuple[float, float, float, float]


def held_out_curves(methods: Sequence[MethodRuns], measure: str, quantity: str) -> list[Curve]:
    """Curves of the evaluations: `quantity`, "accuracy" or "reward", of one measure."""
    return _curves(
        methods,
        [
            [_evaluations(run, measure, quantity) for run in method.runs.values()]
            for method in methods
        ],
    )


def training_curves(methods: Sequence[MethodRuns], key: str) -> list[Curve]:
    """Curves of a metric of the rollouts, each at what had been spent before it was sampled."""
    return _curves(
        methods, [[_rounds(run, key) for run in method.runs.values()] for method in methods]
    )


def _curves(methods: Sequence[MethodRuns], points: list[list[dict[int, Point]]]) -> list[Curve]:
    curves = []
    for method, runs in zip(methods, points, strict=True):
        rounds = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
        if not rounds:
            continue
        values = np.array([[run[number] for number in rounds] for run in runs])
        spent = values[..., :3].mean(axis=0)
        edges = bootstrap_band(values[..., 3])
        columns = {name: spent[:, index] for index, name in enumerate(BUDGETS)}
        curves.append(Curve(method.name, columns, *edges))
    return curves


def _evaluations(run: RunRecord, measure: str, quantity: str) -> dict[int, Point]:
    found = {}
    for row in run.evaluations:
        score = number((row.get(measure) or {}).get(quantity))
        point = _point(run, row, score)
        if point is not None:
            found[int(row["rollout"])] = point
    return found


def _rounds(run: RunRecord, key: str) -> dict[int, Point]:
    """By round, the metric of its completions, which the policy before the round has written."""
    found: dict[int, Point] = {}
    previous: Row = {"rollout": 0, "forwards": 0, "time": 0.0}
    for row in run.updates:
        if row["rollout"] != previous["rollout"]:
            # The last update of the round before says what had been spent.
            point = _point(run, previous, number(row.get(key)))
            if point is not None:
                found[int(row["rollout"])] = point
        previous = row
    return found


def _point(run: RunRecord, row: Row, score: float | None) -> Point | None:
    per_round = (number(run.results.get("completions")) or 0) / (
        number(run.results.get("rollouts")) or 1
    )
    forwards, time = number(row.get("forwards")), number(row.get("time"))
    if score is None or forwards is None or time is None:
        return None
    return int(row["rollout"]) * per_round, forwards, time, score
