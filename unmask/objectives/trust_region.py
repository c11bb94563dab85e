"""How far a policy ratio may carry an update: PPO's clip, or DPPO's divergence mask instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unmask.objectives.base import Metric
from unmask.objectives.ratio import ratio_metrics

if TYPE_CHECKING:
    from torch import Tensor

# Thresholds of the paper.
DELTAS = {"tv": 0.15, "kl": 0.05}


@dataclass(frozen=True)
class Divergence:
    """DPPO's trust region (arXiv 2602.04879), in place of the clip.

    An entry is dropped where its divergence from the old policy is above `delta` and the policy
    has moved the way its advantage points: |p - p_old| (tv), or the Bernoulli
    KL(p_old || p) = p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p)) (kl). What is
    dropped stays in the denominator. The others count min(ratio, max_ratio) A, with the gradient
    min(ratio, max_ratio) A grad log p.

    Args:
        kind: tv or kl.
        delta: threshold; null = the paper's, 0.15 for tv and 0.05 for kl.
        max_ratio: where the ratio is truncated.

    Raises:
        ValueError: for an unknown kind, or a delta or max_ratio that is not above 0.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    kind: Literal["tv", "kl"] = "tv"
    delta: float | None = None
    max_ratio: float = 10.0

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.kind not in DELTAS:
            raise ValueError(f"kind={self.kind!r} is unknown: choose tv or kl")
        for name in ("delta", "max_ratio"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} is too small: it must be above 0")

    def drops(self, logp: Tensor, old_logp: Tensor, advantages: Tensor) -> Tensor:
        """Bool, True for what is left out; the arguments are as for `surrogate`."""
        logp, old_logp = logp.detach(), old_logp.detach()
        new, old = logp.exp(), old_logp.exp()
        distance = (new - old).abs()
        if self.kind == "kl":
            # 0 log 0 = 0, at probabilities of exactly 0 and 1.
            seen = (old * (old_logp - logp)).nan_to_num(nan=0.0)
            other = (-old_logp.expm1()).log() - (-logp.expm1()).log()
            distance = seen + ((1 - old) * other).nan_to_num(nan=0.0)
        delta = DELTAS[self.kind] if self.delta is None else self.delta
        return (distance > delta) & ((new - old) * advantages > 0)


@dataclass(frozen=True)
class Surrogate:
    """What a policy-ratio objective maximises, entry by entry.

    Attributes:
        values: float, of the shape of the log-probabilities, with a graph.
        log_ratio: the same shape, detached, neither clipped nor truncated.
        dropped: bool, True where no gradient flows because the policy has moved far enough.
    """

    values: Tensor
    log_ratio: Tensor
    dropped: Tensor

    def metrics(self, keep: Tensor | None = None) -> dict[str, Metric]:
        """See `unmask.objectives.ratio.ratio_metrics`.

        Args:
            keep: bool, the entries that count; None = all.
        """
        if keep is None:
            return ratio_metrics(self.log_ratio, self.dropped)
        return ratio_metrics(self.log_ratio[keep], self.dropped[keep])


def surrogate(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    *,
    epsilon: float,
    epsilon_high: float | None = None,
    divergence: Divergence | None = None,
    scale: float = 1.0,
) -> Surrogate:
    """min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A), rho = exp(scale (logp - old_logp)).

    Args:
        logp: float, any shape: of a token, or a sequence's estimate per token.
        old_logp: the same under the policy that made the rollout.
        advantages: float, broadcasts against them.
        epsilon: lower clip bound of the ratio, 1 - epsilon.
        epsilon_high: upper clip bound, 1 + epsilon_high; None = epsilon.
        divergence: drop by this in place of the clip; its probabilities are exp(logp).
        scale: of the ratio's exponent.
    """
    log_ratio = scale * (logp - old_logp.detach())
    ratio = log_ratio.detach().exp()
    if divergence is not None:
        dropped = divergence.drops(logp, old_logp, advantages)
        factor = ratio.clamp(max=divergence.max_ratio) * ~dropped
        values = factor * advantages * (1 + log_ratio - log_ratio.detach())
        return Surrogate(values, log_ratio.detach(), dropped)
    low, high = 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)
    dropped = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
    # A ratio that overflows where nothing flows must not turn the gradient into 0 * inf.
    moving = log_ratio.masked_fill(dropped | (advantages == 0), 0.0).exp()
    values = moving.where(~dropped, ratio.clamp(low, high)) * advantages
    return Surrogate(values, log_ratio.detach(), dropped)
