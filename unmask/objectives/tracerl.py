"""TraceRL: the rollout's own trajectory, a few steps at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.estimators import LeftToRight, Trajectory
from unmask.likelihood import mean_over_views, view_means
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.tokens import token_kl, token_surrogate
from unmask.objectives.trust_region import Divergence

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.estimators import Estimator


@dataclass(frozen=True)
class TraceRL(Objective):
    """Trajectory-aware policy gradient, without its value model (arXiv 2509.06949).

    loss = -mean over views of [mean over the view's tokens of
           min(rho_l A_i, clip(rho_l, 1 - epsilon, 1 + epsilon_high) A_i)
           - beta sum over the view's tokens of k3_l to the OLD policy]

    Args:
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        beta: weight of the KL term to the policy that made the rollout.
        per_sequence: mean over the views of each completion first, then over completions.
        pass_rate: lowest and highest mean reward of a group that is learnt from, [0.2, 0.8] in the
            paper; null = every group. What is dropped stays in the denominator.
        divergence: drop tokens by their divergence instead of clipping.

    Raises:
        ValueError: for a negative epsilon, epsilon_high or beta, or a pass_rate that is no range.
    """

    separable: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {
            "name": "trajectory",
            "num_mc": None,
            "shrink": 8,
            "stratified": True,
            "until": "first_eos",
        },
        "advantage": {"name": "group_norm", "eps": 0.0, "unbiased": False},
    }

    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.01
    per_sequence: bool = False
    pass_rate: tuple[float, float] | None = None
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("epsilon", "epsilon_high", "beta")
        if self.pass_rate is not None and self.pass_rate[0] > self.pass_rate[1]:
            raise ValueError(
                f"pass_rate={list(self.pass_rate)} is no range: give the lower bound first"
            )

    @property
    def needs_reference(self) -> bool:
        """The KL term is to the old policy."""
        return False

    def check(self, estimator: Estimator) -> None:
        """Refuse views that are no states of the rollout."""
        if not isinstance(estimator, Trajectory | LeftToRight):
            raise ValueError(
                "objective.name=tracerl scores the tokens that a step revealed: set "
                "estimator.name=trajectory"
            )

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio, the clipped fraction and the KL to the old policy per token."""
        scored = inputs.scored
        step = token_surrogate(inputs, self)
        gain, metrics = view_means(step.values, scored), step.metrics(scored)
        if self.beta > 0:
            kl = token_kl(inputs, inputs.old_logp)
            gain = gain - self.beta * kl.sum(-1)
            metrics["kl"] = Metric(kl.detach()[scored])
        if self.pass_rate is not None:
            kept = self._kept(inputs)
            gain = gain * kept[:, None]
            metrics["kept_fraction"] = Metric(kept.double())
        if self.per_sequence:
            loss = -mean_over_views(gain, scored).sum() / inputs.totals.sequences
        else:
            loss = -gain.sum() / inputs.total_views
        return ObjectiveOutput(loss, metrics)

    def _kept(self, inputs: ObjectiveInputs) -> Tensor:
        """Bool [B], whether the mean reward of the completion's group is in `pass_rate`."""
        assert self.pass_rate is not None
        lowest, highest = self.pass_rate
        rate = inputs.rewards.view(-1, inputs.group_size).nanmean(1)
        return ((rate >= lowest) & (rate <= highest)).repeat_interleave(inputs.group_size)
