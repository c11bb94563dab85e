"""Values of prompts, from what the reference policy writes for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from unmask.generation import as_reply, generate
from unmask.maskings import derive_seed
from unmask.models.denoiser import Denoiser
from unmask.models.policy import Policy
from unmask.models.reference import Reference
from unmask.objectives import Objective
from unmask.sampling.settings import Sampler
from unmask.training.data import Example
from unmask.training.rewards import RewardTerm, score


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
        samples = generate(
            replace(policy, denoiser=cast(Denoiser, denoiser)),
            [example.prompt_ids for example in repeated],
            sampler,
            seeds,
            max_tokens=max_tokens,
        )
    ids = samples.completion_ids.tolist()
    prompts = [example.prompt for example in repeated]
    replies = [
        as_reply(prompt, policy.decode(row)) for prompt, row in zip(prompts, ids, strict=True)
    ]
    columns = {name: [e.columns[name] for e in repeated] for name in repeated[0].columns}
    totals, _ = score(reward, prompts, replies, ids, columns)
    rewards = torch.tensor(totals, dtype=torch.float64).view(len(examples), count)
    return objective.value(rewards).float(), samples.num_forwards
