"""What a study has found so far, read from its folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask.config import CompareConfig
from unmask.recipe import load_config
from unmask.report.run_folder import RunRecord, number, read_run
from unmask.study.plan import STUDY_FILE, read_results, run_folder, show
from unmask.study.runner import last_error
from unmask.study.statistics import bootstrap_interval, interquartile_mean

COSTS = ("seconds", "completions", "forwards", "peak_memory_bytes")


@dataclass(frozen=True)
class MethodRuns:
    """The reported runs of one method.

    Attributes:
        name: of the method.
        runs: finished ones, by seed.
    """

    name: str
    runs: dict[int, RunRecord]


def read_study(folder: Path) -> CompareConfig:
    """The recipe of the study in `folder`.

    Raises:
        ValueError: if there is none.
    """
    return cast(CompareConfig, load_config([str(folder / STUDY_FILE)], "compare"))


def collect(folder: Path) -> tuple[dict[str, Any], list[MethodRuns]]:
    """The content of a study's results.json, and the runs that its curves come from.

    Returns:
        `measure`; `quantity`, "solved", or "reward" where no verifier says what is solved;
        `tuned`, the key or None; `methods` by name with `value` (chosen), `grid` (each value with
        its scores by seed and their mean, None where no run finished), `at_edge`, `runs` (by seed:
        score before and after, costs, folder), `score` (interquartile mean with its interval) and
        the mean `costs`; `unfinished`, a sentence for each run without results.
    """
    config = read_study(folder)
    unfinished: list[str] = []
    methods, records = {}, []
    quantities = set()
    for name in config.methods:
        grid, value = _grid(config, folder, name, unfinished)
        runs: dict[int, RunRecord] = {}
        for seed in config.seeds:
            found = None
            if value is not None or config.tune is None:
                found = _read(run_folder(folder, name, value, seed), unfinished, name, value, seed)
            if found is not None:
                runs[seed] = found
        rows = {str(seed): _row(run, config.measure, folder) for seed, run in runs.items()}
        quantities |= {row.pop("quantity") for row in rows.values()}
        methods[name] = {
            "value": value,
            "grid": grid,
            "at_edge": len(grid) > 2 and value in (grid[0]["value"], grid[-1]["value"]),
            "runs": rows,
            "score": _summary([row["after"] for row in rows.values()]),
            "costs": {
                cost: _mean([row[cost] for row in rows.values() if row[cost] is not None])
                for cost in COSTS
            },
        }
        records.append(MethodRuns(name, runs))
    results = {
        "measure": config.measure,
        "quantity": "reward" if "reward" in quantities else "solved",
        "tuned": config.tune.key if config.tune else None,
        "methods": methods,
        "unfinished": unfinished,
    }
    return results, records


def chosen_value(config: CompareConfig, folder: Path, method: str) -> Any:
    """The value of the grid that tuning chose for a method; None where nothing could be chosen."""
    return _grid(config, folder, method, [])[1]


def _grid(
    config: CompareConfig, folder: Path, method: str, unfinished: list[str]
) -> tuple[list[dict[str, Any]], Any]:
    """Scores of each value, and the best: only values whose runs have all finished can win."""
    tune = config.tune
    grid: list[dict[str, Any]] = []
    for value in tune.values if tune else []:
        scores: dict[str, float | None] = {}
        for seed in tune.seeds if tune else []:
            run = _read(run_folder(folder, method, value, seed), unfinished, method, value, seed)
            scores[str(seed)] = None if run is None else _row(run, config.measure, folder)["after"]
        known = [score for score in scores.values() if score is not None]
        whole = len(known) == len(scores)
        grid.append({"value": value, "scores": scores, "mean": _mean(known) if whole else None})
    scored = [row for row in grid if row["mean"] is not None]
    best = max(scored, key=lambda row: row["mean"], default=None)
    return grid, None if best is None else best["value"]


def _read(run: Path, unfinished: list[str], method: str, value: Any, seed: int) -> RunRecord | None:
    if read_results(run) is not None:
        return read_run(run)
    at = "" if value is None else f" at {show(value)}"
    unfinished.append(f"{method}{at}, seed {seed}: {last_error(run)}")
    return None


def _row(run: RunRecord, measure: str, study: Path) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    quantity = "accuracy"
    for when in ("before", "after"):
        measured = _mapping(_mapping(run.results.get(when)).get(measure))
        if number(measured.get("accuracy")) is None:
            quantity = "reward"
        scores[when] = number(measured.get(quantity))
    costs = {cost: number(run.results.get(cost)) for cost in COSTS}
    return {
        "quantity": quantity,
        "folder": str(run.folder.relative_to(study)),
        **scores,
        **costs,
    }


def _mapping(value: Any) -> dict[str, Any]:
    """What a broken results.json may hold instead counts as nothing."""
    return value if isinstance(value, dict) else {}


def _summary(scores: Sequence[float | None]) -> dict[str, float] | None:
    known = [score for score in scores if score is not None]
    if not known:
        return None
    low, high = bootstrap_interval([known])
    return {"iqm": float(interquartile_mean(known)), "low": low, "high": high}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
