"""Values of prompts, from what the reference policy writes for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from unmask.maskings import derive_seed
from unmask.models.denoiser import Denoiser
from unmask.models.policy import Policy
from unmask.models.reference import Reference
from unmask.objectives import Objective
from unmask.sampling.settings import Sampler
from unmask.training.data import Example
from unmask.training.rewards import RewardTerm
from unmask.training.scoring import write_and_score


def prompt_values(
    policy: Policy,
    reference: Reference,
    examples: Sequence[Example],
    objective: Objective,
    *,
    sampler: Sampler,
    reward: Sequence[RewardTerm],
    seed: int,
    max_tokens: int,
) -> tuple[Tensor, int]:
    """`objective.value` of each prompt, and the forward passes that it took.

    The same prompt always gets the same completions, so that its value is what a pass over the
    data before training would give it, as long as the reference stays.

    Args:
        policy: whose reference writes the completions.
        reference: of the run.
        examples: N prompts.
        objective: says how many completions, and what their rewards are worth.
        sampler: the settings.
        reward: terms of the reward.
        seed: of the run.
        max_tokens: padded tokens of one forward pass.

    Returns:
        float32 [N], NaN where nothing was scored; sequences x denoising passes.
    """
    count = objective.value_samples
    repeated = [example for example in examples for _ in range(count)]
    seeds = [
        derive_seed("value", seed, str(example.prompt_ids), number)
        for example in examples
        for number in range(count)
    ]
    with reference.active(policy.denoiser) as denoiser:
        scored = write_and_score(
            replace(policy, denoiser=cast(Denoiser, denoiser)),
            repeated,
            sampler,
            seeds,
            reward=reward,
            max_tokens=max_tokens,
        )
    rewards = torch.tensor(scored.totals, dtype=torch.float64).view(len(examples), count)
    return objective.value(rewards).float(), scored.samples.num_forwards
