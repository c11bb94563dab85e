"""UniGRPO: GRPO on the hidden tokens of one view whose noise level moves with the updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.likelihood import mean_over_views, view_means
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.tokens import token_kl, token_surrogate
from unmask.objectives.trust_region import Divergence


@dataclass(frozen=True)
class UniGRPO(Objective):
    """MMaDA's objective (arXiv 2505.15809).

    loss = -mean over completions of the mean over the view's scored tokens of
           [min(rho_l A_i, clip(rho_l, 1 - epsilon, 1 + epsilon_high) A_i) - beta k3_l]

    Args:
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        beta: weight of the KL term; 0 needs no reference policy.
        divergence: drop tokens by their divergence instead of clipping.

    Raises:
        ValueError: for a negative epsilon, epsilon_high or beta.
    """

    separable: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "spaced_time"},
        "advantage": {"name": "group_norm", "eps": 1e-4, "unbiased": True},
    }

    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.01
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("epsilon", "epsilon_high", "beta")

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio, the clipped fraction and the KL per token."""
        step = token_surrogate(inputs, self)
        gain, metrics = step.values, step.metrics(inputs.scored)
        if self.beta > 0:
            kl = token_kl(inputs, inputs.reference())
            gain = gain - self.beta * kl
            metrics["kl"] = Metric(kl.detach()[inputs.scored])
        means = mean_over_views(view_means(gain, inputs.scored), inputs.scored)
        return ObjectiveOutput(-means.sum() / inputs.totals.sequences, metrics)
