"""The model that measured best is kept, whatever came after it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unmask.config import TrainConfig
from unmask.recipe import load_config, validate
from unmask.tasks import completion_text
from unmask.training.checkpoint import read_checkpoint
from unmask.training.trainer import Trainer

HELD_OUT = 8


def verifier(scores: list[float]):
    """Gives the next score at each measurement, and 0 to the completions of rollouts."""
    left = list(scores)

    def exact(prompts, completions, completion_ids=None, **columns):
        value = left.pop(0) if len(completions) == HELD_OUT else 0.0
        return [value] * len(completions)

    return exact


def ones(prompts, completions, completion_ids=None, **columns):
    """A reward that a random model earns now and then, so that every update moves it."""
    return [completion_text(text).count("1") / 16 for text in completions]


def trained(recipe: Path, folder: Path, scores: list[float], **evaluation: object) -> dict:
    raw = load_config([str(recipe)], "train").model_dump()
    raw["evaluation"] |= {"every": 1, "greedy": False, "num_examples": HELD_OUT, **evaluation}
    raw["checkpoint"] |= {"every": 1, "keep": 9}
    raw["output_dir"] = str(folder)
    config = validate(TrainConfig, raw)
    return Trainer(config=config, reward=ones, exact=verifier(scores)).train()


def test_the_best_model_is_kept(recipe: Path, tmp_path: Path) -> None:
    results = trained(recipe, tmp_path / "run", [0.0, 0.0, 1.0, 0.0])
    assert results["best_rollout"] == 2
    best = load_file(tmp_path / "run" / "best" / "model.safetensors")
    _, tensors = read_checkpoint(tmp_path / "run" / "checkpoints" / "step-000004")
    then = {name.removeprefix("network."): value for name, value in tensors["policy"].items()}
    assert best and all(torch.equal(value, then[name]) for name, value in best.items())
    last = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert any(not torch.equal(value, last[name]) for name, value in best.items())
    assert json.loads((tmp_path / "run" / "results.json").read_text())["best_rollout"] == 2


@pytest.mark.parametrize(
    ("scores", "settings"),
    [([0.5, 0.0, 0.5, 0.25], {}), ([0.0, 1.0, 0.0, 0.0], {"keep_best": False})],
)
def test_nothing_is_kept_where_nothing_is_better_or_nobody_asked(
    recipe: Path, tmp_path: Path, scores: list[float], settings: dict
) -> None:
    results = trained(recipe, tmp_path / "run", scores, **settings)
    assert not (tmp_path / "run" / "best").exists()
    assert results["best_rollout"] == (0 if scores[0] else 1)
