"""GDPO: a sequence ratio whose ELBO is taken at fixed noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unmask.likelihood import sequence_estimate
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.kl import k3
from unmask.objectives.trust_region import Divergence, surrogate


@dataclass(frozen=True)
class GDPO(Objective):
    """Group diffusion policy optimization (arXiv 2510.08554), in two forms.

    released: rho_i = exp((elbo_i - old_elbo_i) / L), every completion's term counts the same.
    paper:    rho_i = exp(elbo_i - old_elbo_i), the term of a completion is divided by len_i.

    loss = -mean_i term_i,
    term_i = min(rho_i A_i, clip(rho_i, 1 - epsilon, 1 + epsilon_high) A_i) - beta k3_i

    with k3 of the difference to the reference's ELBO on the scale of the ratio's exponent.

    Args:
        form: released or paper.
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        beta: weight of the KL term; 0 needs no reference policy.
        divergence: drop by the divergence of exp(elbo / L) instead of clipping.

    Raises:
        ValueError: for an unknown form, or a negative epsilon, epsilon_high or beta.
    """

    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "quadrature", "num_mc": 3},
        "advantage": {"name": "group_mean"},
    }

    form: Literal["released", "paper"] = "released"
    epsilon: float = 0.5
    epsilon_high: float | None = None
    beta: float = 0.0
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require_choice("form", ["released", "paper"])
        self._require("epsilon", "epsilon_high", "beta")

    @property
    def separable_on_policy(self) -> bool:
        """Without the KL term: where the ratio is 1, its derivative is A / L whatever the ELBO."""
        return self.beta == 0

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio, the clipped fraction, the ELBO per token and the KL."""
        views, canvas, paper = inputs.views_per_draw, inputs.canvas, self.form == "paper"
        scale = canvas if paper else 1
        elbo = sequence_estimate(inputs.logp, inputs.weight, views) / canvas
        old_elbo = sequence_estimate(inputs.old_logp, inputs.weight, views) / canvas
        step = surrogate(
            elbo,
            old_elbo,
            inputs.advantages,
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            divergence=self.divergence,
            scale=scale,
        )
        terms = step.values
        metrics = {"elbo": Metric(elbo.detach()), **step.metrics()}
        if self.beta > 0:
            ref_elbo = sequence_estimate(inputs.reference(), inputs.weight, views) / canvas
            kl = k3(scale * elbo, scale * ref_elbo)
            terms = terms - self.beta * kl * inputs.rewarded
            metrics["kl"] = Metric(kl.detach())
        if paper:
            terms = terms / inputs.lengths
        return ObjectiveOutput(-terms.sum() / inputs.totals.sequences, metrics)
