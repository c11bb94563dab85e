"""Which hidden positions a denoising step reveals: a score per position, the highest go first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def low_confidence(logp: Tensor, chosen: Tensor | None, noise: Tensor) -> Tensor:
    """Probability of the chosen token, or of the likeliest before one is chosen (LLaDA)."""
    best = logp.amax(-1) if chosen is None else logp.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    return best.exp()


def random(logp: Tensor, chosen: Tensor | None, noise: Tensor) -> Tensor:
    """A uniform order."""
    return noise


def entropy(logp: Tensor, chosen: Tensor | None, noise: Tensor) -> Tensor:
    """Lowest entropy first (Dream)."""
    return (logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)


def margin(logp: Tensor, chosen: Tensor | None, noise: Tensor) -> Tensor:
    """Largest gap between the two likeliest tokens first (Dream)."""
    top = logp.topk(2, dim=-1).values.exp()
    return top[..., 0] - top[..., 1]


def left_to_right(logp: Tensor, chosen: Tensor | None, noise: Tensor) -> Tensor:
    """The order of reading."""
    return -torch.arange(logp.shape[1], device=logp.device).expand(logp.shape[:2]).float()


# Each takes log-probabilities [N, K, V] at temperature 1, the chosen tokens [N, K] or None, and
# uniform noise [N, K]; positions come in reading order.
ORDERS: dict[str, Callable[[Tensor, Tensor | None, Tensor], Tensor]] = {
    "low_confidence": low_confidence,
    "random": random,
    "entropy": entropy,
    "margin": margin,
    "left_to_right": left_to_right,
}
