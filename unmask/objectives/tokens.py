"""What the token-level objectives share: the surrogate and the KL of every scored token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from unmask.objectives.base import ObjectiveInputs
from unmask.objectives.kl import k3
from unmask.objectives.trust_region import Divergence, Surrogate, surrogate

if TYPE_CHECKING:
    from torch import Tensor


def token_surrogate(
    inputs: ObjectiveInputs,
    *,
    epsilon: float,
    epsilon_high: float | None,
    divergence: Divergence | None,
) -> Surrogate:
    """The surrogate of exp(logp - old_logp) of every token, 0 where it is not scored: [B, M, L]."""
    step = surrogate(
        readable(inputs.logp, inputs),
        readable(inputs.old_logp, inputs),
        inputs.advantages[:, None, None],
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        divergence=divergence,
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
