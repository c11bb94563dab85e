"""A recipe and a model -> rollouts, measurements, advice, and the files that hold them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.config import TrainConfig
from unmask.diagnosis.estimates import (
    CANDIDATES,
    Subject,
    Target,
    elbo_target,
    estimator_moments,
)
from unmask.diagnosis.gradients import gradient_signal
from unmask.estimators import Block, Estimator
from unmask.models.policy import Policy
from unmask.recipe import config_hash
from unmask.training.data import take
from unmask.training.rollout import Rollout, collect
from unmask.training.setup import build_problems, load_for_training

RECIPE = "recipe"


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Args:
        prompts: prompts; each gets training.num_generations completions.
        num_mc: numbers of draws to compare.
        repeats: independent estimates of each completion, and redraws of each gradient.
        target_draws: coupled draws of the target, per completion.
        share: a number of draws is enough where the standard deviation of an estimate is below
            this share of the spread between completions of a prompt.
        estimators: names out of `CANDIDATES`; empty = all.

    Raises:
        ValueError: for a number that is too small or an unknown estimator.
    """

    prompts: int = 4
    num_mc: Sequence[int] = (1, 2, 4, 8, 16, 32)
    repeats: int = 8
    target_draws: int = 1024
    share: float = 0.5
    estimators: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Validate the settings."""
        lowest = {"prompts": 1, "repeats": 2, "target_draws": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ValueError(
                    f"--{option} {getattr(self, name)} is too small: give at least {least}"
                )
        if not self.num_mc or min(self.num_mc) < 1:
            shown = ",".join(map(str, self.num_mc))
            raise ValueError(f"--num-mc {shown!r} is no list of draws: give some, such as 1,2,4")
        if not 0 < self.share < math.inf:
            raise ValueError(f"--share {self.share} is no share: give a finite number above 0")
        unknown = [name for name in self.estimators if name not in CANDIDATES]
        if unknown:
            raise ValueError(
                f"--estimators {unknown[0]!r} is unknown: choose {', '.join(CANDIDATES)}"
            )

    @staticmethod
    def parse(num_mc: str, estimators: str, **others: Any) -> Settings:
        """Settings with lists as text, separated by commas."""
        try:
            counts = sorted({int(item) for item in num_mc.split(",")})
        except ValueError:
            raise ValueError(
                f"--num-mc {num_mc!r} is no list of draws: give some, such as 1,2,4"
            ) from None
        names = [name.strip() for name in estimators.split(",") if name.strip()]
        return Settings(num_mc=counts, estimators=names, **others)


def diagnose(
    config: TrainConfig, settings: Settings, on_stage: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure a recipe's model on completions that it writes for the recipe's prompts.

    Args:
        config: the model, the task, the sampler and the seed are read, and the estimator, whose
            numbers of draws the gradient is measured for.
        settings: how much to measure.
        on_stage: told what is being measured.

    Returns:
        What `diagnose.json` holds.

    Raises:
        ValueError: for a model or data that do not fit.
    """
    began = time.monotonic()
    if config.training.num_generations < 2:
        raise ValueError(
            f"training.num_generations={config.training.num_generations}: estimates are compared "
            "with the spread between completions of a prompt; set at least 2"
        )
    problems = build_problems(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_for_training(config, torch.device(device))
    problems.encode(policy, config)
    on_stage("writing completions")
    group_size = config.training.num_generations
    examples = take(problems.train, 0, settings.prompts, config.seed)
    rollout = collect(policy, problems, config, examples, 0, rollout=0)
    subject = subject_of(policy, rollout, config)
    on_stage("estimating the target")
    target = elbo_target(subject, settings.target_draws)
    own, chosen = candidates(config, settings.estimators)
    rows, gradients = [], []
    for name, estimator in chosen.items():
        on_stage(f"measuring {name}")
        for moments in estimator_moments(
            subject, name, estimator, settings.num_mc, settings.repeats
        ):
            rows.append({"estimator": name, **moments.against(target)})
    for count, estimator in sizes(chosen[own], settings.num_mc).items():
        on_stage(f"measuring the gradient of {own}, num_mc={count}")
        found = gradient_signal(
            subject, own, estimator, rollout.advantages, group_size, settings.repeats
        )
        gradients.append(
            {
                "num_mc": count,
                "signal": found.signal,
                "noise": found.noise,
                "snr": found.ratio,
            }
        )
    spread = spread_within_groups(target, group_size)
    result = {
        "model": config.model.path,
        "task": config.task.name,
        "config_hash": config_hash(config),
        "seed": config.seed,
        "canvas": subject.canvas,
        "prompts": settings.prompts,
        "completions": len(rollout.sequence_ids),
        "repeats": settings.repeats,
        "own": own,
        "share": settings.share,
        "spread": spread,
        "target": {
            "elbo": target.value.mean().item(),
            "se": target.noise.sum().sqrt().item() / len(target.value),
            "num_draws": target.num_draws,
        },
        "estimates": rows,
        "gradients": gradients,
    }
    result["advice"] = advice(rows, own, spread, settings.share)
    result["seconds"] = time.monotonic() - began
    return result


def subject_of(policy: Policy, rollout: Rollout, config: TrainConfig) -> Subject:
    """The completions of a rollout as they are measured."""
    ids = rollout.completions.completion_ids
    eos_ids = torch.tensor(policy.family.eos_ids, dtype=ids.dtype, device=ids.device)
    return Subject(
        policy.denoiser,
        rollout.completions,
        rollout.lengths,
        rollout.step_map,
        torch.isin(ids, eos_ids).cpu(),
        policy.family.mask_token_id,
        config.training.tokens_per_pass,
        config.seed,
        rollout.entropy,
    )


def candidates(config: TrainConfig, names: Iterable[str]) -> tuple[str, dict[str, Estimator]]:
    """The name of the recipe's estimator, and all that are measured, it among them.

    The recipe's own goes by the candidate's name that it differs from in nothing but num_mc, and
    by "recipe" where there is none.
    """
    known = dict(CANDIDATES)
    known["block"] = Block(block_length=config.sampler.block_length)
    chosen = {name: known[name] for name in names} or dict(known)
    for name, estimator in known.items():
        if sizes(estimator, [1]) == sizes(config.estimator, [1]):
            chosen[name] = estimator
            return name, chosen
    return RECIPE, {**chosen, RECIPE: config.estimator}


def sizes(estimator: Estimator, num_mc: Iterable[int]) -> dict[int, Estimator]:
    """The estimator by number of draws; as it is, under 1, where it has no num_mc."""
    if not any(field.name == "num_mc" for field in fields(estimator)):  # type: ignore[arg-type]
        return {1: estimator}
    return {count: replace(estimator, num_mc=count) for count in num_mc}  # type: ignore[type-var]


def spread_within_groups(target: Target, group_size: int) -> float:
    """Standard deviation between completions of one prompt, pooled over prompts."""
    groups: Tensor = target.value.view(-1, group_size)
    return groups.var(1).mean().sqrt().item()


def advice(rows: Sequence[dict[str, Any]], own: str, spread: float, share: float) -> str:
    """One sentence: the smallest number of draws that is enough for the recipe's estimator."""
    mine = sorted((row for row in rows if row["estimator"] == own), key=lambda row: row["num_mc"])
    rule = f"{share:g} x the spread between completions of one prompt ({spread:.3g} nats)"
    for row in mine:
        if row["std"] < share * spread:
            return (
                f"num_mc={row['num_mc']} ({row['views']} forward passes) is the smallest measured "
                f"at which {own}, the recipe's estimator, has a standard deviation "
                f"({row['std']:.3g} nats) below {rule}."
            )
    last = mine[-1]
    return (
        f"No measured num_mc is enough: at num_mc={last['num_mc']} {own}, the recipe's estimator, "
        f"still has a standard deviation of {last['std']:.3g} nats, not below {rule}."
    )


def output_folder(template: str) -> Path:
    """The folder of `output_dir` with {time} filled in."""
    return Path(template.replace("{time}", time.strftime("%Y%m%d-%H%M%S"))).expanduser()
