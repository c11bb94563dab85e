"""DMPO: cross-entropy to the reward-tilted reference distribution, by importance weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.likelihood import mean_over_views, view_means
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput
from unmask.objectives.groups import group_softmax


@dataclass(frozen=True)
class DMPO(Objective):
    """Distribution matching policy optimization (arXiv 2510.08233).

    Within a group w+ = softmax(log p_ref - log p_old + r / alpha), w- the same with -r / alpha;
    loss = mean over groups of sum_i (w+_i - w-_i) CE_i

    with CE_i the mean over views of the mean cross-entropy of hidden tokens, and p_ref, p_old
    unnormalised ELBOs taken once per rollout (`ObjectiveInputs.log_ref_ratio`). The rewards enter
    as they are: only their differences within a group matter.

    Args:
        alpha: temperature of the reward.

    Raises:
        ValueError: for an alpha that is not above 0.
    """

    separable: ClassVar[bool] = True
    needs_old: ClassVar[bool] = False
    rollout_estimator: ClassVar[dict[str, Any] | None] = {
        "name": "elbo",
        "num_mc": 4,
        "coupled": False,
        "stratified": True,
    }
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {
            "name": "coupled_time",
            "num_mc": 2,
            "t_min": 0.1,
            "t_max": 1.0,
            "full_view": False,
            "until_eos": False,
        },
        "advantage": {"name": "group_mean"},
    }

    alpha: float = 0.04

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("alpha", above=0)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the cross-entropy per token and the positive weights' largest share."""
        scored, size = inputs.scored, inputs.group_size
        tilt = inputs.rewards / self.alpha
        prior = tilt * 0 if inputs.log_ref_ratio is None else inputs.log_ref_ratio
        up, down = (group_softmax(prior + sign * tilt, size, inputs.rewarded) for sign in (1, -1))
        likelihood = mean_over_views(view_means(inputs.logp, scored), scored)
        loss = ((down - up) * likelihood).sum() * size / inputs.totals.sequences
        metrics = {
            "cross_entropy": Metric(-likelihood.detach()),
            "weight_max": Metric(up.detach(), "max"),
        }
        return ObjectiveOutput(loss, metrics)
