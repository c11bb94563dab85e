"""The k1, k2 and k3 estimators of the KL divergence to another policy, per token or per sequence.

All take samples of the current policy (Schulman, "Approximating KL divergence", 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

KLName = Literal["k1", "k2", "k3"]


def k1(logp: Tensor, other: Tensor) -> Tensor:
    """d = logp - other, with the gradient (1 + d) grad logp: its score-function term included.

    Args:
        logp: float, any shape, log-probabilities or estimates under the current policy.
        other: the same under the other policy.
    """
    difference = logp - other.detach()
    # The second term is 0; its gradient is the score-function part.
    return difference + difference.detach() * (logp - logp.detach())


def k2(logp: Tensor, other: Tensor) -> Tensor:
    """d^2 / 2, d = logp - other: the gradient d grad logp is that of the reverse KL."""
    return (logp - other.detach()).square() / 2


def k3(logp: Tensor, other: Tensor) -> Tensor:
    """exp(-d) + d - 1, d = logp - other: unbiased in value and never negative."""
    difference = logp - other.detach()
    return (-difference).expm1() + difference


KL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
