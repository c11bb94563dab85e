"""Measuring a policy on problems with an exact verifier: accuracy with a 95 % Wilson interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unmask.config import TrainConfig
from unmask.maskings import derive_seed
from unmask.models.policy import Policy, load_policy
from unmask.sampling.sampler import OnStep
from unmask.sampling.settings import Sampler
from unmask.training.data import Example
from unmask.training.rewards import RewardTerm
from unmask.training.scoring import write_and_score
from unmask.training.setup import build_problems

# 97.5 % quantile of the normal distribution.
Z_95 = 1.959963984540054


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


def wilson(successes: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson, JASA 1927).

    Args:
        successes: number of successes.
        count: number of trials, at least 1.

    Returns:
        Lower and upper bound in [0, 1].
    """
    rate, z2 = successes / count, Z_95**2
    centre = rate + z2 / (2 * count)
    half = Z_95 * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count * count))
    scale = 1 + z2 / count
    # Rounding must not put the bounds of no and of all successes inside (0, 1).
    low = (centre - half) / scale if successes > 0 else 0.0
    high = (centre + half) / scale if successes < count else 1.0
    return low, high


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


def evaluate(config: TrainConfig, policy: Policy | None = None) -> dict[str, dict[str, Any]]:
    """Measure a recipe's model on its held-out problems, greedily and sampled.

    Args:
        config: `model`, `task`, `reward`, `sampler`, `evaluation` and `seed` are read.
        policy: already loaded; None loads `config.model`.

    Returns:
        What `summarise` gives, by "greedy" and "sampled".

    Raises:
        ValueError: for a model or data that do not fit.
    """
    problems = build_problems(config)
    if problems.held_out_data is None:
        raise ValueError(
            f"task.eval_split={config.task.eval_split!r} has no problems: name another split"
        )
    if policy is None:
        policy = load_policy(
            config.model.path,
            family=config.model.family,
            dtype=config.model.dtype,
            attention=config.model.attention,
            mask_token_id=config.model.mask_token_id,
            block_length=config.model.block_length,
            quantization=config.model.quantization,
            device="cuda" if config.model.quantization else "cpu",
        )
    problems.encode(policy, config)
    return {
        name: summarise(
            measure(
                policy,
                problems.held_out,
                sampler,
                reward=problems.reward,
                exact=problems.exact,
                seed=config.seed,
                max_tokens=config.training.tokens_per_pass,
            )
        )
        for name, sampler in measured_samplers(config).items()
    }


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
