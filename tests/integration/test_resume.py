"""An interrupted run that goes on ends like the uninterrupted one, bit for bit."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from processes import rows, train_and_signal, unmask, updates


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = unmask("train", recipe, f"output_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def same(first: Path, second: Path) -> None:
    assert rows(first) == rows(second)
    weights = "model/model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
    for file in sorted((first / "rollouts").iterdir()):
        assert file.read_bytes() == (second / "rollouts" / file.name).read_bytes()


@pytest.mark.parametrize(("after", "number"), [(1, signal.SIGTERM), (4, signal.SIGINT)])
def test_run_stopped_by_a_signal_goes_on_bit_for_bit(whole, recipe, tmp_path, after, number):
    folder = tmp_path / "run"
    arguments = [recipe, f"output_dir={folder}"]
    assert train_and_signal(arguments, folder, after, number) == 3
    assert after <= len(updates(folder)) < len(updates(whole))
    done = unmask("train", *arguments, "resume=auto")
    assert done.returncode == 0, done.stderr
    same(whole, folder)


def test_run_killed_at_once_goes_on_from_its_last_checkpoint(whole, recipe, tmp_path):
    folder = tmp_path / "run"
    arguments = [recipe, f"output_dir={folder}"]
    assert train_and_signal(arguments, folder, 5, signal.SIGKILL) == -signal.SIGKILL
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "update", "st')  # a line that the kill cut off
    assert unmask("train", *arguments, "resume=auto").returncode == 0
    same(whole, folder)


def test_old_checkpoints_go_and_the_newest_stay(whole):
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert names == ["step-000002", "step-000004", "step-000006"]


def test_finished_run_is_not_overwritten(whole, recipe):
    before = (whole / "results.json").read_bytes()
    done = unmask("train", recipe, f"output_dir={whole}")
    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert (whole / "results.json").read_bytes() == before


def test_resume_under_other_settings_is_refused(whole, recipe, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "results.json").unlink()
    done = unmask("train", recipe, f"output_dir={folder}", "resume=auto", "optimizer.lr=0.5")
    assert done.returncode == 2
    assert "optimizer.lr" in done.stderr


def test_truncated_checkpoint_is_refused_in_one_line(whole, recipe, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest = folder / "checkpoints" / "step-000006" / "policy.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    done = unmask("train", recipe, f"checkpoint.resume={newest.parent}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be read" in done.stderr


def test_results_say_before_and_after(whole):
    results = json.loads((whole / "results.json").read_text())
    for when in ("before", "after"):
        for how in ("greedy", "sampled"):
            row = results[when][how]
            assert row["n"] == 8
            assert row["low"] <= row["accuracy"] <= row["high"]
    assert results["rollouts"] == 3
    assert results["completions"] == 3 * 4 * 4
