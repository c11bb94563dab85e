"""Maximum likelihood: the loss of masked-diffusion supervised fine-tuning (arXiv 2502.09992)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unmask.likelihood import sequence_estimate
from unmask.objectives.base import Metric, Objective, ObjectiveInputs, ObjectiveOutput


@dataclass(frozen=True)
class MaximumLikelihood(Objective):
    """loss = -mean_i estimate_i / L, the negative ELBO per token; rewards play no part."""

    separable: ClassVar[bool] = True
    needs_old: ClassVar[bool] = False

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss, with the estimate per token."""
        elbo = sequence_estimate(inputs.logp, inputs.weight, inputs.views_per_draw) / inputs.canvas
        loss = -elbo.sum() / inputs.totals.sequences
        return ObjectiveOutput(loss, {"elbo": Metric(elbo.detach())})
