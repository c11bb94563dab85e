"""The contract of an objective: a pure function of small tensors, never of a model.

An objective sees token log-probabilities [B, M, L]. That is what makes an exact gradient in
constant memory possible for all of them: d loss / d logp is a small tensor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.estimators import Estimator

Reduction = Literal["mean", "sum", "min", "max", "quantiles", "effective_sample_size"]


@dataclass(frozen=True)
class Totals:
    """Denominators, counted over the whole optimizer step: all ranks, all micro-batches.

    Attributes:
        sequences: completions that were scored by a reward.
        scored_tokens: entries of `weight` above 0.
        lengths: sum of `lengths`.
        nonzero_advantages: completions with A != 0.
        views: views that score a token at all; None where every view of every completion does.
    """

    sequences: float
    scored_tokens: float
    lengths: float
    nonzero_advantages: float
    views: float | None = None


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
        log_ref_ratio: float [B], log p_ref - log p_old of each completion, estimated once per
            rollout; None where the reference policy made the rollout, so that it is 0.
        values: float [B], `Objective.value` of each completion's prompt; None if the objective
            has none.
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
    log_ref_ratio: Tensor | None = None
    values: Tensor | None = None

    @property
    def scored(self) -> Tensor:
        """Bool [B, M, L], True where a token's log-probability may be read."""
        return self.weight > 0

    @property
    def rewarded(self) -> Tensor:
        """Bool [B], True where a reward scored the completion."""
        return ~self.rewards.isnan()

    @property
    def total_views(self) -> float:
        """Views of the whole optimizer step that score a token."""
        given = self.totals.views
        return self.totals.sequences * self.weight.shape[1] if given is None else given

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
        reduction: "mean", "sum", "min" or "max" over all entries of the optimizer step; "quantiles"
            of them; or their "effective_sample_size", the entries being logarithms of weights.
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
    of the whole; unless `pairwise`, d loss / d logp of a sequence must not depend on another
    sequence's logp.

    A subclass is a frozen dataclass whose fields are its settings in a recipe. Its module uses
    tensor methods and imports torch for type checking only, so that a recipe is checked in no time.

    Class attributes:
        separable: True if d loss / d logp of one draw needs only that draw.
        needs_old: False if `old_logp` is never read.
        sampling_logprobs: True if log-probabilities are wanted as the sampler takes them: at its
            temperature, renormalised over its top-k / top-p candidates.
        rollout_estimator: the estimator, by name and settings, of `log_ref_ratio`, which is then
            taken once per rollout under the reference and the old policy on the same draws of
            their own; None if it is never read.
        offline: True if it learns from pairs of a data set, the chosen completion before the
            rejected one, with rewards 1 and 0, and not from rollouts.
        pairwise: True if d loss / d logp of a completion needs the logp of its whole group.
        grouped: False if no completion is compared with others of its prompt, so that one per
            prompt is enough.
        paper: sections of a recipe that the paper's method brings along unless they are set.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}
    separable: ClassVar[bool] = False
    needs_old: ClassVar[bool] = True
    sampling_logprobs: ClassVar[bool] = False
    rollout_estimator: ClassVar[dict[str, Any] | None] = None
    offline: ClassVar[bool] = False
    pairwise: ClassVar[bool] = False
    grouped: ClassVar[bool] = True
    paper: ClassVar[dict[str, dict[str, Any]]] = {}

    @property
    def needs_reference(self) -> bool:
        """Whether `ref_logp` must be given."""
        return getattr(self, "beta", 0.0) > 0

    @property
    def separable_on_policy(self) -> bool:
        """`separable`, where the current policy made the rollout: no old_logp differs from logp."""
        return self.separable

    def check(self, estimator: Estimator) -> None:
        """Raise a ValueError with the remedy where this objective cannot take an estimator."""
        return

    @property
    def value_samples(self) -> int:
        """Completions per prompt that the reference policy writes for `value`; 0 = none."""
        return int(getattr(self, "num_values", 0))

    def value(self, rewards: Tensor) -> Tensor:
        """Value of each prompt [N] from the reference policy's rewards [N, value_samples].

        NaN = not scored; a prompt of which nothing was scored has the value NaN.
        """
        raise NotImplementedError

    def _require(self, *names: str, above: float | None = None) -> None:
        """Refuse settings that are not finite, below 0, or at and below `above`; None passes."""
        for name in names:
            value = getattr(self, name)
            if value is None:
                continue
            if not -math.inf < value < math.inf:
                raise ValueError(f"{name}={value} is no finite number: give one")
            if above is not None and value <= above:
                raise ValueError(f"{name}={value} is too small: it must be above {above:g}")
            if above is None and value < 0:
                raise ValueError(f"{name}={value} is negative: it must be at least 0")

    def _require_choice(self, name: str, choices: Sequence[str]) -> None:
        """Refuse a setting that is none of the choices."""
        value = getattr(self, name)
        if value not in choices:
            listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise ValueError(f"{name}={value!r} is unknown: choose {listed}")

    @abstractmethod
    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutput:
        """The loss and its metrics."""
