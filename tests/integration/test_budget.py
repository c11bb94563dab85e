"""What a run says it has spent: completions and model forwards, counted by hand."""

import json
from pathlib import Path

import pytest

from unmask.config import TrainConfig
from unmask.recipe import load_config, validate
from unmask.training.trainer import Trainer


@pytest.mark.parametrize(("beta", "per_round"), [(0.01, 336), (0.0, 304)])
def test_forwards_are_denoising_steps_and_likelihood_views(
    recipe: Path, tmp_path: Path, beta: float, per_round: int
) -> None:
    # Of 16 completions: 16 denoising steps; one view in each of two updates, the old policy's for
    # the second, and with a KL term the reference's for both. Measuring is not counted.
    raw = load_config([str(recipe)], "train").model_dump()
    raw["sampler"] = {**raw["sampler"], "block_length": 16}
    raw["objective"] = {"name": "espo", "beta": beta}
    raw["estimator"] = {"name": "one_step"}
    raw["output_dir"] = str(tmp_path / "run")
    config = validate(TrainConfig, raw)
    results = Trainer(config=config).train()
    assert results["forwards"] == 3 * per_round
    assert results["completions"] == 3 * 16
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    spent = {(row["kind"], row["step"]): row["forwards"] for row in rows}
    assert spent["evaluation", 0] == 0
    assert spent["update", 2] == per_round
    assert spent["evaluation", 4] == spent["update", 4] == 2 * per_round
