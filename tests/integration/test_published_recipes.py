"""Every published recipe goes through prompts, rollouts, rewards, updates, saving and measuring."""

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.config import TrainConfig
from unmask.models.families import published_family
from unmask.recipe import load_config
from unmask.tasks.sandbox import SandboxError, SandboxSettings

PAPERS = sorted((Path(__file__).parents[2] / "recipes" / "papers").glob("*.yaml"))


def test_the_papers_that_the_objectives_cover_have_recipes() -> None:
    papers = {path.stem.split("-")[0] for path in PAPERS}
    assert papers == {"espo", "bgpo", "d1", "wd1", "spg", "agrpo", "diffucoder", "justgrpo"}


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_published_recipe_is_valid_found_by_name_and_names_its_source(path: Path) -> None:
    config = load_config([path.stem], "train")
    assert config == load_config([str(path)], "train")
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert "arXiv" in comment[0]
    assert any("Deviation" in line for line in comment)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_published_recipe_runs_dry(path: Path, tmp_path: Path) -> None:
    from unmask.training.dry_run import shrink
    from unmask.training.trainer import Trainer

    config = load_config([path.stem], "train")
    assert isinstance(config, TrainConfig)
    if config.task.name == "code":
        try:
            SandboxSettings().resolve()
        except SandboxError as error:
            pytest.skip(str(error))
    small = shrink(config, tmp_path)
    spec = published_family(config.model.path)
    assert spec is not None
    assert _json(Path(small.model.path) / "config.json")["model_type"] == spec.model_type
    assert type(small.objective) is type(config.objective)
    assert (small.task.name, small.task.prompt) == (config.task.name, config.task.prompt)
    results = Trainer(config=small).train()
    assert results["rollouts"] == 2
    assert results["after"]["greedy"]["n"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    updates = [row for row in rows if row["kind"] == "update"]
    assert len(updates) == 2 * small.training.num_iterations
    assert all(row["loss"] is not None and row["reward"] is not None for row in updates)
    assert (tmp_path / "run" / "model").is_dir()
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hub_id", "block_length", "family"),
    [
        ("JetLM/SDAR-4B-Chat", 4, "sdar"),
        ("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", 32, "a2d-qwen3"),
        ("inclusionAI/LLaDA-MoE-7B-A1B-Instruct", 32, "llada_moe"),
        ("inclusionAI/LLaDA2.0-mini", 32, "llada2"),
    ],
)
def test_a_recipe_runs_dry_on_a_model_of_any_family(
    hub_id: str, block_length: int, family: str, tmp_path: Path
) -> None:
    from unmask.training.dry_run import shrink
    from unmask.training.trainer import Trainer

    changes = [f"model.path={hub_id}", f"sampler.block_length={block_length}", "sampler.steps=256"]
    config = load_config(["espo-llada-countdown", *changes, "model.lora=null"], "train")
    assert isinstance(config, TrainConfig)
    assert Trainer(config=shrink(config, tmp_path)).train()["rollouts"] == 2
    told = _json(tmp_path / "run" / "model" / "config.json")["unmask_family"]
    blocks = {"sdar": 4, "a2d-qwen3": 32, "llada2": 32}
    assert (told["name"], told["block_length"]) == (family, blocks.get(family))


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content
