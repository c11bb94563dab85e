"""Read a run folder into plain Python values, whatever state the run was left in.

A run that is still going, or that was killed, has missing files and half-written last lines.
Reading never stops for those: what could not be read is said in `RunRecord.notes`.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

UNFINISHED = "the run was still writing, or was killed"


@dataclass
class RunRecord:
    """Everything that a report needs from one run folder.

    `updates`, `evaluations` and `sft` hold the rows of `metrics.jsonl` by kind, in the order of
    the training that led to the present state: rows of a branch that a resume threw away are
    gone. `rollout_files` are sorted by rollout number. `notes` says, one sentence each, what is
    missing or was not readable.
    """

    folder: Path
    name: str
    config: str | None = None
    environment: Row = field(default_factory=dict)
    results: Row = field(default_factory=dict)
    updates: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    sft: list[Row] = field(default_factory=list)
    rollout_files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(folder: Path) -> RunRecord:
    """Read the run in `folder`, tolerating missing and truncated files.

    Raises:
        ValueError: if `folder` is no directory, or holds neither metrics nor results.
    """
    if not folder.is_dir():
        raise ValueError(
            f"run folder {str(folder)!r} is not a directory: a report is made from the folder "
            "that training wrote, so give the path of one"
        )
    if not any((folder / name).is_file() for name in ("metrics.jsonl", "results.json")):
        raise ValueError(
            f"run folder {str(folder)!r} has neither metrics.jsonl nor results.json: a report "
            "needs one of them, so give the output_dir of a run that has started training"
        )
    run = RunRecord(folder=folder, name=folder.resolve().name)
    run.config = _text(folder / "config.yaml", run.notes)
    run.environment = _json_object(folder / "environment.json", run.notes)
    run.results = _json_object(folder / "results.json", run.notes)
    title = run.results.get("name") or run.results.get("recipe")
    run.name = title if isinstance(title, str) else run.name
    _read_metrics(folder / "metrics.jsonl", run)
    run.rollout_files = _rollout_files(folder / "rollouts")
    if not run.rollout_files and not run.sft:
        run.notes.append("rollouts/ holds no completions, so there is nothing to step through.")
    return run


def number(value: Any) -> float | None:
    """Return `value` as a finite float, or None for null, text and non-finite numbers."""
    if not isinstance(value, int | float):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def parse_lines(lines: Iterable[str], unreadable: list[int]) -> Iterator[Row]:
    """Yield the JSON object of each line; the numbers of lines that hold none go to `unreadable`.

    Args:
        lines: lines of a `.jsonl` file; blank ones are skipped.
        unreadable: filled with the 1-based numbers of the lines left out.
    """
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            unreadable.append(line_number)


def read_rollout_rows(path: Path, notes: list[str]) -> list[Row]:
    """Return the rows of one `rollouts/*.jsonl.gz`; a cut-off archive gives those before the cut.

    Args:
        path: the file.
        notes: gets a sentence when part of the file could not be read.
    """
    unreadable: list[int] = []
    rows: list[Row] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            for row in parse_lines(file, unreadable):
                rows.append(row)
    except (EOFError, OSError, zlib.error):
        notes.append(
            f"rollouts/{path.name} stops in the middle ({UNFINISHED}): {len(rows)} rows were read."
        )
        return rows
    _note_unreadable(f"rollouts/{path.name}", unreadable, notes)
    return rows


def _text(path: Path, notes: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"{path.name} is missing.")
    except OSError as error:
        notes.append(f"{path.name} could not be read ({error.strerror}).")
    return None


def _json_object(path: Path, notes: list[str]) -> Row:
    text = _text(path, notes)
    if text is None:
        return {}
    objects = list(parse_lines([text], unreadable=[]))
    if not objects:
        notes.append(f"{path.name} holds no complete JSON object ({UNFINISHED}).")
        return {}
    return objects[0]


def _read_metrics(path: Path, run: RunRecord) -> None:
    text = _text(path, run.notes)
    if text is None:
        return
    unreadable: list[int] = []
    # Not splitlines: that would also cut a row at a U+2028 inside one of its strings.
    for row in parse_lines(text.split("\n"), unreadable):
        kind = row.get("kind")
        if kind == "sft":
            _rewind(run.sft, row, also_same_step=True)
            run.sft.append(row)
        elif kind == "evaluation":
            _rewind(run.updates, row, also_same_step=False)
            _rewind(run.evaluations, row, also_same_step=True)
            run.evaluations.append(row)
        elif kind == "update":
            _rewind(run.updates, row, also_same_step=True)
            _rewind(run.evaluations, row, also_same_step=False)
            run.updates.append(row)
    _note_unreadable(path.name, unreadable, run.notes)
    if not (run.updates or run.sft):
        run.notes.append("metrics.jsonl holds no update yet, so there are no training curves.")


def _rewind(rows: list[Row], new: Row, *, also_same_step: bool) -> None:
    """Drop the rows that a resumed run is about to write again, and those it never reached.

    A resume starts from the last checkpoint, so the steps after that checkpoint are in the file
    twice; only the second writing led to the present weights.
    """
    step = number(new.get("step"))
    if step is None:
        return
    while rows:
        last = number(rows[-1].get("step"))
        if last is None or last < step or (last == step and not also_same_step):
            return
        rows.pop()


def _rollout_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(folder.glob("*.jsonl.gz"), key=lambda path: (len(path.name), path.name))


def _note_unreadable(name: str, unreadable: list[int], notes: list[str]) -> None:
    if unreadable:
        lines = "line" if len(unreadable) == 1 else "lines"
        notes.append(
            f"{name}: {len(unreadable)} {lines} left out, first at line {unreadable[0]}: "
            f"not a complete JSON object ({UNFINISHED})."
        )
