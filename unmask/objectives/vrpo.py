"""VRPO: DPO on ELBO differences, from a data set of preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.estimators import LeftToRight, Trajectory
from unmask.likelihood import sequence_estimate
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput

if TYPE_CHECKING:
    from unmask.estimators import Estimator


@dataclass(frozen=True)
class VRPO(Objective):
    """Variance-reduced preference optimization (LLaDA 1.5, arXiv 2505.19223).

    loss = -mean over pairs of log sigmoid(beta (s_chosen - s_rejected)),  s = elbo - ref_elbo

    The policy and the reference share their views, and the budget goes to many mask counts with
    one mask each: with the default estimator the paper's three ways to lower the variance.

    Args:
        beta: DPO's scale of the score.

    Raises:
        ValueError: for a beta that is not above 0.
    """

    needs_old: ClassVar[bool] = False
    offline: ClassVar[bool] = True
    pairwise: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {
        "estimator": {"name": "elbo", "num_mc": 8, "coupled": False, "stratified": False},
        "training": {"num_generations": 2, "num_iterations": 1},
    }

    beta: float = 0.1

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._require("beta", above=0)

    def check(self, estimator: Estimator) -> None:
        """Refuse views of a rollout: a preference has none."""
        if isinstance(estimator, Trajectory | LeftToRight):
            raise ValueError(
                "objective.name=vrpo learns from completions that were not sampled, so there is no "
                "step_map: set estimator.name=elbo"
            )

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the margin and how often the chosen completion scores higher."""
        views = inputs.views_per_draw
        elbo = sequence_estimate(inputs.logp, inputs.weight, views)
        score = elbo - sequence_estimate(inputs.reference(), inputs.weight, views)
        first, second = inputs.rewards.unflatten(0, (-1, 2)).unbind(1)
        difference = score.unflatten(0, (-1, 2))
        margin = self.beta * (difference[:, 0] - difference[:, 1]) * (first - second).sign()
        pairs = inputs.totals.sequences / 2
        metrics = {
            "elbo": Metric(elbo.detach() / inputs.canvas),
            "margin": Metric(margin.detach()),
            "preferred": Metric((margin.detach() > 0).to(margin.dtype)),
        }
        loss = (-margin).logaddexp(margin.new_zeros(())).sum() / pairs  # -log sigmoid(margin)
        return ObjectiveOutput(loss, metrics)
