"""The command line: what works, and bad input in one line with exit code 2."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from processes import unmask

from unmask.cli import main

REWARDS = """
def raises(prompts, completions, completion_ids, **columns):
    raise RuntimeError("boom")

def short(prompts, completions, completion_ids, **columns):
    return [1.0]

def nan(prompts, completions, completion_ids, **columns):
    return [float("nan")] * len(completions)

def huge(prompts, completions, completion_ids, **columns):
    return [1e300 * (i % 2) for i in range(len(completions))]

def none(prompts, completions, completion_ids, **columns):
    return [None] * len(completions)
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rewards and data of one's own."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "rewards.py").write_text(REWARDS)
    rows = [{"prompt": "1..2", "puzzle": "1" * 16, "solution": "1" * 16}] * 8
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "nameless.jsonl").write_text('{"question": "1..2"}\n')
    (folder / "long.jsonl").write_text(json.dumps({"prompt": "1" * 300}) + "\n")
    (folder / "empty.jsonl").write_text("")
    return folder


@pytest.fixture
def command(capsys, monkeypatch):
    """The command line in this process: as `unmask`, without loading torch again each time."""

    def run(*arguments: object, cwd: Path | None = None) -> SimpleNamespace:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out = capsys.readouterr()
        code = stop.value.code
        return SimpleNamespace(returncode=code or 0, stdout=out.out, stderr=out.err)

    return run


def refused(done, *needles: str) -> None:
    """Exit code 2, one line on the terminal, no traceback."""
    assert done.returncode == 2, done.stderr + done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("unmask: ")
    for needle in needles:
        assert needle in lines[0], lines[0]


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["objectiv.beta=1"], ["objectiv", "did you mean objective?"]),
        (["objective.betta=1"], ["objective.betta", "did you mean beta?"]),
        (["training.num_rollouts=many"], ["training.num_rollouts='many'", "integer"]),
        (["sampler.steps=3", "sampler.block_length=8"], ["sampler.steps=3", "multiple of 2"]),
        (["training.num_generations=1"], ["num_generations=1", "at least 2"]),
        (["objective.name=espoo"], ["espoo", "choose espo"]),
        (["no-such-recipe"], ["no-such-recipe", "sudoku-tiny"]),
        (["sudoku-tiny-base"], ["unmask sft"]),
        (["sudoku-tiny", "steps"], ["'steps' is no override", "key=value"]),
    ],
)
def test_wrong_config_is_one_line_before_anything_is_loaded(arguments, needles):
    refused(unmask("train", *arguments), *needles)


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["model.path=no/such/folder/here"], ["no/such/folder/here", "tiny-sudoku"]),
        (["task.name=sudokku"], ["sudokku", "sudoku"]),
        (["task.dataset=nameless.jsonl"], ["no column 'prompt'", "question"]),
        (["task.dataset=empty.jsonl"], ["empty.jsonl"]),
        (["task.dataset=missing.jsonl"], ["missing.jsonl", "does not exist"]),
        (["task.dataset=long.jsonl", "task.max_prompt_length=20"], ["1 were longer", "=20"]),
        (
            ["task.dataset=long.jsonl", "task.max_prompt_length=20", "task.long_prompts=refuse"],
            ["prompt 0 has", "long_prompts=drop"],
        ),
        (["task.dataset=long.jsonl"], ["128 positions"]),
        (["reward=[{function: 'rewards:absent'}]"], ["rewards has no absent"]),
        (["reward=[{function: 'nowhere:f'}]"], ["nowhere:f", "cannot be imported"]),
        (["reward=[{function: 'rewards:raises'}]"], ["reward 'raises'", "boom"]),
        (["reward=[{function: 'rewards:short'}]"], ["reward 'short' returned 1 values for 16"]),
        (["reward=[{function: 'rewards:nan'}]"], ["reward 'nan' returned nan for completion 0"]),
        (["logging.trackers=[tensorboardd]"], ["tensorboardd", "tensorboard"]),
        (["logging.trackers=[mlflow]"], ["mlflow is not installed", "pip install"]),
    ],
)
def test_bad_input_is_one_line(command, recipe, workplace, tmp_path, arguments, needles):
    arguments = ["evaluation.greedy=false", "evaluation.sampled=false", *arguments]
    done = command("train", recipe, f"output_dir={tmp_path}/run", *arguments, cwd=workplace)
    refused(done, *needles)


