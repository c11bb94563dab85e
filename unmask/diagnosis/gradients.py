"""Signal and noise of a policy gradient over redraws of the maskings, rollouts held fixed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.diagnosis.estimates import Subject
from unmask.estimators import Estimator
from unmask.objectives import ESPO, ObjectiveInputs, Totals
from unmask.training.policy_gradient import streamed_backward


@dataclass(frozen=True)
class GradientSignal:
    """Over redraws of the maskings.

    Attributes:
        signal: squared norm of the mean gradient, freed of the noise in that mean; at least 0.
        noise: trace of the covariance of one gradient.
    """

    signal: float
    noise: float

    @property
    def ratio(self) -> float | None:
        """Signal over noise; None where there is neither."""
        return self.signal / self.noise if self.noise else None


def gradient_signal(
    subject: Subject,
    name: str,
    estimator: Estimator,
    advantages: Tensor,
    group_size: int,
    repeats: int,
) -> GradientSignal:
    """The on-policy ESPO gradient, mean_i A_i grad estimate_i / L, over redraws of its maskings.

    Running moments are kept, so that memory is that of one more gradient.

    Args:
        subject: the completions.
        name: of the stream of random numbers.
        estimator: draws the maskings.
        advantages: float [B].
        group_size: G.
        repeats: redraws, at least 2.
    """
    parameters = [p for p in subject.model.parameters() if p.requires_grad]
    mean = [torch.zeros_like(p) for p in parameters]
    scatter = 0.0
    for repeat in range(repeats):
        subject.model.zero_grad()
        _backward(subject, estimator, (name, "gradient", repeat), advantages, group_size)
        for average, parameter in zip(mean, parameters, strict=True):
            gradient = torch.zeros_like(average) if parameter.grad is None else parameter.grad
            away = gradient - average
            average += away / (repeat + 1)
            scatter += (away * (gradient - average)).sum(dtype=torch.float64).item()
    subject.model.zero_grad()
    noise = scatter / (repeats - 1)
    square = sum(average.square().sum(dtype=torch.float64).item() for average in mean)
    return GradientSignal(max(0.0, square - noise / repeats), noise)


def _backward(
    subject: Subject,
    estimator: Estimator,
    stream: tuple[int | str, ...],
    advantages: Tensor,
    group_size: int,
) -> None:
    maskings = subject.maskings(estimator, *stream)
    nothing = torch.zeros_like(maskings.weight)
    advantages = advantages.to(nothing.device)
    streamed_backward(
        subject.model,
        subject.completions,
        maskings,
        ESPO(beta=0.0),
        ObjectiveInputs(
            logp=nothing,
            old_logp=nothing,
            ref_logp=None,
            weight=maskings.weight,
            views_per_draw=maskings.views_per_draw,
            advantages=advantages,
            rewards=advantages,
            lengths=subject.lengths.to(nothing.device),
            canvas=subject.canvas,
            group_size=group_size,
            totals=Totals(len(advantages), 1, 1, 1),
        ),
        on_policy=True,
        mask_token_id=subject.mask_token_id,
        max_tokens=subject.max_tokens,
    )
