"""VRPO-online: the exponential of the mean draw, the target that BGPO bounds from below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.likelihood import sequence_estimate
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.ratio import ratio_metrics


@dataclass(frozen=True)
class VRPOOnline(Objective):
    """Policy gradient on LLaDA 1.5's estimate of the ratio (arXiv 2505.19223; BGPO's baseline).

    loss = -mean_i exp(mean_j d_ij) A_i

    with d_ij the difference of draw j of completion i to the old policy, over L where
    `length_normalised`. Not linear in the draws: a noisy mean biases it.

    Args:
        length_normalised: divide d by the canvas L.
    """

    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "elbo", "num_mc": 8, "coupled": False, "stratified": False},
        "advantage": {"name": "group_norm", "eps": 1e-6, "unbiased": True},
    }

    length_normalised: bool = True

    @property
    def separable_on_policy(self) -> bool:
        """Where the ratio is 1, its derivative is A, whatever the other draws."""
        return True

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with d and the estimate per token."""
        views, canvas = inputs.views_per_draw, inputs.canvas
        elbo = sequence_estimate(inputs.logp, inputs.weight, views)
        difference = elbo - sequence_estimate(inputs.old_logp, inputs.weight, views).detach()
        if self.length_normalised:
            difference = difference / canvas
        # A ratio that overflows at A = 0 must not become 0 * inf.
        ratio = difference.masked_fill(inputs.advantages == 0, 0.0).exp()
        loss = -(ratio * inputs.advantages).sum() / inputs.totals.sequences
        metrics = {"elbo": Metric(elbo.detach() / canvas), **ratio_metrics(difference)}
        return ObjectiveOutput(loss, metrics)
