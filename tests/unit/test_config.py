"""The schema of a recipe: what it fills in, and the one line that it answers a mistake with."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from unmask.config import COMMANDS, CompareConfig, SFTConfig, TrainConfig
from unmask.estimators import ELBO, OneStep, TimeUniform
from unmask.models.settings import LoRA
from unmask.objectives import ESPO, OBJECTIVES, Objective
from unmask.recipe import ConfigError, validate
from unmask.sampling.settings import Sampler


def refusal(raw: dict[str, Any], schema: Any = TrainConfig) -> str:
    with pytest.raises(ConfigError) as error:
        validate(schema, raw)
    message = str(error.value)
    assert "\n" not in message
    assert not re.search(r"pydantic|Value error|For further information", message)
    return message


# --- unknown keys -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "key", "hint"),
    [
        ({"samplers": {}}, "samplers", "did you mean sampler?"),
        ({"sampler": {"gen_lenght": 4}}, "sampler.gen_lenght", "did you mean gen_length?"),
        ({"optimizer": {"beta": 1}}, "optimizer.beta", "did you mean betas?"),
        ({"model": {"lora": {"rank": 1}}}, "model.lora.rank", "choose r, alpha, target_modules"),
        ({"objective": {"epsilom": 1}}, "objective.epsilom", "did you mean epsilon?"),
        (
            {"objective": {"name": "espo", "epsilom": 1}},
            "objective.epsilom",
            "did you mean epsilon?",
        ),
        ({"estimator": {"num_mcs": 1}}, "estimator.num_mcs", "did you mean num_mc?"),
        (
            {"estimator": {"name": "one_step", "num_mc": 1}},
            "estimator.num_mc",
            "choose p_mask_prompt",
        ),
        (
            {"reward": [{"function": "a:b", "wieght": 1}]},
            "reward.0.wieght",
            "did you mean weight?",
        ),
        ({"checkpoint": {"xyzzy": 1}}, "checkpoint.xyzzy", "choose every, keep, resume"),
    ],
    ids=str,
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_one(
    raw: dict[str, Any], key: str, hint: str
) -> None:
    assert refusal(raw) == f"{key} is an unknown key: {hint}"


def test_every_mistake_is_named_once() -> None:
    message = refusal({"sede": 1, "objective": {"epsilom": 1, "betta": 2}, "training": {"x": 1}})
    for key in ("sede", "objective.epsilom", "objective.betta", "training.x"):
        assert message.count(f"{key} is an unknown key") == 1
    assert message.count(";") == 3


@pytest.mark.parametrize("section", ["objective", "advantage"])
def test_supervised_fine_tuning_has_no_such_section(section: str) -> None:
    message = refusal({section: {"name": "espo"}}, SFTConfig)
    assert message.startswith(f"{section} is an unknown key: ")
    assert ";" not in message


# --- wrong values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        ({"seed": "abc"}, "seed='abc': Input should be a valid integer"),
        ({"seed": {"x": 3}}, "seed={'x': 3}: Input should be a valid integer"),
        ({"sampler": {"steps": 16.5}}, "sampler.steps=16.5: Input should be a valid integer"),
        ({"sampler": {"remasking": "best"}}, "sampler.remasking='best': Input should be 'low_con"),
        ({"sampler": 3}, "sampler=3: "),
        ({"model": {"lora": True}}, "model.lora=True: "),
        ({"model": {"lora": {"r": "x"}}}, "model.lora.r='x': Input should be a valid integer"),
        ({"model": {"lora": {"r": 0}}}, "model.lora.r=0 is too small: give at least 1"),
        ({"model": {"dtype": "int8"}}, "model.dtype='int8': Input should be 'auto', 'float32'"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr=0: Input should be greater than 0"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.lr=inf: Input should be a finite number"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr=nan: Input should be a finite number"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas.1=1.0: Input should be less than"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas.1 is missing: give a value"),
        ({"objective": {"epsilon": "x"}}, "objective.epsilon='x': Input should be a valid number"),
        ({"objective": {"beta": -1}}, "objective.beta=-1.0 is negative: it must be at least 0"),
        ({"objective": {"beta": float("nan")}}, "objective.beta=nan: Input should be a finite"),
        (
            {"objective": {"divergence": {"delta": float("inf")}}},
            "objective.divergence.delta=inf: Input should be a finite number",
        ),
        ({"objective": {"beta": True}}, "objective.beta=True: give a number"),
        ({"estimator": {"name": "elbo", "num_mc": True}}, "estimator.num_mc=True: give a number"),
        ({"optimizer": {"betas": [True, 0.9]}}, "optimizer.betas=[True, 0.9]: give a number"),
        ({"model": {"lora": {"r": True}}}, "model.lora.r=True: give a number"),
        ({"training": {"max_tokens_per_batch": True}}, "training.max_tokens_per_batch=True: give"),
        ({"objective": "espo"}, "objective: 'espo': give a mapping with a name and settings"),
        ({"objective": {"name": "ppo"}}, "objective.name='ppo' is unknown: choose "),
        ({"objective": {"name": ["espo"]}}, "objective.name=['espo'] is unknown: choose "),
        ({"objective": None}, "objective: None: give a mapping"),
        ({"estimator": {"name": "elbow"}}, "estimator.name='elbow' is unknown: choose elbo, "),
        ({"estimator": {"num_mc": 0}}, "estimator.num_mc=0 is too small: an estimate needs"),
        ({"advantage": {"name": "gae"}}, "advantage.name='gae': Input should be 'leave_one_out'"),
        ({"reward": [{"weight": 2}]}, "reward.0.function is missing: give a value"),
        ({"training": {"max_tokens_per_batch": 0}}, "training.max_tokens_per_batch=0: Input"),
        ({"training": {"num_iterations": 0}}, "training.num_iterations=0: Input should be greater"),
        ({"evaluation": {"every": 0}}, "evaluation.every=0: Input should be greater"),
        ({"checkpoint": {"keep": 0}}, "checkpoint.keep=0: Input should be greater"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_place_the_value_and_the_rule(
    raw: dict[str, Any], start: str
) -> None:
    message = refusal(raw)
    assert message.startswith(start)
    assert ";" not in message


def test_a_value_under_a_name_of_the_users_own_is_told_with_that_name() -> None:
    assert refusal({"methods": {"mine": None}}, CompareConfig) == (
        "methods.mine=None: Input should be a valid dictionary"
    )
    assert refusal({"evaluation": {"samplers": {"fast": 3}}}).startswith("evaluation.samplers.fast")


def test_a_value_of_two_possible_types_is_told_both() -> None:
    assert refusal({"training": {"max_tokens_per_batch": "x"}}) == (
        "training.max_tokens_per_batch='x': Input should be a valid integer, unable to parse "
        "string as an integer, or Input should be 'auto'"
    )
    assert refusal({"model": {"lora": {"target_modules": [3]}}}) == (
        "model.lora.target_modules=[3]: Input should be a valid string; "
        "model.lora.target_modules.0=3: Input should be a valid string"
    )


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            {"gen_length": 24, "block_length": 8, "steps": 8},
            "sampler.steps=8 does not split over 3 blocks of 8: choose a multiple of 3",
        ),
        (
            {"gen_length": 20, "block_length": 8},
            "sampler.gen_length=20 is not a multiple of block_length=8: blocks tile the canvas, so "
            "choose a divisor",
        ),
        (
            {"gen_length": 8, "block_length": 8, "steps": 9},
            "sampler.steps=9 is more than gen_length=8: every step reveals at least one token, so "
            "choose at most 8",
        ),
    ],
    ids=str,
)
def test_sampler_settings_that_do_not_fit_together_are_refused(
    sampler: dict[str, int], message: str
) -> None:
    assert refusal({"sampler": sampler}) == message
    assert refusal({"sampler": sampler}, SFTConfig) == message


def test_a_group_of_one_is_refused() -> None:
    message = refusal({"training": {"num_generations": 1}})
    assert message.startswith("training.num_generations=1 with advantage.name=leave_one_out: ")
    assert message.endswith("so sample at least 2")
    assert validate(TrainConfig, {"training": {"num_generations": 2}})


def test_an_objective_that_compares_no_completions_takes_one() -> None:
    config = validate(
        TrainConfig, {"objective": {"name": "astar_po"}, "training": {"num_generations": 1}}
    )
    assert config.training.num_generations == 1


# --- what is filled in --------------------------------------------------------------------------


def test_an_empty_recipe_is_the_default_run() -> None:
    config = validate(TrainConfig, {})
    assert config == TrainConfig()
    assert config.objective == ESPO()
    assert config.estimator == ELBO(num_mc=2, coupled=True, stratified=True)
    assert config.sampler == Sampler()
    assert config.training.tokens_per_pass == 16384


def test_settings_become_the_objects_that_do_the_work() -> None:
    config = validate(
        TrainConfig,
        {
            "objective": {"name": "espo", "beta": 0.5, "kl": "k3"},
            "estimator": {"name": "time_uniform", "num_mc": 3},
            "model": {"lora": {"r": 4}},
            "training": {"max_tokens_per_batch": 99},
        },
    )
    assert config.objective == ESPO(beta=0.5, kl="k3")
    assert config.estimator == TimeUniform(num_mc=3)
    assert config.model.lora == LoRA(r=4, alpha=64)
    assert config.training.tokens_per_pass == 99


def test_objects_are_taken_as_they_are() -> None:
    config = validate(
        TrainConfig,
        {"objective": ESPO(beta=0.1), "estimator": OneStep(), "sampler": Sampler(temperature=0.5)},
    )
    assert (config.objective, config.estimator) == (ESPO(beta=0.1), OneStep())
    assert config.sampler == Sampler(temperature=0.5)


@dataclass(frozen=True)
class Borrowed(Objective):
    """An objective with a paper of its own."""

    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "time_uniform", "num_mc": 7, "stratified": True},
        "advantage": {"name": "group_norm", "eps": 1e-6},
    }

    def __call__(self, inputs: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def borrowed(monkeypatch: pytest.MonkeyPatch) -> Borrowed:
    monkeypatch.setitem(OBJECTIVES, "borrowed", Borrowed)
    return Borrowed()


def test_an_objective_brings_its_papers_settings(borrowed: Borrowed) -> None:
    for objective in (borrowed, {"name": "borrowed"}):
        config = validate(TrainConfig, {"objective": objective})
        assert config.objective == borrowed
        assert config.estimator == TimeUniform(num_mc=7, stratified=True)
        assert (config.advantage.name, config.advantage.eps) == ("group_norm", 1e-6)


def test_what_is_set_wins_over_the_paper_and_the_rest_stays_the_papers(borrowed: Borrowed) -> None:
    raw = {"objective": borrowed, "estimator": {"num_mc": 2}, "advantage": {"unbiased": False}}
    config = validate(TrainConfig, raw)
    assert config.estimator == TimeUniform(num_mc=2, stratified=True)
    assert config.advantage.name == "group_norm"
    assert (config.advantage.eps, config.advantage.unbiased) == (1e-6, False)


def test_another_estimator_or_advantage_takes_nothing_from_the_paper(borrowed: Borrowed) -> None:
    raw = {
        "objective": borrowed,
        "estimator": {"name": "elbo", "num_mc": 5},
        "advantage": {"name": "group_mean"},
    }
    config = validate(TrainConfig, raw)
    assert config.estimator == ELBO(num_mc=5)
    assert (config.advantage.name, config.advantage.eps) == ("group_mean", 1e-4)


def test_a_given_estimator_object_wins_over_the_paper(borrowed: Borrowed) -> None:
    config = validate(TrainConfig, {"objective": borrowed, "estimator": OneStep()})
    assert config.estimator == OneStep()


def test_one_setting_leaves_the_rest_of_a_section_at_the_schemas_defaults() -> None:
    config = validate(
        SFTConfig,
        {
            "optimizer": {"weight_decay": 0.5},
            "checkpoint": {"keep": 9},
            "estimator": {"num_mc": 4},
        },
    )
    assert config.optimizer.weight_decay == 0.5
    assert (config.optimizer.lr, config.optimizer.max_grad_norm) == (1e-3, 1.0)
    assert (config.checkpoint.keep, config.checkpoint.every) == (9, 500)
    assert config.estimator == ELBO(num_mc=4, coupled=False)
    assert validate(TrainConfig, {"estimator": {"num_mc": 4}}).estimator == ELBO(num_mc=4)


def test_a_mapping_that_is_validated_is_left_as_it_was() -> None:
    raw = {"estimator": {"num_mc": 4}, "sampler": {"steps": 64}}
    validate(TrainConfig, raw)
    assert raw == {"estimator": {"num_mc": 4}, "sampler": {"steps": 64}}


def test_defaults_are_not_shared_between_configs() -> None:
    first, second = validate(TrainConfig, {}), validate(TrainConfig, {})
    first.task.options["size"] = 4
    first.logging.trackers.append("wandb")
    assert second.task.options == {}
    assert second.logging.trackers == ["tensorboard"]
    assert TrainConfig().task.options == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_schema_knows_its_command(command: str) -> None:
    assert COMMANDS[command]().command == command
    other = next(name for name in COMMANDS if name != command)
    assert refusal({"command": other}, COMMANDS[command]).startswith(f"command='{other}'")
