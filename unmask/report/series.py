"""Turn rows of metrics into columns that share an axis, short enough to embed in a page.

Rows are dicts as `metrics.jsonl` holds them; a column is one number or None per row.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from unmask.report.run_folder import Row, number

Column = list[float | None]

MAX_POINTS = 1500
"""Longest column that is embedded as it is; longer ones are averaged over successive rows."""


def column(rows: Sequence[Row], key: str) -> Column:
    """Return `row[key]` of every row; None where it is missing or not finite."""
    return [number(row.get(key)) for row in rows]


def numeric_keys(rows: Sequence[Row]) -> list[str]:
    """Return the keys that hold a finite number in at least one row, in order of appearance."""
    keys: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in keys and number(value) is not None:
                keys[key] = None
    return list(keys)


def axes(rows: Sequence[Row]) -> dict[str, Column]:
    """Return the three horizontal positions of every row: rollout, step and time.

    The inner updates on one rollout are spread evenly between it and the next, so that they can
    be told apart: the second of four updates on rollout 7 stands at 7.25. Time is in seconds and
    continues where a resumed run started its clock again.
    """
    rollouts = column(rows, "rollout")
    index_in_rollout: list[int] = []
    for row_index, rollout in enumerate(rollouts):
        repeats = row_index > 0 and rollouts[row_index - 1] == rollout
        index_in_rollout.append(index_in_rollout[-1] + 1 if repeats else 0)
    num_updates = max(index_in_rollout, default=0) + 1
    return {
        "rollout": [
            None if rollout is None else rollout + index / num_updates
            for rollout, index in zip(rollouts, index_in_rollout, strict=True)
        ],
        "step": column(rows, "step"),
        "time": _continued(column(rows, "time")),
    }


def first_of_each_rollout(rows: Sequence[Row]) -> list[int]:
    """Return the indices of the rows that are the first of their rollout."""
    rollouts = column(rows, "rollout")
    return [
        index
        for index, rollout in enumerate(rollouts)
        if index == 0 or rollouts[index - 1] != rollout
    ]


def repeats_within_rollouts(rows: Sequence[Row], key: str) -> bool:
    """Say whether `key` is a property of the rollout: equal on all updates that share one."""
    return all(
        later.get(key) == earlier.get(key)
        for earlier, later in pairwise(rows)
        if later.get("rollout") == earlier.get("rollout")
    )


def bucket_size(num_rows: int, limit: int = MAX_POINTS) -> int:
    """Return how many successive rows one embedded point stands for; 1 up to `limit` rows."""
    return max(1, -(-num_rows // limit))


def bucketed(values: Column, size: int, how: str = "mean") -> Column:
    """Combine each run of `size` successive values into one; Nones are left out of it.

    Args:
        values: a column of n values.
        size: values per bucket; the last bucket may be shorter.
        how: "mean", "min" or "max".

    Returns:
        ceil(n / size) values; None for a bucket of Nones.
    """
    if size == 1:
        return values
    combine: dict[str, Any] = {"mean": lambda v: sum(v) / len(v), "min": min, "max": max}
    buckets = (values[start : start + size] for start in range(0, len(values), size))
    present = ([value for value in bucket if value is not None] for bucket in buckets)
    return [combine[how](bucket) if bucket else None for bucket in present]


def rounded(values: Column, digits: int = 5) -> Column:
    """Return `values` to `digits` significant digits; whole numbers stay exact and lose `.0`."""
    return [_round(value, digits) for value in values]


def _round(value: float | None, digits: int) -> float | None:
    if value is None:
        return None
    if value == int(value):
        return int(value)
    return float(f"{value:.{digits}g}")


def _continued(times: Column) -> Column:
    offset, last = 0.0, 0.0
    continued: Column = []
    for time in times:
        if time is None:
            continued.append(None)
            continue
        if time + offset < last:
            offset = last
        last = time + offset
        continued.append(last)
    return continued
