"""A*-PO: regression of the log-ratio to the reference on the optimal advantage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.estimators import Block, Quadrature
from unmask.likelihood import draw_estimates
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.estimators import Estimator


@dataclass(frozen=True)
class AStarPO(Objective):
    """A*-PO (arXiv 2505.20686) with the ELBO as the likelihood.

    loss = mean_i R_i1 R_i2,  R_ik = beta (est_ik - ref_est_ik) / L - (r_i - V*_i)

    est_i1 and est_i2 are means over the even and the odd draws of completion i. They are
    independent, so that the product's expectation is the square of the expected residual: the
    noise of the draws adds no bias. V* = value_beta log mean exp(r / value_beta) comes from
    completions of the same prompt under the reference policy (`ObjectiveInputs.values`).

    Args:
        beta: scale of the log-ratio to the reference.
        value_beta: temperature of V*.
        num_values: completions of the reference policy behind each V*.

    Raises:
        ValueError: for a beta or value_beta that is not above 0, or less than one completion.
    """

    needs_old: ClassVar[bool] = False
    grouped: ClassVar[bool] = False
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "elbo", "num_mc": 2, "coupled": True, "stratified": False},
    }

    beta: float = 1e-3
    value_beta: float = 0.5
    num_values: int = 8

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("beta", "value_beta", above=0)
        if self.num_values < 1:
            raise ValueError(f"num_values={self.num_values} is too small: V* needs at least 1")

    def check(self, estimator: Estimator) -> None:
        """Refuse draws that are not independent, or cannot be split into two halves."""
        if getattr(estimator, "stratified", False):
            raise ValueError(
                "objective.name=astar_po takes independent draws: set estimator.stratified=false"
            )
        if isinstance(estimator, Block):
            raise ValueError(
                "objective.name=astar_po takes independent draws, and the views of a completion "
                "take different blocks: set estimator.name=elbo"
            )
        draws = getattr(estimator, "num_mc", 1)
        if draws is None or draws % 2 or isinstance(estimator, Quadrature):
            raise ValueError(
                f"objective.name=astar_po splits the draws in two and got num_mc={draws}: set "
                "estimator.name=elbo and an even estimator.num_mc"
            )

    def value(self, rewards: Tensor) -> Tensor:
        """V* of each prompt."""
        scored = ~rewards.isnan()
        exponents = (rewards / self.value_beta).masked_fill(~scored, -math.inf)
        return self.value_beta * (exponents.logsumexp(-1) - scored.sum(-1).to(rewards.dtype).log())

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with V*, the log-ratio to the reference per token and the residual."""
        if inputs.values is None:
            raise ValueError("A*-PO needs ObjectiveInputs.values, V* of each completion's prompt")
        views = inputs.views_per_draw
        draws = draw_estimates(inputs.logp, inputs.weight, views)
        ratio = (draws - draw_estimates(inputs.reference(), inputs.weight, views)) / inputs.canvas
        wanted = (inputs.rewards - inputs.values).unsqueeze(1)
        known = inputs.rewarded & ~inputs.values.isnan()
        wanted = wanted.masked_fill(~known.unsqueeze(1), 0.0).to(ratio.dtype)
        halves = ratio.unflatten(1, (-1, 2)).mean(1)
        residuals = self.beta * halves - wanted
        loss = (residuals.prod(-1) * known).sum() / inputs.totals.sequences
        metrics = {
            "value": Metric(inputs.values.detach()[known]),
            "log_ref_ratio": Metric(ratio.detach().mean(1)),
            "residual": Metric(residuals.detach().mean(1)[known]),
        }
        return ObjectiveOutput(loss, metrics)
