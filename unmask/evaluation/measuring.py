"""Measuring a policy on problems with an exact verifier: accuracy with a 95 % Wilson interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unmask.config import TrainConfig
from unmask.evaluation.statistics import wilson
from unmask.maskings import derive_seed
from unmask.models.policy import Policy
from unmask.sampling.sampler import OnStep
from unmask.sampling.settings import Sampler
from unmask.training.data import Example
from unmask.training.rewards import RewardTerm
from unmask.training.scoring import write_and_score


@dataclass(frozen=True)
class Measurement:
    """One answer to one problem.

    Attributes:
        index: row of the problem in its data set.
        text: the completion.
        reward: the training reward, NaN where not scored.
        solved: 1.0 or 0.0 by the exact verifier, or None where there is none.
    """

    index: int
    text: str
    reward: float
    solved: float | None


def measure(
    policy: Policy,
    examples: Sequence[Example],
    sampler: Sampler,
    *,
    reward: Sequence[RewardTerm],
    exact: Callable[..., Sequence[float | None]] | None,
    seed: int,
    max_tokens: int,
    on_step: OnStep | None = None,
) -> list[Measurement]:
    """One completion of each problem, scored; the i-th depends on `seed` and its row alone.

    Args:
        policy: the model.
        examples: the problems.
        sampler: the settings; at temperature 0 the seed is read by the random order alone.
        reward: terms of the training reward.
        exact: the exact verifier, or None.
        seed: of the draws.
        max_tokens: padded tokens of one forward pass.
        on_step: see `unmask.sampling.sampler.sample`.
    """
    if not examples:
        return []
    seeds = [derive_seed("evaluation", seed, example.index) for example in examples]
    scored = write_and_score(
        policy,
        examples,
        sampler,
        seeds,
        reward=reward,
        exact=exact,
        max_tokens=max_tokens,
        on_step=on_step,
    )
    return [
        Measurement(example.index, text, value, right)
        for example, text, value, right in zip(
            examples, scored.texts, scored.totals, scored.solved, strict=True
        )
    ]


def summarise(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Accuracy with its interval, number of problems and mean reward.

    Returns:
        `accuracy`, `low` and `high` (None without an exact verifier), `n`, `reward`.
    """
    solved = [item.solved for item in measurements if item.solved is not None]
    rewards = [item.reward for item in measurements if not math.isnan(item.reward)]
    mean = math.fsum(rewards) / len(rewards) if rewards else None
    if not solved:
        return {"accuracy": None, "low": None, "high": None, "n": len(measurements), "reward": mean}
    low, high = wilson(math.fsum(solved), len(solved))
    accuracy = math.fsum(solved) / len(solved)
    return {"accuracy": accuracy, "low": low, "high": high, "n": len(solved), "reward": mean}


def measured_samplers(config: TrainConfig) -> dict[str, Sampler]:
    """The samplers that `evaluation` asks for, by name."""
    samplers = {}
    if config.evaluation.greedy:
        samplers["greedy"] = at_temperature(config.sampler, 0.0)
    if config.evaluation.sampled:
        samplers["sampled"] = at_temperature(config.sampler, config.evaluation.temperature)
    return samplers


def at_temperature(sampler: Sampler, temperature: float) -> Sampler:
    """The same sampler at another temperature; 0 is greedy."""
    return replace(sampler, temperature=temperature)
