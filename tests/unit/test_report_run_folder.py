"""Reading a run folder: what survives a kill, a resume and a broken file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from unmask.report.run_folder import number, read_rollout_rows, read_run


def update(step: int, **columns: Any) -> dict[str, Any]:
    return {"kind": "update", "rollout": step // 2, "step": step, "time": 10.0 * step} | columns


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_missing_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a directory") as refusal:
        read_run(tmp_path / "nowhere")
    assert "nowhere" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_metrics_and_results_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 42\n")
    with pytest.raises(ValueError, match=r"neither metrics\.jsonl nor results\.json") as refusal:
        read_run(tmp_path)
    assert "\n" not in str(refusal.value)


def test_rows_are_told_apart_by_kind(tmp_path: Path) -> None:
    evaluation = {"kind": "evaluation", "rollout": 0, "step": 0, "greedy": {"accuracy": 0.5}}
    rows = [evaluation, update(1), update(2), {"kind": "sft", "step": 1}, {"kind": "unheard of"}]
    write_metrics(tmp_path, rows)
    run = read_run(tmp_path)
    assert [row["step"] for row in run.updates] == [1, 2]
    assert run.evaluations == [evaluation]
    assert run.sft == [{"kind": "sft", "step": 1}]


def test_a_half_written_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    path = write_metrics(tmp_path, [update(1), update(2), update(3)])
    path.write_bytes(path.read_bytes()[:-20])
    run = read_run(tmp_path)
    assert [row["step"] for row in run.updates] == [1, 2]
    assert any("1 line left out, first at line 3" in note for note in run.notes)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_metrics(tmp_path, [update(1)])
    notes = " ".join(read_run(tmp_path).notes)
    for name in ("config.yaml", "environment.json", "results.json", "rollouts/"):
        assert name in notes


def test_a_truncated_results_file_counts_as_missing(tmp_path: Path) -> None:
    write_metrics(tmp_path, [update(1)])
    (tmp_path / "results.json").write_text('{"before": {"greedy": {"accu')
    run = read_run(tmp_path)
    assert run.results == {}
    assert any("results.json holds no complete JSON object" in note for note in run.notes)


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    evaluations = [{"kind": "evaluation", "rollout": s // 2, "step": s} for s in (0, 2, 4)]
    killed = [evaluations[0], update(1), update(2, loss=1.0), evaluations[1]]
    killed += [update(3, loss=1.0), update(4, loss=1.0), evaluations[2]]
    resumed = [update(3, loss=2.0)]
    write_metrics(tmp_path, killed + resumed)
    run = read_run(tmp_path)
    assert [(row["step"], row.get("loss")) for row in run.updates] == [
        (1, None),
        (2, 1.0),
        (3, 2.0),
    ]
    assert [row["step"] for row in run.evaluations] == [0, 2]


def test_the_title_is_the_recorded_name_before_the_folder_name(tmp_path: Path) -> None:
    write_metrics(tmp_path, [update(1)])
    assert read_run(tmp_path).name == tmp_path.name
    (tmp_path / "results.json").write_text('{"recipe": "countdown-tiny"}')
    assert read_run(tmp_path).name == "countdown-tiny"


def test_a_cut_off_archive_gives_the_rows_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "000003.jsonl.gz"
    rows = [{"sequence": index, "completion": str(hash(index)) * 20} for index in range(400)]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    notes: list[str] = []
    read = read_rollout_rows(path, notes)
    assert 0 < len(read) < 400
    assert read == rows[: len(read)]
    assert notes == [
        "rollouts/000003.jsonl.gz stops in the middle (the run was still writing, or was killed): "
        f"{len(read)} rows were read."
    ]


def test_a_file_that_is_no_archive_gives_no_rows_and_a_note(tmp_path: Path) -> None:
    path = tmp_path / "000003.jsonl.gz"
    path.write_text("not gzip")
    notes: list[str] = []
    assert read_rollout_rows(path, notes) == []
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (0.25, 0.25),
        (True, 1.0),
        (None, None),
        ("1", None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
    ],
)
def test_only_finite_numbers_count(value: Any, expected: float | None) -> None:
    assert number(value) == expected
