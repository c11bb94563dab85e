"""What the token-level objectives share: the surrogate and the KL of every scored token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from unmask.objectives.base import ObjectiveInputs
from unmask.objectives.kl import k3
from unmask.objectives.trust_region import Divergence, Surrogate, surrogate

if TYPE_CHECKING:
    from torch import Tensor


class Bounds(Protocol):
    """How far an objective lets a ratio go; its settings, see `surrogate`."""

    @property
    def epsilon(self) -> float:
        """Lower clip bound of the ratio, 1 - epsilon."""

    @property
    def epsilon_high(self) -> float | None:
        """Upper clip bound, 1 + epsilon_high; None = epsilon."""

    @property
    def divergence(self) -> Divergence | None:
        """Drop tokens by this in place of the clip, or None."""


def token_surrogate(inputs: ObjectiveInputs, bounds: Bounds) -> Surrogate:
    """The surrogate of exp(logp - old_logp) of every token, 0 where it is not scored: [B, M, L]."""
    step = surrogate(
        readable(inputs.logp, inputs),
        readable(inputs.old_logp, inputs),
        inputs.advantages[:, None, None],
        epsilon=bounds.epsilon,
        epsilon_high=bounds.epsilon_high,
        divergence=bounds.divergence,
    )
    return replace(step, values=step.values * inputs.scored)


def token_kl(inputs: ObjectiveInputs, other: Tensor) -> Tensor:
    """k3 of every token to another policy, 0 where no token or no reward is scored: [B, M, L].

    Args:
        inputs: of the objective.
        other: float [B, M, L], log-probabilities under the other policy.
    """
    kl = k3(readable(inputs.logp, inputs), readable(other, inputs))
    return kl * inputs.rewarded[:, None, None]


def readable(values: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """Values [B, M, L] with 0 wherever no token is scored, where anything may stand."""
    return values.masked_fill(~inputs.scored, 0.0)
