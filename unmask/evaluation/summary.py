"""Completions -> pass@1, pass@k, maj@k with intervals, by condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from unmask.evaluation.samples import Row
from unmask.evaluation.statistics import majority_at_k, pass_at_k, rate_interval


def summarise_rows(rows: Sequence[Row], ks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Results of every condition, in the order of the rows.

    Args:
        rows: scored completions.
        ks: the k of pass@k and maj@k; one that a condition has too few samples for is left out.

    Returns:
        By condition `accuracy` with `low` and `high` (None without an exact verifier; the mean over
        problems, which is pass@1), `n` (problems), `num_samples`, `reward`, `length` and `steps`
        (means over completions), and `pass@k` and `maj@k` for k above 1, each with `value`, `low`
        and `high`.
    """
    by_condition: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        by_condition.setdefault(row["condition"], {}).setdefault(row["index"], []).append(row)
    return {
        name: _summarise(
            [sorted(group, key=lambda row: row["sample"]) for group in problems.values()], ks
        )
        for name, problems in by_condition.items()
    }


def _summarise(problems: Sequence[Sequence[Row]], ks: Sequence[int]) -> dict[str, Any]:
    every = [row for group in problems for row in group]
    rewards = [row["reward"] for row in every if not _missing(row["reward"])]
    verified = [group for group in problems if all(row["solved"] is not None for row in group)]
    result: dict[str, Any] = {"accuracy": None, "low": None, "high": None, "n": len(problems)}
    samples = min(len(group) for group in problems)
    if verified:
        rates = [_mean([row["solved"] for row in group]) for group in verified]
        accuracy, low, high = rate_interval(rates, samples)
        result = {"accuracy": accuracy, "low": low, "high": high, "n": len(verified)}
    result["num_samples"] = samples
    result["reward"] = _mean(rewards) if rewards else None
    for name in ("length", "steps"):
        values = [row[name] for row in every if name in row]
        result[name] = _mean(values) if values else None
    voting = all("answer" in row for row in every)
    for k in ks:
        if k == 1 or k > samples or not verified:
            continue
        counts = [(len(group), sum(row["solved"] == 1.0 for row in group)) for group in verified]
        rates = [pass_at_k(count, correct, k) for count, correct in counts]
        result[f"pass@{k}"] = _interval(rates, samples)
        if voting:
            votes = [
                majority_at_k([row["answer"] for row in group], [row["solved"] for row in group], k)
                for group in verified
            ]
            result[f"maj@{k}"] = _interval(votes, samples)
    return result


def _interval(rates: Sequence[float], samples: int) -> dict[str, float]:
    value, low, high = rate_interval(rates, samples)
    return {"value": value, "low": low, "high": high}


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
