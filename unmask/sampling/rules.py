"""How many tokens a denoising step reveals: by the schedule, or more where the model is sure.

Parallel rules reveal at least what the schedule asks for, so that `steps` bounds the number of
passes; with steps = gen_length that is the one token of their papers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.sampling.settings import Sampler


def tokens_per_step(block_length: int, steps_per_block: int) -> list[int]:
    """How many tokens each step of a block reveals; the first steps take the remainder (LLaDA)."""
    share, rest = divmod(block_length, steps_per_block)
    return [share + (step < rest) for step in range(steps_per_block)]


def num_reveals(
    confidences: Tensor, entropies: Tensor | None, scheduled: Tensor, sampler: Sampler
) -> Tensor:
    """Tokens that each row reveals, those of the highest score: int64 [N].

    - `threshold` t: all of confidence >= t (Fast-dLLM, arXiv 2505.22618).
    - `factor` f: the largest n with (n + 1) (1 - c_n) < f, c_n the n-th highest confidence
      (Fast-dLLM, section 3.3).
    - `entropy_bound` b: the largest n with sum - max of the first n entropies <= b
      (EB-Sampler, arXiv 2505.24857).

    Args:
        confidences: float32 [N, K], highest first; -inf behind the last hidden position.
        entropies: float32 [N, K] in the same order, inf behind; None unless bounded.
        scheduled: int64 [N], what the schedule reveals.
        sampler: the settings.
    """
    counts = scheduled
    if sampler.threshold is not None:
        counts = (confidences >= sampler.threshold).sum(-1)
    elif sampler.factor is not None:
        ranks = torch.arange(1, confidences.shape[1] + 1, device=confidences.device)
        counts = ((ranks + 1) * (1 - confidences) < sampler.factor).sum(-1)
    elif sampler.entropy_bound is not None:
        assert entropies is not None
        # Behind the last hidden position inf - inf is NaN, which is above every bound too.
        spread = entropies.cumsum(-1) - entropies.cummax(-1).values
        counts = (spread <= sampler.entropy_bound).sum(-1)
    if sampler.max_tokens_per_step is not None:
        counts = counts.clamp(max=sampler.max_tokens_per_step)
    return counts.maximum(scheduled)
