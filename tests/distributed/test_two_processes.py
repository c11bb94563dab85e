"""Two processes make the same updates as one, to float noise."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Three prompts over two processes: shares of unequal size.
UNEQUAL = ["training.prompts_per_rollout=3", "training.max_tokens_per_batch=200"]


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "update"]


def unmask(processes: int, *arguments: object) -> None:
    """The command line in so many processes."""
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    done = subprocess.run(
        [sys.executable, "-m", *(launch if processes > 1 else []), "unmask.cli"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("distributed")
    for name, processes in (("one", 1), ("two", 2)):
        unmask(processes, "train", recipe, *UNEQUAL, f"output_dir={folder / name}")
    return folder / "one", folder / "two"


def test_as_many_processes_ran_as_were_asked_for(runs):
    environments = [json.loads((run / "environment.json").read_text()) for run in runs]
    assert [environment["num_processes"] for environment in environments] == [1, 2]


def test_two_processes_make_the_updates_of_one(runs):
    one, two = runs
    assert len(rows(one)) == len(rows(two)) == 6
    for first, second in zip(rows(one), rows(two), strict=True):
        for name in (
            "loss", "grad_norm", "reward", "kl", "ratio", "elbo", "frac_zero_std",
            "effective_sample_size", "log_ratio_q0", "log_ratio_q25", "log_ratio_q100",
        ):  # fmt: skip
            assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-6), name
    weights, others = (load_file(run / "model" / "model.safetensors") for run in runs)
    for name, value in weights.items():
        assert (value - others[name]).abs().max() < 1e-5, name


def test_two_processes_write_the_rollouts_of_one(runs):
    one, two = runs
    for file in sorted((one / "rollouts").iterdir()):
        assert file.read_bytes() == (two / "rollouts" / file.name).read_bytes()


def test_two_processes_measure_what_one_measures(runs):
    first, second = (json.loads((run / "results.json").read_text()) for run in runs)
    assert first["before"] == second["before"]
    assert first["completions"] == second["completions"]


def test_two_processes_go_on_from_a_checkpoint(recipe, runs, tmp_path):
    whole, again = runs[1], tmp_path / "again"
    shutil.copytree(whole, again)
    unmask(2, "train", recipe, *UNEQUAL, f"resume={min((again / 'checkpoints').iterdir())}")
    assert rows(again) != rows(whole)  # of the rows behind the checkpoint, times are new
    for row, expected in zip(rows(again), rows(whole), strict=True):
        assert row["step"] == expected["step"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6, abs=1e-9)


def test_two_processes_fine_tune_as_one(tmp_path):
    small = [
        "sudoku-tiny-expert",
        *(f"model.init.{name}" for name in ("num_layers=1", "hidden_size=32", "num_heads=2")),
        *(f"training.{name}" for name in ("num_steps=3", "batch_size=5", "precision=fp32")),
        "task.size=50",
        "logging.trackers=[]",
    ]
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        unmask(processes, "sft", *small, f"output_dir={folder}")
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        assert json.loads((folder / "environment.json").read_text())["num_processes"] == processes
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
