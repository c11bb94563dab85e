"""samples.jsonl: every completion of an evaluation with all that scoring it again needs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.generation import as_reply
from unmask.training.rewards import RewardFunction, RewardTerm, score
from unmask.training.run_folder import finite

SAMPLES_FILE = "samples.jsonl"
Row = dict[str, Any]
Key = tuple[str, int, int]
NEEDED = ("condition", "index", "sample", "prompt", "completion", "columns")


def content_hash(value: Any) -> str:
    """16 hexadecimal digits of the JSON form of a value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def row_key(row: Mapping[str, Any]) -> Key:
    """What tells one completion from the others: condition, problem, number of the sample."""
    return row["condition"], row["index"], row["sample"]


def read_samples(path: Path) -> list[Row]:
    """The rows of a samples.jsonl; a last line that was cut off is left out.

    Raises:
        ValueError: if there is no such file, or a line is no completion.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the {SAMPLES_FILE} of an evaluation")
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            # Only a line without its end can have been cut off.
            if number == len(lines):
                continue
            row = None
        if not isinstance(row, dict) or not all(name in row for name in NEEDED):
            raise ValueError(
                f"{path} line {number} is no completion of `unmask eval`: each is a JSON object "
                f"with {', '.join(NEEDED)}; give a {SAMPLES_FILE} that it wrote"
            )
        rows.append(row)
    return rows


def append_samples(path: Path, rows: Iterable[Row]) -> None:
    """Add rows, on the disk when this returns; the file must end with a whole line."""
    with path.open("ab") as file:
        file.write("".join(_line(row) for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def write_samples(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file in one move."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(_line(row) for row in rows), "utf-8")
    temporary.replace(path)


def score_samples(
    rows: Sequence[Row],
    terms: Sequence[RewardTerm],
    exact: RewardFunction | None,
    answer: Any = None,
) -> list[Row]:
    """Rows with `reward`, `rewards` by term, `solved` and `answer`, whatever they had before.

    Args:
        rows: of one data set.
        terms: of the reward.
        exact: the exact verifier, or None.
        answer: a completion's text -> its normalised answer or None; None = there are no votes.

    Raises:
        RewardError: see `unmask.training.rewards.score`.
    """
    if not rows:
        return []
    prompts = [row["prompt"] for row in rows]
    texts = [row["completion"] for row in rows]
    ids = [row.get("completion_ids", []) for row in rows]
    replies = [as_reply(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    columns = {name: [row["columns"].get(name) for row in rows] for name in rows[0]["columns"]}
    totals, values = score(terms, prompts, replies, ids, columns)
    solved: Sequence[float | None] = [None] * len(rows)
    if exact is not None:
        solved = score([RewardTerm("exact", exact)], prompts, replies, ids, columns)[1]["exact"]
    return [
        {
            **row,
            "reward": totals[number],
            "rewards": {name: column[number] for name, column in values.items()},
            "solved": solved[number],
            **({} if answer is None else {"answer": answer(row["completion"])}),
        }
        for number, row in enumerate(rows)
    ]


def _line(row: Row) -> str:
    return json.dumps(finite(row), default=str) + "\n"
