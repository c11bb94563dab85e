"""Two evaluations of the same problems: is one model better, and on which prompts?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.evaluation.samples import SAMPLES_FILE, Row, read_samples
from unmask.evaluation.statistics import mcnemar, paired_interval
from unmask.generation import prompt_text


def compare_evaluations(first: Path, second: Path) -> dict[str, dict[str, Any]]:
    """A paired comparison of every condition that both have.

    Problems are paired by their content, whatever the wording of the prompts. McNemar's test takes
    the first completion of each problem; the difference and its interval take all of them.

    Args:
        first: a folder of `unmask eval`, its eval.json or its samples.jsonl.
        second: the same; a positive difference is in its favour.

    Returns:
        By condition: `first` and `second` (mean solved), `difference`, `low`, `high`, `n`, `p`
        (exact two-sided), `same_text` (fraction of equal first completions), and `won` and `lost`,
        the problems that only the second or only the first solves, each with `index` and `prompt`.

    Raises:
        ValueError: if a file is none, or there is nothing to pair.
    """
    left, right = _read(first), _read(second)
    common = [name for name in left if name in right]
    if not common:
        raise ValueError(
            f"{first} has the conditions {', '.join(left)} and {second} has {', '.join(right)}: "
            "measure both under one that is the same"
        )
    return {name: _compare(left[name], right[name], first, second) for name in common}


def _compare(
    left: dict[Any, list[Row]], right: dict[Any, list[Row]], first: Path, second: Path
) -> dict[str, Any]:
    keys = [key for key in left if key in right]
    if not keys:
        raise ValueError(
            f"{first} and {second} have no problem in common: measure both on the same data set"
        )
    won: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    rates, same = [], 0
    for key in keys:
        one, other = left[key], right[key]
        rates.append((_rate(one), _rate(other)))
        same += one[0]["completion"] == other[0]["completion"]
        before, after = one[0]["solved"], other[0]["solved"]
        if before != after:
            entry = {"index": other[0]["index"], "prompt": prompt_text(other[0]["prompt"])}
            (won if after > before else lost).append(entry)
    difference, low, high = paired_interval([after - before for before, after in rates])
    return {
        "first": math.fsum(before for before, _ in rates) / len(rates),
        "second": math.fsum(after for _, after in rates) / len(rates),
        "difference": difference,
        "low": low,
        "high": high,
        "n": len(keys),
        "p": mcnemar(len(won), len(lost)),
        "same_text": same / len(keys),
        "won": won,
        "lost": lost,
    }


def _rate(rows: Sequence[Row]) -> float:
    return math.fsum(row["solved"] for row in rows) / len(rows)


def _read(path: Path) -> dict[str, dict[Any, list[Row]]]:
    """Condition -> problem -> its completions, first sample first."""
    folder = path if path.is_dir() else path.parent
    file = path if path.suffix == ".jsonl" else folder / SAMPLES_FILE
    rows = read_samples(file)
    if any(row.get("solved") is None for row in rows) or not rows:
        raise ValueError(
            f"{file} holds completions that no exact verifier scored: finish the evaluation, or "
            "score them with --rescore and a task that has one"
        )
    found: dict[str, dict[Any, list[Row]]] = {}
    # A problem that occurs twice in a data set is two problems.
    occurrences: dict[tuple[str, Any], dict[int, int]] = {}
    for row in sorted(rows, key=lambda row: (row["index"], row["sample"])):
        name, problem = row["condition"], row.get("problem", row["index"])
        numbers = occurrences.setdefault((name, problem), {})
        number = numbers.setdefault(row["index"], len(numbers))
        found.setdefault(name, {}).setdefault((problem, number), []).append(row)
    return found
