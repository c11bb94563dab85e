"""wd1: likelihoods weighted by advantage, without a ratio and without an old policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unmask.likelihood import mean_over_views, view_means
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.groups import group_softmax
from unmask.objectives.tokens import readable


@dataclass(frozen=True)
class WD1(Objective):
    """Weighted log-likelihood of a group (arXiv 2507.08838).

    Within a group w+ = softmax(psi A), w- = softmax(-psi A);
    loss = mean over groups of sum_i (w-_i - w+_i) S_i

    with S_i the sum of logp over a view's scored tokens, averaged over views. With mean-field
    views this is wd1, with trajectory views wd1++.

    Args:
        psi: inverse temperature of the weights.
        reduction: sum; or mean, which divides S_i by the number of tokens and thereby weighs short
            completions against long ones.

    Raises:
        ValueError: for a psi that is not above 0, or an unknown reduction.
    """

    separable: ClassVar[bool] = True
    needs_old: ClassVar[bool] = False
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "one_step", "p_mask_prompt": 0.15},
        "advantage": {"name": "group_mean"},
    }

    psi: float = 1.0
    reduction: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("psi", above=0)
        self._require_choice("reduction", ["sum", "mean"])

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the mean log-probability and the positive weights' largest share."""
        scored, size = inputs.scored, inputs.group_size
        up, down = (
            group_softmax(sign * self.psi * inputs.advantages, size, inputs.rewarded)
            for sign in (1, -1)
        )
        means = view_means(inputs.logp, scored)
        sums = readable(inputs.logp, inputs).sum(-1) if self.reduction == "sum" else means
        likelihood = mean_over_views(sums, scored)
        loss = ((down - up) * likelihood).sum() * size / inputs.totals.sequences
        metrics = {
            "logp": Metric(mean_over_views(means, scored).detach()),
            "weight_max": Metric(up.detach(), "max"),
        }
        return ObjectiveOutput(loss, metrics)
