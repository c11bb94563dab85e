"""diffu-GRPO: GRPO on one-step mean-field token log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.tokens import token_kl, token_surrogate
from unmask.objectives.trust_region import Divergence


@dataclass(frozen=True)
class DiffuGRPO(Objective):
    """Clipped surrogate per token with a k3 KL to the reference (d1, arXiv 2504.12216).

    rho_l = exp(logp_l - old_logp_l)
    loss  = -sum over scored tokens of [min(rho_l A_i, clip(rho_l, 1 - epsilon, 1 + epsilon_high)
            A_i) - beta k3_l] / (number of scored tokens)

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
        "estimator": {"name": "one_step", "p_mask_prompt": 0.15},
        "advantage": {"name": "group_mean"},
    }

    epsilon: float = 0.5
    epsilon_high: float | None = None
    beta: float = 0.04
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
        return ObjectiveOutput(-gain.sum() / inputs.totals.scored_tokens, metrics)
