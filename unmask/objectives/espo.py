"""ESPO: the completion as one action, the ELBO as its likelihood (arXiv 2512.03759)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unmask.likelihood import sequence_estimate
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput

if TYPE_CHECKING:
    from torch import Tensor


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
    kl: Literal["k1", "k2", "k3"] = "k2"

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("epsilon", "epsilon_high", "beta"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value} is negative: it must be at least 0")
        if self.kl not in ("k1", "k2", "k3"):
            raise ValueError(f"kl={self.kl!r} is unknown: choose k1, k2 or k3")

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio, the clipped fraction, the ELBO per token and the KL."""
        views, canvas, advantages = inputs.views_per_draw, inputs.canvas, inputs.advantages
        elbo = sequence_estimate(inputs.logp, inputs.weight, views)
        old_elbo = sequence_estimate(inputs.old_logp, inputs.weight, views).detach()
        ratio = ((elbo - old_elbo) / canvas).exp()
        low = 1 - self.epsilon
        high = 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
        surrogate = (ratio * advantages).minimum(ratio.clamp(low, high) * advantages)
        loss = -surrogate.sum() / inputs.totals.sequences
        clipped = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
        metrics = {
            "elbo": Metric(elbo.detach() / canvas),
            "ratio": Metric(ratio.detach()),
            "ratio_min": Metric(ratio.detach(), "min"),
            "ratio_max": Metric(ratio.detach(), "max"),
            "clip_fraction": Metric(clipped.double()),
        }
        if self.beta > 0:
            ref_elbo = sequence_estimate(inputs.reference(), inputs.weight, views).detach()
            kl = self._kl(elbo, ref_elbo) / canvas
            scored = ~inputs.rewards.isnan()
            loss = loss + self.beta * (kl * scored).sum() / inputs.totals.sequences
            metrics["kl"] = Metric(kl.detach())
        return ObjectiveOutput(loss, metrics)

    def _kl(self, elbo: Tensor, ref_elbo: Tensor) -> Tensor:
        difference = elbo - ref_elbo
        if self.kl == "k2":
            return difference.square() / 2
        if self.kl == "k3":
            return (-difference).expm1() + difference
        # The second term is 0; its gradient is the score-function part.
        return difference + difference.detach() * (elbo - elbo.detach())
