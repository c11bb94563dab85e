"""GDSD: the likelihood ratio regressed on the advantage, instead of multiplied by it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from unmask.estimators import ELBO, CoupledTime
from unmask.likelihood import draw_estimates, sequence_estimate
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.ratio import ratio_metrics

if TYPE_CHECKING:
    from unmask.estimators import Estimator

Variant = Literal["gdsd", "gdsd_tlc"]


@dataclass(frozen=True)
class GDSD(Objective):
    """Squared residual of every coupled pair's log-ratio (arXiv 2605.29398).

    loss = mean_i sum_j (clamp(d_ij, log(1 - epsilon), log(1 + epsilon)) / L - psi A_i)^2
           + beta mean_ij dref_ij^2 / (2 L)

    with d_ij and dref_ij the differences of pair j to the old and to the reference policy, in which
    a token counts 1/2 (gdsd) or its weight in the coupled ELBO (gdsd_tlc).

    Args:
        variant: what a token counts.
        epsilon: bounds the difference to the old policy.
        psi: scale of the advantage; 10 in the paper's runs on mathematics.
        beta: weight of the reference term; 0 needs no reference policy.

    Raises:
        ValueError: for an unknown variant, an epsilon outside (0, 1), or a negative psi or beta.
    """

    separable: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "elbo", "num_mc": 2, "coupled": True, "stratified": True},
        "advantage": {"name": "leave_one_out"},
    }

    variant: Variant = "gdsd"
    epsilon: float = 4e-4
    psi: float = 1.0
    beta: float = 1e-3

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require_choice("variant", get_args(Variant))
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon={self.epsilon} is out of range: give one in (0, 1)")
        self._require("psi", "beta")

    def check(self, estimator: Estimator) -> None:
        """Refuse draws that are no pairs of complementary views."""
        if isinstance(estimator, CoupledTime) and estimator.full_view:
            raise ValueError(
                "objective.name=gdsd takes pairs of complementary views, and a third view stands "
                "before each: set estimator.full_view=false"
            )
        if isinstance(estimator, ELBO) and not estimator.coupled:
            raise ValueError(
                "objective.name=gdsd takes pairs of complementary views: set estimator.coupled=true"
            )
        if not isinstance(estimator, ELBO | CoupledTime):
            raise ValueError(
                "objective.name=gdsd takes pairs of complementary views: set estimator.name=elbo"
            )

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the log-ratio, the clamped fraction, the estimate per token and the KL."""
        views, canvas, sequences = inputs.views_per_draw, inputs.canvas, inputs.totals.sequences
        worth = inputs.weight
        if self.variant == "gdsd":
            worth = inputs.scored.to(inputs.weight.dtype) / 2
        pairs = draw_estimates(inputs.logp, worth, views)
        difference = pairs - draw_estimates(inputs.old_logp, worth, views).detach()
        low, high = math.log1p(-self.epsilon), math.log1p(self.epsilon)
        target = self.psi * inputs.advantages[:, None]
        residual = difference.clamp(low, high) / canvas - target
        loss = (residual.square().sum(1) * inputs.rewarded).sum() / sequences
        metrics = {
            "elbo": Metric(sequence_estimate(inputs.logp.detach(), inputs.weight, views) / canvas),
            **ratio_metrics(difference, (difference < low) | (difference > high)),
        }
        if self.beta > 0:
            away = pairs - draw_estimates(inputs.reference(), worth, views).detach()
            kl = away.square().mean(1) / (2 * canvas)
            loss = loss + self.beta * (kl * inputs.rewarded).sum() / sequences
            metrics["kl"] = Metric(kl.detach())
        return ObjectiveOutput(loss, metrics)
