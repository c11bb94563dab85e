"""BGPO: a lower bound that is linear in the draws, so that each can be taken by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.likelihood import draw_estimates
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.ratio import ratio_metrics


@dataclass(frozen=True)
class BGPO(Objective):
    """Boundary-guided policy optimization (arXiv 2510.11683).

    With d_ij the difference of draw j of completion i to the old policy (over L where
    `length_normalised`), exp(mean_j d_ij) A_i is bounded from below by mean_j g_ij:

    g_ij = (1 + d_ij) A_i where A_i >= 0 (first-order Taylor), exp(d_ij) A_i where A_i < 0 (Jensen)
    loss = -mean_i mean_j g_ij

    At d = 0 its value and gradient are the target's. The paper does not divide d by L.

    Args:
        length_normalised: divide d by the canvas L.
        epsilon: clip 1 + d and exp(d) to 1 +- epsilon, as PPO does the ratio; null = not at all.

    Raises:
        ValueError: for a negative epsilon.
    """

    separable: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "time_uniform", "num_mc": 16, "stratified": False},
        "advantage": {"name": "group_norm", "eps": 1e-6, "unbiased": True},
    }

    length_normalised: bool = True
    epsilon: float | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("epsilon")

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with d, the estimate per token and the clipped fraction."""
        views, canvas = inputs.views_per_draw, inputs.canvas
        estimates = draw_estimates(inputs.logp, inputs.weight, views)
        difference = estimates - draw_estimates(inputs.old_logp, inputs.weight, views).detach()
        if self.length_normalised:
            difference = difference / canvas
        advantages = inputs.advantages[:, None]
        rising = advantages >= 0
        # exp(log(1 + d)) would be NaN below d = -1, and exp(d) may overflow where it is not used.
        ratio = (1 + difference).where(rising, difference.masked_fill(rising, 0.0).exp())
        values = ratio * advantages
        metrics = {
            "elbo": Metric(estimates.detach().mean(1) / canvas),
        }
        clipped = None
        if self.epsilon is not None:
            bounded = ratio.clamp(1 - self.epsilon, 1 + self.epsilon) * advantages
            clipped = bounded < values
            values = values.minimum(bounded)
        loss = -values.mean(1).sum() / inputs.totals.sequences
        return ObjectiveOutput(loss, metrics | ratio_metrics(difference, clipped))
