"""What a trainer is given -> one config, problems to train and measure on, and rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.config import TrainConfig
from unmask.models.policy import Policy
from unmask.models.settings import LoRA
from unmask.recipe import validate
from unmask.tasks import Task, get_task
from unmask.training.data import Example, encode_examples, load_dataset, require_column
from unmask.training.preferences import require_preferences
from unmask.training.rewards import RewardFunction, RewardTerm, load_function

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Problems:
    """Prompts and what scores their completions.

    Attributes:
        train_data: with a `prompt` column.
        held_out_data: the same, or None where nothing is measured.
        reward: terms of the reward.
        exact: the exact verifier, or None.
        train: encoded by `encode`.
        held_out: encoded by `encode`.
    """

    train_data: Dataset
    held_out_data: Dataset | None
    reward: list[RewardTerm]
    exact: RewardFunction | None
    train: list[Example] = field(default_factory=list)
    held_out: list[Example] = field(default_factory=list)

    def encode(self, policy: Policy, config: TrainConfig) -> None:
        """Encode all prompts, and check that the longest leaves room for a completion."""
        limits: dict[str, Any] = {
            "max_prompt_length": config.task.max_prompt_length,
            "long_prompts": config.task.long_prompts,
        }
        self.train = encode_examples(
            self.train_data, policy.encode, source="the training set", **limits
        )
        if self.held_out_data is not None:
            self.held_out = encode_examples(
                self.held_out_data, policy.encode, source="the evaluation set", **limits
            )
        longest = max(len(example.prompt_ids) for example in [*self.train, *self.held_out])
        policy.require_room(longest + config.sampler.gen_length)


def build_config(
    config: TrainConfig | None,
    model: str | Policy | None,
    reward: RewardFunction | Sequence[RewardFunction] | None,
    lora: LoRA | None,
    sections: Mapping[str, Any],
) -> TrainConfig:
    """One validated config from a recipe and the sections that override it."""
    given = () if config is None else config.model_fields_set
    raw = {name: getattr(config, name) for name in given}
    raw.update(sections)
    settings = raw.get("model") or {}
    settings = dict(settings if isinstance(settings, Mapping) else settings.model_dump())
    if isinstance(model, str):
        settings["path"] = model
    elif model is not None:
        settings["path"] = str(model.source)
    if lora is not None:
        settings["lora"] = lora
    raw["model"] = settings
    if reward is not None:
        functions = reward if isinstance(reward, Sequence) else [reward]
        raw["reward"] = [
            {"function": f"{getattr(f, '__module__', '?')}:{_name(f)}"} for f in functions
        ]
    validated = validate(TrainConfig, raw)
    assert isinstance(validated, TrainConfig)
    validated.output_dir = validated.output_dir.replace("{recipe}", "run")
    return validated


def build_problems(
    config: TrainConfig,
    *,
    reward: RewardFunction | Sequence[RewardFunction] | None = None,
    train: Dataset | None = None,
    held_out: Dataset | None = None,
    exact: RewardFunction | None = None,
) -> Problems:
    """Data and rewards, before any model is loaded.

    Raises:
        ValueError: if the data cannot be read, or a reward cannot be found.
    """
    task = None
    if train is None or reward is None:
        task = get_task(config.task.name, sandbox=config.sandbox, **config.task.options)
    given = train is not None or config.task.dataset is not None
    if train is None:
        train = _train_data(config, task)
        if held_out is None:
            held_out = _held_out_data(config, task)
    if config.objective.offline:
        require_preferences(train)
    require_column(train, "prompt", "the training set")
    if held_out is not None:
        held_out = held_out.select(range(min(len(held_out), config.evaluation.num_examples)))
    if reward is not None:
        functions = reward if isinstance(reward, Sequence) else [reward]
        terms = [RewardTerm(_name(function), function) for function in functions]
    elif config.reward is not None:
        terms = [
            RewardTerm(term.function.rpartition(":")[2], load_function(term.function), term.weight)
            for term in config.reward
        ]
    else:
        assert task is not None
        terms = [RewardTerm(task.name, task.reward)]
    if exact is None and task is not None and not (given and (reward or config.reward)):
        exact = task.exact
    return Problems(train, held_out, terms, exact)


def _train_data(config: TrainConfig, task: Task | None) -> Dataset:
    settings = config.task
    if settings.dataset is not None:
        return _converted(config, task, load_dataset(settings.dataset, settings.split))
    return _generated(config, task, settings.split, settings.size)


def _held_out_data(config: TrainConfig, task: Task | None) -> Dataset | None:
    settings = config.task
    if settings.dataset is not None:
        if Path(settings.dataset).expanduser().is_file():
            return None  # all of it is trained on
        try:
            given = load_dataset(settings.dataset, settings.eval_split)
        except ValueError:
            return None
        return _converted(config, task, given)
    return _generated(config, task, settings.eval_split, config.evaluation.num_examples)


def _converted(config: TrainConfig, task: Task | None, dataset: Dataset) -> Dataset:
    """Rows of a published set in the task's own form, where the task knows such sets."""
    convert = getattr(task, "convert", None)
    return dataset if convert is None else convert(dataset, config.task.prompt)


def _generated(config: TrainConfig, task: Task | None, split: str, size: int) -> Dataset:
    assert task is not None
    prompt = config.task.prompt or task.prompts[0]
    return task.build(split, size=size, seed=config.seed, prompt=prompt)


def _name(function: RewardFunction) -> str:
    return getattr(function, "__name__", type(function).__name__)
