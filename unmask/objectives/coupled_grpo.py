"""coupled-GRPO: GRPO on token values that average complementary views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.likelihood import token_estimates
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.kl import k3
from unmask.objectives.trust_region import Divergence, Surrogate, surrogate


@dataclass(frozen=True)
class CoupledGRPO(Objective):
    """DiffuCoder's objective (arXiv 2506.20639).

    The value of a token is the sum of weight * logp over the views of a draw: with its own views
    half the sum of three, everything hidden, a random set at 1/t and its complement at 1/(1-t).

    rho_l = exp(value_l - old_value_l)
    loss  = -sum over scored tokens of [min(rho_l A_i, clip(rho_l, 1 - epsilon, 1 + epsilon_high)
            A_i) - beta k3_l] / (number of scored tokens), k3 of the value to the reference's

    Args:
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        beta: weight of the KL term; 0 needs no reference policy.
        divergence: drop tokens by the divergence of exp(value) instead of clipping.

    Raises:
        ValueError: for a negative epsilon, epsilon_high or beta.
    """

    separable: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {
            "name": "coupled_time",
            "num_mc": 1,
            "t_min": 0.2,
            "t_max": 0.8,
            "full_view": True,
            "until_eos": True,
        },
        "advantage": {"name": "leave_one_out"},
    }

    epsilon: float = 0.5
    epsilon_high: float | None = None
    beta: float = 0.01
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("epsilon", "epsilon_high", "beta")

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio, the clipped fraction and the KL per token."""
        views = inputs.views_per_draw
        value = token_estimates(inputs.logp, inputs.weight, views)
        step: Surrogate = surrogate(
            value,
            token_estimates(inputs.old_logp, inputs.weight, views),
            inputs.advantages[:, None, None],
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            divergence=self.divergence,
        )
        # A token counts once for each view that scores it, in the sum as in the denominator.
        count = inputs.scored.unflatten(1, (-1, views)).sum(2)
        gain, metrics = step.values, step.metrics(count > 0)
        if self.beta > 0:
            kl = k3(value, token_estimates(inputs.reference(), inputs.weight, views))
            gain = gain - self.beta * kl * inputs.rewarded[:, None, None]
            metrics["kl"] = Metric(kl.detach()[count > 0])
        return ObjectiveOutput(-(gain * count).sum() / inputs.totals.scored_tokens, metrics)
