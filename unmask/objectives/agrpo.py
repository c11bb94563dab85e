"""AGRPO: the likelihood of the rollout's own steps, from a few of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.estimators import LeftToRight, Trajectory
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.tokens import readable, token_kl, token_surrogate
from unmask.objectives.trust_region import Divergence

if TYPE_CHECKING:
    from unmask.estimators import Estimator


@dataclass(frozen=True)
class AGRPO(Objective):
    """Amortised GRPO over sampled denoising steps (arXiv 2510.04019).

    loss = -mean over completions and views of the sum over revealed tokens of
           weight [min(rho_l A_i, clip(rho_l, 1 - epsilon, 1 + epsilon_high) A_i) - beta rho_l k3_l]

    The weight corrects for how views were drawn; it is 1 where steps are drawn uniformly.
    Log-probabilities are those of the sampler's own distribution.

    Args:
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        beta: weight of the KL term; 0 needs no reference policy.
        divergence: drop tokens by their divergence instead of clipping.

    Raises:
        ValueError: for a negative epsilon, epsilon_high or beta.
    """

    separable: ClassVar[bool] = True
    sampling_logprobs: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {
            "name": "trajectory",
            "num_mc": 24,
            "shrink": 1,
            "stratified": True,
            "until": "text",
        },
        "advantage": {"name": "group_mean"},
    }

    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.0
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("epsilon", "epsilon_high", "beta")

    def check(self, estimator: Estimator) -> None:
        """Refuse views that are no states of the rollout."""
        if not isinstance(estimator, Trajectory | LeftToRight):
            raise ValueError(
                "objective.name=agrpo scores the tokens that a step revealed: set "
                "estimator.name=trajectory"
            )

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio, the clipped fraction and the KL per token."""
        step = token_surrogate(inputs, self)
        gain, metrics = step.values, step.metrics(inputs.scored)
        if self.beta > 0:
            old_logp = readable(inputs.old_logp, inputs).detach()
            ratio = (readable(inputs.logp, inputs) - old_logp).exp()
            kl = token_kl(inputs, inputs.reference()) * ratio
            gain = gain - self.beta * kl
            metrics["kl"] = Metric(kl.detach()[inputs.scored])
        views = (gain * inputs.weight).sum(-1)
        return ObjectiveOutput(-views.mean(1).sum() / inputs.totals.sequences, metrics)
