"""A study's runs: what each method gets, and what is refused before any begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.config import CompareConfig
from unmask.estimators import ELBO, OneStep
from unmask.objectives import ESPO, WD1
from unmask.recipe import ConfigError, config_hash, load_config, to_yaml, validate
from unmask.study.plan import Plan, expanded, make_plan, merged

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("study-*.yaml"))


def study(tmp_path: Path, **settings: Any) -> CompareConfig:
    raw = {
        "methods": {"ESPO": {}, "wd1": {"objective": {"name": "wd1"}}},
        "seeds": [1, 2],
        "output_dir": str(tmp_path / "study"),
        **settings,
    }
    return validate(CompareConfig, raw)


def grid(**settings: Any) -> dict[str, Any]:
    return {"values": [1e-4, 1e-3], "seeds": [7], **settings}


def plan(tmp_path: Path, **settings: Any) -> Plan:
    return make_plan(study(tmp_path, **settings))


def refusal(tmp_path: Path, **settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        plan(tmp_path, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_method_gets_every_seed(tmp_path: Path) -> None:
    runs = plan(tmp_path).reported
    assert [(run.method, run.seed, run.config.seed) for run in runs] == [
        ("ESPO", 1, 1),
        ("ESPO", 2, 2),
        ("wd1", 1, 1),
        ("wd1", 2, 2),
    ]
    assert runs[3].folder == tmp_path / "study" / "runs" / "wd1" / "seed2"
    assert all(run.config.output_dir == str(run.folder) for run in runs)
    assert all(run.config.checkpoint.resume == "auto" for run in runs)


def test_every_method_is_tuned_over_the_same_grid_on_problems_of_another_split(
    tmp_path: Path,
) -> None:
    made = plan(tmp_path, tune=grid(overrides={"training.num_rollouts": 5}))
    rounds = load_config(["sudoku-tiny"], "train").training.num_rollouts
    for method in ("ESPO", "wd1"):
        tuning = [run.config for run in made.tuning if run.method == method]
        assert [config.optimizer.lr for config in tuning] == [1e-4, 1e-3]
        assert {config.seed for config in tuning} == {7}
        assert {config.task.eval_split for config in tuning} == {"train"}
        assert {config.training.num_rollouts for config in tuning} == {5}
        reported = [run.config for run in made.reported if run.method == method]
        assert [(c.optimizer.lr, c.seed) for c in reported] == [
            (1e-4, 1),
            (1e-4, 2),
            (1e-3, 1),
            (1e-3, 2),
        ]
        assert {config.task.eval_split for config in reported} == {"heldout"}
        assert {config.training.num_rollouts for config in reported} == {rounds}
    assert made.tuning[0].folder.name == "0.0001-seed7"


def test_another_objective_starts_from_its_own_paper(tmp_path: Path) -> None:
    espo, _, wd1, _ = (run.config for run in plan(tmp_path).reported)
    base = load_config(["sudoku-tiny"], "train")
    assert (espo.objective, espo.estimator) == (base.objective, base.estimator)
    assert wd1.objective == WD1()
    assert wd1.estimator == OneStep()
    assert wd1.advantage.name == "group_mean"


def test_the_same_objective_keeps_what_a_method_does_not_set(tmp_path: Path) -> None:
    methods = {
        "mean field": {"objective": {"name": "espo"}, "estimator": {"name": "one_step"}},
        "more draws": {"estimator.num_mc": 3, "objective.beta": 0.5},
    }
    first, second = (run.config for run in plan(tmp_path, methods=methods, seeds=[1]).reported)
    assert first.objective == ESPO(beta=0.001)
    assert first.estimator == OneStep()
    assert second.objective == ESPO(beta=0.5)
    assert second.estimator == ELBO(num_mc=3)


def test_overrides_hold_for_all_and_a_method_wins_over_them(tmp_path: Path) -> None:
    methods = {"a": {}, "b": {"training": {"num_iterations": 3}}}
    overrides = {"training.num_iterations": 1, "training": {"num_rollouts": 4}}
    a, b = (
        run.config.training
        for run in plan(tmp_path, methods=methods, overrides=overrides, seeds=[1]).reported
    )
    assert (a.num_iterations, a.num_rollouts) == (1, 4)
    assert (b.num_iterations, b.num_rollouts) == (3, 4)


def test_merging_goes_key_by_key_unless_a_section_gets_another_name() -> None:
    assert expanded({"a.b.c": 1, "a": {"b.d": 2}}) == {"a": {"b": {"c": 1, "d": 2}}}
    base = {"s": {"name": "x", "p": 1}, "t": 1}
    assert merged(base, {"s": {"q": 2}}) == {"s": {"name": "x", "p": 1, "q": 2}, "t": 1}
    assert merged(base, {"s": {"name": "y", "q": 2}}) == {"s": {"name": "y", "q": 2}, "t": 1}
    assert base == {"s": {"name": "x", "p": 1}, "t": 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": {}}, ["methods is empty", "give methods"]),
        ({"methods": {"a-b": {}, "A b": {}}}, ["'A b'", "share the folder", "give each a name"]),
        ({"methods": {"x": {"objective": {"beta": -1}}}}, ["methods.x: objective.beta=-1"]),
        ({"methods": {"x": {"optimiser.lr": 1}}}, ["optimiser", "did you mean optimizer?"]),
        ({"base": "sudoku-tiny-base"}, ["is a recipe for `unmask sft`"]),
        ({"overrides": {"model.path": "/nowhere/model"}}, ["methods.ESPO: ", "/nowhere/model"]),
        ({"overrides": {"task.name": "chess"}}, ["methods.ESPO: ", "'chess'"]),
        ({"seeds": [1, 1]}, ["seeds=[1, 1]", "leave out what repeats"]),
        ({"methods": {"x": {"seed": 3}}}, ["methods.x sets seed, which a study", "leave it out"]),
        ({"overrides": {"output_dir": "a"}}, ["overrides sets output_dir"]),
        ({"methods": {"x": {"checkpoint.resume": "never"}}}, ["methods.x sets checkpoint.resume"]),
        ({"tune": grid(overrides={"seed": 3})}, ["tune.overrides sets seed"]),
        ({"output_dir": "runs/a-{time}"}, ["leave {time} out"]),
        ({"overrides": {"evaluation.sampled": False}}, ["measure=sampled", "set it to true"]),
        ({"tune": grid(seeds=[2])}, ["tune.seeds=[2]: 2 is reported too", "of their own"]),
        ({"tune": grid(values=[1e-4, 0.0001])}, ["tune.values=", "leave out what repeats"]),
        ({"tune": grid(eval_split="heldout")}, ["tune.eval_split='heldout'", "another split"]),
        ({"tune": grid(values=[1e-4, -1.0])}, ["methods.ESPO at -1: optimizer.lr=-1.0"]),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(tmp_path: Path, settings, words) -> None:
    message = refusal(tmp_path, **settings)
    for word in words:
        assert word in message
    assert not (tmp_path / "study").exists()


def test_a_folder_with_runs_of_other_settings_is_refused(tmp_path: Path) -> None:
    run = plan(tmp_path).reported[1]
    run.folder.mkdir(parents=True)
    results = run.folder / "results.json"
    results.write_text(json.dumps({"config_hash": config_hash(run.config)}))
    assert plan(tmp_path).reported[1].finished
    results.write_text(json.dumps({"config_hash": "another"}))
    assert f"{run.folder} holds a run with other settings" in refusal(tmp_path)


@pytest.mark.parametrize("left", ["", '{"config_ha', "[]", "3"])
def test_a_run_whose_results_are_broken_is_not_finished_and_goes_on(
    tmp_path: Path, left: str
) -> None:
    run = plan(tmp_path).reported[0]
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").write_text(left)
    (run.folder / "config.yaml").write_text(to_yaml(run.config))
    assert not plan(tmp_path).reported[0].finished


def test_a_run_whose_recipe_is_broken_is_refused_by_its_folder(tmp_path: Path) -> None:
    run = plan(tmp_path).reported[0]
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text("command: train\nmodel: {path: tiny-su")
    message = refusal(tmp_path)
    assert message.startswith(f"output_dir: {run.folder} holds a run that cannot be read (")
    assert message.endswith("remove that folder, or give another output_dir")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_study_resolves_with_equal_rollouts_for_all(path: Path, tmp_path: Path) -> None:
    config = load_config([str(path), f"output_dir={tmp_path}"], "compare")
    assert isinstance(config, CompareConfig)
    made = make_plan(config)
    grid = len(config.tune.values) * len(config.tune.seeds) if config.tune else 0
    assert len(made.tuning) == len(config.methods) * grid
    assert len({run.config.training.model_dump_json() for run in made.reported}) == 1
    assert len({str(run.config.sampler) for run in made.reported}) == 1
    assert len({run.config.evaluation.model_dump_json() for run in made.reported}) == 1


def test_there_are_shipped_studies() -> None:
    for path in RECIPES:
        config = load_config([str(path)], "compare")
        assert isinstance(config, CompareConfig)
        assert len(config.methods) == {"study-draws": 4}.get(path.stem, 9)
    assert [path.stem for path in RECIPES] == ["study-countdown", "study-draws", "study-sudoku"]
