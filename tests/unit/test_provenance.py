"""Where the values of a resolved config came from, and what another method's name replaces."""

import re
from pathlib import Path

import pytest
import yaml

from unmask.provenance import annotated_yaml
from unmask.recipe import ConfigError, flatten, load_config

RECIPE = """
objective: {name: espo, beta: 0.5}
estimator: {num_mc: 8}
advantage: {name: group_mean}
optimizer: {lr: 1.0e-4}
task: {options: {min_blanks: 3}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return str(path)


def origins(*arguments: str) -> dict[str, str]:
    """Last key of each commented line with its comment; unique keys only."""
    found = re.findall(r"^ *(\w+):.*  # (.+)$", annotated_yaml(arguments), flags=re.MULTILINE)
    names = [name for name, _ in found]
    return {name: origin for name, origin in found if names.count(name) == 1}


def test_a_value_comes_from_the_command_line_the_recipe_the_paper_or_the_defaults(recipe):
    found = origins(recipe, "optimizer.lr=2e-4", "estimator.coupled=false", "resume=auto")
    assert found["lr"] == found["coupled"] == found["resume"] == "command line"
    assert found["beta"] == found["num_mc"] == found["min_blanks"] == "mine.yaml"
    assert found["betas"] == found["epsilon"] == found["kl"] == "default"
    assert origins("objective.name=gdpo")["form"] == "default"
    assert origins(recipe, "objective.name=bgpo")["num_mc"] == "paper of bgpo"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sudoku-tiny-base"],
        ["objective.name=spg", "reward=[{function: 'a:b'}]", "model.lora.r=4"],
        ["output_dir='" + "long name " * 20 + "'", "logging.trackers=[]"],
    ],
)
def test_every_value_has_an_origin_and_the_text_is_the_same_config(arguments, tmp_path):
    text = annotated_yaml(arguments)
    config = load_config(arguments)
    content = config.model_dump(mode="json")
    assert yaml.safe_load(text) == content
    leaves = [key for key, value in flatten(content).items() if value != {}]
    assert text.count("  # ") == len(leaves)
    path = tmp_path / "again.yaml"
    path.write_text(text)
    assert load_config([str(path)]).model_dump() == config.model_dump()


def test_another_objective_brings_its_own_settings_estimator_and_advantage(recipe):
    config = load_config([recipe, "objective.name=bgpo", "estimator.num_mc=4"], "train")
    alone = load_config(["objective.name=bgpo", "estimator.num_mc=4"], "train")
    for section in ("objective", "estimator", "advantage"):
        assert getattr(config, section) == getattr(alone, section)
    assert config.estimator.num_mc == 4
    assert config.optimizer.lr == 1e-4


def test_the_same_objective_keeps_what_the_recipe_says(recipe):
    config = load_config([recipe, "objective.name=espo", "objective.kl=k3"], "train")
    assert (config.objective.beta, config.objective.kl) == (0.5, "k3")
    assert (config.estimator.num_mc, config.advantage.name) == (8, "group_mean")


def test_another_advantage_replaces_the_advantage_alone(recipe):
    config = load_config([recipe, "advantage.name=maxrl"], "train")
    assert (config.advantage.name, config.estimator.num_mc) == ("maxrl", 8)


def test_an_unknown_objective_is_still_refused(recipe):
    with pytest.raises(ConfigError, match="name='espoo' is unknown: choose espo"):
        load_config([recipe, "objective.name=espoo"], "train")
