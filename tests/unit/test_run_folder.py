"""The files of a run: metrics line by line, everything else whole, all of it plain JSON."""

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.training.run_folder import (
    RunFolder,
    describe_environment,
    finite,
    peak_memory_bytes,
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "one")


def metrics(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]


def test_the_folder_is_made_and_may_be_there_already(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    RunFolder(path).write_text("config.yaml", "seed: 1\n")
    again = RunFolder(path)
    assert (path / "config.yaml").read_text() == "seed: 1\n"
    assert again.metrics_file == path / "metrics.jsonl"
    assert again.checkpoints == path / "checkpoints"


# --- metrics ------------------------------------------------------------------------------------


def test_metrics_are_one_row_per_line(folder: RunFolder) -> None:
    rows = [{"kind": "update", "step": 1, "loss": 0.5}, {"kind": "evaluation", "step": 1}]
    for row in rows:
        folder.append_metrics(row)
    assert metrics(folder) == rows
    assert folder.metrics_file.read_text().endswith("\n")


def test_what_is_not_finite_becomes_null(folder: RunFolder) -> None:
    folder.append_metrics({"loss": math.nan, "low": -math.inf, "nested": {"high": [math.inf, 1.0]}})
    text = folder.metrics_file.read_text()
    assert json.loads(text) == {"loss": None, "low": None, "nested": {"high": [None, 1.0]}}
    assert "NaN" not in text
    assert "Infinity" not in text
    folder.write_json("results.json", {"accuracy": math.nan})
    assert json.loads((folder.path / "results.json").read_text()) == {"accuracy": None}


def test_rows_behind_a_checkpoint_are_forgotten(folder: RunFolder) -> None:
    for step in (1, 2, 3, 4):
        folder.append_metrics({"kind": "update", "step": step})
    folder.append_metrics({"kind": "evaluation", "step": 2})
    folder.append_metrics({"kind": "note"})
    folder.drop_metrics_after(2)
    assert metrics(folder) == [
        {"kind": "update", "step": 1},
        {"kind": "update", "step": 2},
        {"kind": "evaluation", "step": 2},
        {"kind": "note"},
    ]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_off_is_forgotten_and_the_next_one_is_whole(
    folder: RunFolder, cut: int
) -> None:
    for step in (1, 2, 3):
        folder.append_metrics({"kind": "update", "step": step, "loss": 0.125})
    text = folder.metrics_file.read_text()
    folder.metrics_file.write_text(text[:-cut])
    folder.drop_metrics_after(10)
    folder.append_metrics({"kind": "update", "step": 9})
    kept = [1, 2, 9] if cut > 1 else [1, 2, 3, 9]  # without its last character a row is still whole
    assert [row["step"] for row in metrics(folder)] == kept


def test_a_block_of_zeros_after_a_power_failure_is_forgotten(folder: RunFolder) -> None:
    folder.append_metrics({"step": 1})
    with folder.metrics_file.open("ab") as file:
        file.write(bytes(64) + b"\n")
    folder.drop_metrics_after(5)
    assert metrics(folder) == [{"step": 1}]


def test_nothing_happens_where_there_are_no_metrics(folder: RunFolder) -> None:
    folder.drop_metrics_after(0)
    assert list(folder.path.iterdir()) == []


# --- whole files --------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("config.yaml", "läuft\n")
    assert (folder.path / "config.yaml").read_text("utf-8") == "läuft\n"

    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space left"):
            folder.write_text("config.yaml", "half")
    assert (folder.path / "config.yaml").read_text("utf-8") == "läuft\n"
    folder.write_text("config.yaml", "whole")
    assert [file.name for file in folder.path.iterdir()] == ["config.yaml"]


# --- rollouts -----------------------------------------------------------------------------------

ROWS = [
    {"rollout": 3, "completion": "12 ü", "reward": math.nan, "confidence": [0.5, 1.0]},
    {"rollout": 3, "completion": "", "reward": 1.0, "ids": torch.tensor([1, 2])},
]


def test_rollouts_are_compressed_json_lines(folder: RunFolder) -> None:
    folder.write_rollouts(3, ROWS)
    with gzip.open(folder.path / "rollouts" / "000003.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert rows == [
        {"rollout": 3, "completion": "12 ü", "reward": None, "confidence": [0.5, 1.0]},
        {"rollout": 3, "completion": "", "reward": 1.0, "ids": [1, 2]},
    ]
    assert [file.name for file in (folder.path / "rollouts").iterdir()] == ["000003.jsonl.gz"]


def test_the_same_rollouts_give_the_same_bytes_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for name, clock in (("a", 1e9), ("b", 2e9)):
        monkeypatch.setattr("time.time", lambda clock=clock: clock)
        RunFolder(tmp_path / name).write_rollouts(1, ROWS)
        contents.append((tmp_path / name / "rollouts" / "000001.jsonl.gz").read_bytes())
    assert contents[0] == contents[1]


def test_rollouts_that_fail_half_way_leave_the_old_file(folder: RunFolder) -> None:
    folder.write_rollouts(1, ROWS)
    before = (folder.path / "rollouts" / "000001.jsonl.gz").read_bytes()

    def broken() -> Iterator[dict[str, Any]]:
        yield ROWS[1]
        raise RuntimeError("a broken row")

    with pytest.raises(RuntimeError, match="a broken row"):
        folder.write_rollouts(1, broken())
    assert (folder.path / "rollouts" / "000001.jsonl.gz").read_bytes() == before


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1.5, 1.5),
        (math.nan, None),
        (-math.inf, None),
        (7, 7),
        (True, True),
        (None, None),
        ("NaN", "NaN"),
        ((1.0, math.inf), [1.0, None]),
        ({1: {"a": math.nan}}, {"1": {"a": None}}),
        (torch.tensor([1.0, torch.nan]), [1.0, None]),
        (torch.tensor(2), 2),
        (torch.tensor([[True], [False]]), [[True], [False]]),
    ],
    ids=str,
)
def test_values_become_what_json_can_hold(value: Any, plain: Any) -> None:
    assert finite(value) == plain
    assert type(finite(value)) is type(plain)


def test_the_environment_names_versions_and_hardware() -> None:
    environment = describe_environment(num_processes=3)
    assert environment["torch"] == torch.__version__
    assert environment["num_processes"] == 3
    assert environment["memory_bytes"] > 2**26
    assert environment["cpu_count"] >= 1
    for name in ("transformers", "accelerate", "peft", "datasets", "python"):
        assert environment[name][0].isdigit()
    json.dumps(environment)


def test_peak_memory_never_falls() -> None:
    before = peak_memory_bytes()
    block = torch.ones(2**24)
    after = peak_memory_bytes()
    assert after >= max(before, block.nbytes)
    del block
    assert peak_memory_bytes() >= after
