"""Sequence-likelihood estimates from the token log-probabilities of a completion's views."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def draw_estimates(logp: Tensor, weight: Tensor, views_per_draw: int = 1) -> Tensor:
    """The estimate of every draw: `sum over its views and tokens of weight * logp`.

    With ELBO maskings each is an unbiased draw of the evidence lower bound of
    log p(completion | prompt) (ESPO, arXiv 2512.03759): a bound, not a log-probability.

    Args:
        logp: float [B, M, L], log-probabilities; only read where `weight > 0`.
        weight: float [B, M, L].
        views_per_draw: consecutive views that make one draw.

    Returns:
        float [B, M / views_per_draw].
    """
    views = (weight * logp.masked_fill(weight == 0, 0.0)).sum(-1)
    estimates: Tensor = views.unflatten(1, (-1, views_per_draw)).sum(-1)
    return estimates


def sequence_estimate(logp: Tensor, weight: Tensor, views_per_draw: int = 1) -> Tensor:
    """The estimate of every sequence, the mean of `draw_estimates` over draws: float [B]."""
    return draw_estimates(logp, weight, views_per_draw).mean(1)