def test_debug_shows_the_traceback(recipe):
    done = unmask("train", recipe, "model.path=no/such/folder/here", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_unscored_completions_move_nothing(command, recipe, workplace, tmp_path, tiny_model):
    folder = tmp_path / "run"
    done = command(
        "train",
        recipe,
        f"output_dir={folder}",
        "reward=[{function: 'rewards:none'}]",
        "objective.beta=0",
        cwd=workplace,
    )
    assert done.returncode == 0, done.stderr
    before = (tiny_model / "model.safetensors").read_bytes()
    assert (folder / "model" / "model.safetensors").read_bytes() == before


def test_run_that_diverges_stops_with_a_checkpoint(command, recipe, workplace, tmp_path):
    folder = tmp_path / "run"
    done = command(
        "train",
        recipe,
        f"output_dir={folder}",
        "reward=[{function: 'rewards:huge'}]",
        "training.max_skipped_updates=3",
        "advantage.name=leave_one_out",  # a scaled one stays finite
        cwd=workplace,
    )
    assert done.returncode == 1, done.stderr
    assert "3 updates in a row" in done.stderr
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates = [row for row in rows if row["kind"] == "update"]
    assert [row["skipped_updates"] for row in updates] == [1, 2, 3]
    assert [row["loss"] for row in updates] == [None] * 3
    assert (folder / "checkpoints" / "step-000003" / "state.json").is_file()


def test_full_disk_leaves_the_old_checkpoint(recipe, tmp_path):
    folder = tmp_path / "run"
    limits = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    (tmp_path / "sitecustomize.py").write_text(limits)
    arguments = ["train", recipe, f"output_dir={folder}", "training.num_rollouts=1"]
    assert unmask(*arguments).returncode == 0
    (folder / "results.json").unlink()
    whole = folder / "checkpoints" / "step-000002"
    before = {file.name: file.read_bytes() for file in whole.iterdir()}
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        done = unmask(*arguments, f"checkpoint.resume={whole}", "checkpoint.every=1")
    finally:
        del os.environ["PYTHONPATH"]
    refused(done, "could not be written", "older checkpoints are untouched")
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == before


def test_training_on_a_file_of_ones_own(command, recipe, workplace, tmp_path):
    folder = tmp_path / "run"
    done = command(
        "train", recipe, f"output_dir={folder}", "task.dataset=good.jsonl", cwd=workplace
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").stat().st_size > 10_000


def test_output_off_a_terminal_is_plain_lines(recipe, tmp_path):
    done = unmask(
        "train",
        recipe,
        f"output_dir={tmp_path}/run",
        "training.num_rollouts=1",
        "logging.trackers=[tensorboard]",
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert re.search(r"rollout 1/1 .*reward", done.stdout)
    assert "before training" in done.stdout
    assert list((tmp_path / "run" / "tensorboard").rglob("events.*"))


def test_config_prints_a_recipe_that_gives_itself(command, tmp_path):
    first = command("config", "sudoku-tiny", "seed=7")
    (tmp_path / "again.yaml").write_text(first.stdout)
    second = command("config", tmp_path / "again.yaml")
    assert first.returncode == second.returncode == 0
    given, again = yaml.safe_load(first.stdout), yaml.safe_load(second.stdout)
    assert given["seed"] == 7
    assert {**again, "output_dir": None} == {**given, "output_dir": None}


def test_schema_shows_every_section(command):
    done = command("config", "--schema")
    assert done.returncode == 0
    for key in ("objective", "sampler.gen_length", "training.num_iterations", "model.lora.r"):
        assert key in done.stdout


def test_eval_measures_and_writes_json(command, recipe, tmp_path):
    done = command("eval", recipe, "--output", tmp_path / "eval.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "eval.json").read_text())
    assert result["greedy"]["n"] == result["sampled"]["n"] == 8


def test_sample_draws_a_completion_of_a_held_out_problem():
    done = unmask("sample", "tiny-sudoku", "sampler.temperature=0")
    assert done.returncode == 0, done.stderr
    assert "step 16 of 16" in done.stdout


def test_sample_takes_a_prompt(command):
    done = command("sample", "tiny-sudoku", "1.34.41221434321", "seed=1")
    assert done.returncode == 0, done.stderr
    assert "1.34.41221434321" in done.stdout


def test_tasks_lists_them(command):
    done = command("tasks")
    assert done.returncode == 0
    assert "countdown" in done.stdout
    assert "sudoku" in done.stdout
