"""What a trainer is given -> one config, problems to train and measure on, and rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unmask.config import ModelConfig, SFTConfig, TrainConfig
from unmask.models.policy import Policy, Prompt, load_policy
from unmask.models.quantization import require_trainable
from unmask.models.settings import LoRA
from unmask.recipe import validate
from unmask.tasks import Task, get_task
from unmask.tasks.draws import MOST_EXAMPLES
from unmask.tasks.reasoning_gym import ReasoningGym
from unmask.training.data import Example, encode_examples, load_dataset, require_column
from unmask.training.preferences import PREFERENCE_COLUMNS, require_preferences
from unmask.training.rewards import RewardFunction, RewardTerm, load_function

# `task.dataset` for the few problems that the package brings along.
SAMPLE = "sample"
# Where a reasoning-gym task is asked for "all" problems.
GYM_EXAMPLES = 1_000

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
                self.held_out_data,
                encoder(policy, config),
                source="the evaluation set",
                **limits,
            )
        examples = [*self.train, *self.held_out]
        longest = max(len(example.prompt_ids) for example in examples)
        policy.require_room(longest + config.sampler.gen_length)
        policy.require_blocks(config.sampler.block_length)
        size = config.sampler.block_length
        if policy.family.block_length and any(len(row.prompt_ids) % size for row in examples):
            config.sampler.require_two_steps()


def load_for_training(config: TrainConfig | SFTConfig, device: torch.device) -> Policy:
    """The recipe's policy, in the precision that it is trained in.

    Raises:
        ValueError: for a checkpoint that cannot be trained so.
    """
    model = config.model
    require_trainable(model.lora, model.quantization)
    settings = {name: getattr(model, name) for name in ModelConfig.model_fields}
    if model.dtype == "auto" and model.lora is None:
        settings["dtype"] = "float32"
    return load_policy(
        **settings,
        autocast=torch.bfloat16 if config.training.precision == "bf16" else None,
        seed=config.seed,
        device=device,
    )


def describe(policy: Policy, config: TrainConfig | SFTConfig) -> None:
    """Keep in the policy what it was trained with, for commands that are given it alone."""
    told = {name: getattr(config.task, name) for name in ("name", "prompt", "options")}
    policy.defaults = {"sampler": asdict(config.sampler), "task": told}


def task_of(config: TrainConfig) -> Task:
    """The task that a recipe names; reasoning-gym's takes `task.dataset` for its own."""
    options = dict(config.task.options)
    dataset = config.task.dataset
    if config.task.name == ReasoningGym.name and dataset not in (None, SAMPLE):
        options["dataset"] = dataset
    return get_task(config.task.name, config.sandbox, **options)


def is_own_data(config: TrainConfig) -> bool:
    """Whether the problems are the user's, which the task's verifier may not fit."""
    return config.task.name != ReasoningGym.name and config.task.dataset not in (None, SAMPLE)


def encoder(policy: Policy, config: TrainConfig) -> Callable[[Prompt], list[int]]:
    """A prompt's tokens for measuring: with what the protocol puts into the model's mouth."""
    task = task_of(config)
    prompt = config.task.prompt or task.prompts[0]
    opening = task.prefill(prompt) if prompt in task.prompts else ""
    ids = policy.encode_completion(opening) if opening else []
    return lambda prompt: [*policy.encode(prompt), *ids]


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
        task = task_of(config)
    given = train is not None or is_own_data(config)
    if train is None:
        train = _train_data(config, task)
        if held_out is None:
            held_out = _held_out_data(config, task)
    if config.objective.offline:
        require_preferences(train)
    require_column(train, "prompt", "the training set")
    if held_out is not None:
        held_out = first_rows(held_out, config.evaluation.num_examples)
    terms, verifier = build_scoring(config, task, reward=reward, given=given)
    return Problems(train, held_out, terms, exact or verifier)


def build_scoring(
    config: TrainConfig,
    task: Task | None,
    *,
    reward: RewardFunction | Sequence[RewardFunction] | None = None,
    given: bool,
) -> tuple[list[RewardTerm], RewardFunction | None]:
    """Terms of the reward and the exact verifier.

    Args:
        config: its `reward` is read.
        task: None only where `reward` is given.
        reward: functions that take the place of the config's.
        given: whether the data is the user's own; with own rewards the task then verifies nothing.

    Raises:
        ValueError: if a reward cannot be found.
    """
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
    own = given and (reward or config.reward)
    return terms, None if task is None or own else task.exact


def evaluation_data(config: TrainConfig, task: Task) -> Dataset:
    """The problems of `unmask eval`: of a file all rows, else `task.eval_split`.

    Raises:
        ValueError: if they cannot be read, or there are none.
    """
    settings = config.task
    data = read_task(config, task, settings.eval_split, config.evaluation.num_examples)
    if not len(data):
        raise ValueError(
            f"task.eval_split={settings.eval_split!r} has no problems: name another split or "
            "data set"
        )
    require_column(data, "prompt", "the evaluation set")
    return first_rows(data, config.evaluation.num_examples)


def first_rows(data: Dataset, count: int | None) -> Dataset:
    """At most so many rows from the beginning; None = all."""
    return data if count is None else data.select(range(min(len(data), count)))


def read_task(config: TrainConfig, task: Task, split: str, size: int | None) -> Dataset:
    """One split of the task's problems: its own, the packaged sample's, or a data set's.

    Args:
        config: its `task` and `seed` are read.
        task: turns rows of a known schema into prompts and columns.
        split: ignored for a file.
        size: problems to make or take; None = all there are.

    Raises:
        ValueError: if they cannot be read, or the columns are not what the task knows.
    """
    settings = config.task
    prompt = settings.prompt or task.prompts[0]
    if task.name == ReasoningGym.name:
        return task.build(split, size=size or GYM_EXAMPLES, seed=config.seed, prompt=prompt)
    if settings.dataset == SAMPLE and hasattr(task, "sample"):
        return task.sample(split, prompt)
    if settings.dataset is None or settings.dataset == SAMPLE:
        if size is None and getattr(task, "endless", False):
            raise ValueError(
                f"evaluation.num_examples=null: task {task.name} makes problems without end; give "
                "a number"
            )
        return task.build(split, size=size or MOST_EXAMPLES, seed=config.seed, prompt=prompt)
    text = (*getattr(task, "text_columns", ()), *PREFERENCE_COLUMNS)
    data = load_dataset(settings.dataset, split, text)
    return task.convert(data, prompt) if hasattr(task, "convert") and len(data) else data


def _train_data(config: TrainConfig, task: Task | None) -> Dataset:
    assert task is not None
    return read_task(config, task, config.task.split, config.task.size)


def _held_out_data(config: TrainConfig, task: Task | None) -> Dataset | None:
    settings = config.task
    assert task is not None
    own = not is_own_data(config)
    if not own and Path(str(settings.dataset)).expanduser().is_file():
        return None  # all of it is trained on
    try:
        return read_task(config, task, settings.eval_split, config.evaluation.num_examples)
    except ValueError:
        if own:
            raise
        return None


def _name(function: RewardFunction) -> str:
    return getattr(function, "__name__", type(function).__name__)
