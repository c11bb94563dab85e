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


def estimate_variance(logp: Tensor, weight: Tensor, views_per_draw: int = 1) -> Tensor:
    """Variance of `sequence_estimate` over draws, `sample variance of the J draws / J`: float [B].

    Unbiased where the draws are independent. Draws that are spread on purpose (stratified, at the
    nodes of a quadrature) differ more among each other than their mean does from its expectation,
    so that the value is too high for them. NaN for a single draw.

    Args:
        logp: float [B, M, L], only read where `weight > 0`.
        weight: float [B, M, L].
        views_per_draw: M / J.
    """
    draws = draw_estimates(logp, weight, views_per_draw)
    variance: Tensor = draws.var(1) / draws.shape[1]
    return variance


def token_estimates(logp: Tensor, weight: Tensor, views_per_draw: int = 1) -> Tensor:
    """Each token's share of a draw: `sum over the draw's views of weight * logp`, float [B, J, L].

    Coupled-GRPO (arXiv 2506.20639) takes it for the token's log-probability.

    Args:
        logp: float [B, M, L], only read where `weight > 0`.
        weight: float [B, M, L].
        views_per_draw: M / J.
    """
    shares = weight * logp.masked_fill(weight == 0, 0.0)
    draws: Tensor = shares.unflatten(1, (-1, views_per_draw))
    return draws.sum(2)


def view_means(values: Tensor, scored: Tensor) -> Tensor:
    """Mean of the scored tokens of every view, 0 where a view scores none: float [B, M].

    Args:
        values: float [B, M, L], only read where `scored`.
        scored: bool [B, M, L].
    """
    return values.masked_fill(~scored, 0.0).sum(-1) / scored.sum(-1).clamp(min=1)


def mean_over_views(values: Tensor, scored: Tensor) -> Tensor:
    """Mean of a sequence's views that score a token at all: float [B].

    Args:
        values: float [B, M], 0 for views that score nothing.
        scored: bool [B, M, L].
    """
    return values.sum(1) / scored.any(-1).sum(1).clamp(min=1)


def eubo(logp: Tensor, scored: Tensor, lengths: Tensor, power: float) -> Tensor:
    """Evidence upper bound per token (SPG, arXiv 2510.09541): float [B].

    EUBO_i = (1/b) mean_l log( mean_m 1[l scored in m] p_ml^b / t_m ), over the tokens l that some
    view scores and the views m that score some token, with t_m = (tokens scored in m) / len_i. A
    bound from few views is itself estimated with a bias, and one view makes it no bound at all.

    Args:
        logp: float [B, M, L], only read where `scored`.
        scored: bool [B, M, L].
        lengths: int [B], tokens up to and including the first EOS.
        power: b >= 1.
    """
    share = scored.sum(-1).clamp(min=1).to(logp.dtype) / lengths[:, None]
    terms = power * logp.masked_fill(~scored, 0.0) - share.log().unsqueeze(-1)
    somewhere = scored.any(1)
    # A column of nothing but -inf would give NaN gradients, so such columns are emptied first.
    absent = ~scored & somewhere[:, None]
    num_views = scored.any(-1).sum(1).clamp(min=1).to(logp.dtype)
    totals = terms.masked_fill(absent, -float("inf")).logsumexp(1) - num_views.log()[:, None]
    return (totals * somewhere).sum(-1) / somewhere.sum(-1).clamp(min=1) / power
