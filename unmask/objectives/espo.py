"""ESPO: the completion as one action, the ELBO as its likelihood (arXiv 2512.03759)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.likelihood import sequence_estimate
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.kl import KL, KLName
from unmask.objectives.trust_region import Divergence, surrogate


@dataclass(frozen=True)
class ESPO(Objective):
    """Clipped surrogate of a per-token-normalised sequence ratio, with a KL to the reference.

    rho_i = exp((elbo_i - old_elbo_i) / L)
    loss  = -mean_i min(rho_i A_i, clip(rho_i, 1 - epsilon, 1 + epsilon_high) A_i) + beta KL

    With d_i = elbo_i - ref_elbo_i: k2 = mean d_i^2 / (2 L); k3 = mean (exp(-d_i) + d_i - 1) / L;
    k1 = mean d_i / L, whose gradient (1 + d_i) grad elbo_i / L includes the score-function term.

    Args:
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        beta: weight of the KL term; 0 needs no reference policy.
        kl: the estimator of the KL term.
        divergence: drop by the divergence of exp(elbo / L) instead of clipping.

    Raises:
        ValueError: for a negative epsilon, epsilon_high or beta, or an unknown kl.
    """

    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "elbo", "num_mc": 2, "coupled": True, "stratified": True},
        "advantage": {"name": "leave_one_out"},
    }

    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.003
    kl: KLName = "k2"
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("epsilon", "epsilon_high", "beta")
        self._require_choice("kl", list(KL))

    @property
    def separable_on_policy(self) -> bool:
        """Without the KL term: where the ratio is 1, its derivative is A / L whatever the ELBO."""
        return self.beta == 0

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio, the clipped fraction, the ELBO per token and the KL."""
        views, canvas = inputs.views_per_draw, inputs.canvas
        elbo = sequence_estimate(inputs.logp, inputs.weight, views)
        old_elbo = sequence_estimate(inputs.old_logp, inputs.weight, views)
        step = surrogate(
            elbo / canvas,
            old_elbo / canvas,
            inputs.advantages,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            divergence=self.divergence,
        )
        loss = -step.values.sum() / inputs.totals.sequences
        metrics = {"elbo": Metric(elbo.detach() / canvas), **step.metrics()}
        if self.beta > 0:
            ref_elbo = sequence_estimate(inputs.reference(), inputs.weight, views)
            kl = KL[self.kl](elbo, ref_elbo) / canvas
            loss = loss + self.beta * (kl * inputs.rewarded).sum() / inputs.totals.sequences
            metrics["kl"] = Metric(kl.detach())
        return ObjectiveOutput(loss, metrics)
