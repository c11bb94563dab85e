"""Two processes make the same updates as one, to float noise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "update"]


@pytest.fixture(scope="module")
def runs(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("distributed")
    common = ["-m", "unmask.cli", "train", str(recipe)]
    # Three prompts over two processes: shares of unequal size.
    extra = ["training.prompts_per_rollout=3", "training.max_tokens_per_batch=200"]
    for name, command in (
        ("one", [sys.executable, *common]),
        (
            "two",
            [
                sys.executable,
                "-m",
                "accelerate.commands.accelerate_cli",
                "launch",
                "--cpu",
                "--num_processes",
                "2",
                "--num_machines",
                "1",
                "--mixed_precision",
                "no",
                "--dynamo_backend",
                "no",
                *common,
            ],
        ),
    ):
        done = subprocess.run(
            [*command, *extra, f"output_dir={folder / name}"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return folder / "one", folder / "two"


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
