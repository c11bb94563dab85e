"""JustGRPO: plain GRPO on the autoregressive likelihood of a diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.estimators import LeftToRight
from unmask.objectives.base import Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.tokens import token_surrogate
from unmask.objectives.trust_region import Divergence

if TYPE_CHECKING:
    from unmask.estimators import Estimator


@dataclass(frozen=True)
class JustGRPO(Objective):
    """Clipped surrogate of every token, read from left to right (arXiv 2601.15165).

    loss = -sum over all canvas tokens of min(rho_l A_i, clip(rho_l, 1 - epsilon, 1 + epsilon_high)
           A_i) / (L (number of completions with A != 0 + 1e-5))

    Rollouts are made from left to right, with one update each, where the ratio is 1.

    Args:
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        divergence: drop tokens by their divergence instead of clipping.

    Raises:
        ValueError: for a negative epsilon or epsilon_high.
    """

    separable: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "left_to_right"},
        "sampler": {"remasking": "left_to_right"},
        "advantage": {"name": "group_norm", "eps": 1e-4, "unbiased": True},
    }

    epsilon: float = 0.2
    epsilon_high: float | None = None
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("epsilon", "epsilon_high")

    def check(self, estimator: Estimator) -> None:
        """Refuse views that score a token twice or not at all."""
        if not isinstance(estimator, LeftToRight):
            raise ValueError(
                "objective.name=justgrpo reads each token once, from left to right: set "
                "estimator.name=left_to_right"
            )

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the ratio and the clipped fraction per token."""
        step = token_surrogate(inputs, self)
        moved = inputs.totals.nonzero_advantages + 1e-5
        loss = -step.values.sum() / (inputs.canvas * moved)
        return ObjectiveOutput(loss, step.metrics(inputs.scored))
