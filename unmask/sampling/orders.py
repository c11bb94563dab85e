"""Which hidden positions a denoising step reveals: a score per position, the highest go first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, finfo


@dataclass
class Candidates:
    """What the score of a position may be read from; S positions of any sequences.

    Attributes:
        logits: float32 [S, V].
        confidence: float32 [S], the probability at temperature 1 of the token drawn there; None
            before tokens are drawn.
        noise: float32 [S], uniform in [0, 1).
        places: int64 [S], positions in the completion.
    """

    logits: Tensor
    confidence: Tensor | None
    noise: Tensor
    places: Tensor

    @cached_property
    def logp(self) -> Tensor:
        """Log-probabilities at temperature 1, float32 [S, V]."""
        return self.logits.log_softmax(-1)

    @property
    def entropies(self) -> Tensor:
        """In nats, float32 [S]."""
        return entropies(self.logp)


def entropies(logp: Tensor) -> Tensor:
    """Of distributions given by their log-probabilities, in nats: float [S, V] to [S]."""
    return -(logp.exp() * logp.clamp(min=finfo(logp.dtype).min)).sum(-1)


def low_confidence(candidates: Candidates) -> Tensor:
    """Probability of the drawn token, or of the likeliest before one is drawn (LLaDA)."""
    if candidates.confidence is not None:
        return candidates.confidence
    return candidates.logp.amax(-1).exp()


def random(candidates: Candidates) -> Tensor:
    """A uniform order."""
    return candidates.noise


def entropy(candidates: Candidates) -> Tensor:
    """Lowest entropy first (Dream)."""
    return -candidates.entropies


def margin(candidates: Candidates) -> Tensor:
    """Largest gap between the two likeliest tokens first (Dream)."""
    top = candidates.logp.topk(2, dim=-1).values.exp()
    return top[..., 0] - top[..., 1]


def left_to_right(candidates: Candidates) -> Tensor:
    """The order of reading."""
    return -candidates.places.float()


ORDERS: dict[str, Callable[[Candidates], Tensor]] = {
    "low_confidence": low_confidence,
    "random": random,
    "entropy": entropy,
    "margin": margin,
    "left_to_right": left_to_right,
}
