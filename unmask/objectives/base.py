"""The contract of an objective: a pure function of small tensors, never of a model.

An objective sees token log-probabilities [B, M, L]. That is what makes an exact gradient in
constant memory possible for all of them: d loss / d logp is a small tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["mean", "sum", "min", "max"]


@dataclass(frozen=True)
class Totals:
    """Denominators, counted over the whole optimizer step: all ranks, all micro-batches.

    Attributes:
        sequences: completions that were scored by a reward.
        scored_tokens: entries of `weight` above 0.
        lengths: sum of `lengths`.
        nonzero_advantages: completions with A != 0.
    """

    sequences: float
    scored_tokens: float
    lengths: float
    nonzero_advantages: float


@dataclass(frozen=True)
class ObjectiveInputs:
    """All that an objective may read.

    Attributes:
        logp: float [B, M, L], log p(y_l | prompt, y with the hidden tokens masked) under the
            current policy; meaningful where `weight > 0`.
        old_logp: float [B, M, L], the same under the policy that made the rollout.
        ref_logp: float [B, M, L], the same under the reference policy, or None.
        weight: float [B, M, L], see `unmask.maskings.Maskings`.
        views_per_draw: consecutive views that make one draw.
        advantages: float [B].
        rewards: float [B]; NaN = not scored.
        lengths: int [B], tokens up to and including the first EOS.
        canvas: L, the completion canvas in tokens.
        group_size: G; completions of one prompt stand side by side.
        totals: denominators of the whole optimizer step.
    """

    logp: Tensor
    old_logp: Tensor
    ref_logp: Tensor | None
    weight: Tensor
    views_per_draw: int
    advantages: Tensor
    rewards: Tensor
    lengths: Tensor
    canvas: int
    group_size: int
    totals: Totals

    def reference(self) -> Tensor:
        """`ref_logp`, or a ValueError where there is none."""
        if self.ref_logp is None:
            raise ValueError(
                "the objective's KL term needs reference log-probabilities and got none: "
                "set objective.beta=0 or give a reference policy"
            )
        return self.ref_logp


@dataclass(frozen=True)
class Metric:
    """Values of one quantity and how to reduce them over micro-batches and ranks.

    Attributes:
        values: any shape; one entry per sequence, token or batch.
        reduction: "mean", "sum", "min" or "max" over all entries of the optimizer step.
    """

    values: Tensor
    reduction: Reduction = "mean"


@dataclass(frozen=True)
class ObjectiveOutput:
    """A scalar to minimise, and detached metrics by name."""

    loss: Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)


class Objective(ABC):
    """`objective(inputs) -> ObjectiveOutput`, for one rank's completions of an optimizer step.

    The loss is a sum over sequences divided by `totals`, so that the parts add up to the loss
    of the whole; d loss / d logp of a sequence must not depend on another sequence's logp.

    A subclass is a frozen dataclass whose fields are its settings in a recipe. Its module uses
    tensor methods and imports torch for type checking only, so that a recipe is checked in no time.

    Class attributes:
        separable: True if d loss / d logp of one draw needs only that draw.
        needs_old: False if `old_logp` is never read.
        paper: sections of a recipe that the paper's method brings along unless they are set.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    separable: ClassVar[bool] = False
    needs_old: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {}

    @property
    def needs_reference(self) -> bool:
        """Whether `ref_logp` must be given."""
        return getattr(self, "beta", 0.0) > 0

    @abstractmethod
    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss and its metrics."""
