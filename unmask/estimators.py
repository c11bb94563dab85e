"""Likelihood estimators by name: how many views a completion gets, and which tokens they hide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from unmask.maskings import Maskings


@dataclass(frozen=True)
class DrawContext:
    """What a draw may depend on: the completions' shape, never their batch.

    Attributes:
        seeds: one per sequence, B in all.
        lengths: int [B], tokens up to and including the first EOS.
        prompt_lengths: int [B], real tokens of each prompt.
        canvas: L, the completion canvas in tokens.
        step_map: int [B, L], the denoising step at which each token was revealed.
    """

    seeds: Sequence[int]
    lengths: torch.Tensor
    prompt_lengths: torch.Tensor
    canvas: int
    step_map: torch.Tensor


class Estimator(ABC):
    """Settings of one estimator; `draw` turns them into maskings."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    @abstractmethod
    def draw(self, context: DrawContext) -> Maskings:
        """Maskings for B completions, each from its own generator."""


@dataclass(frozen=True)
class ELBO(Estimator):
    """Random-count ELBO (LLaDA, arXiv 2502.09992; ESPO, arXiv 2512.03759).

    Args:
        num_mc: draws per completion; a coupled draw costs two forward passes.
        coupled: antithetic pairs: each draw scores every token once, in one of two views.
        stratified: spread a completion's mask counts evenly.
    """

    num_mc: int = 2
    coupled: bool = True
    stratified: bool = True

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_draws(self.num_mc)

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings.draw_elbo`."""
        from unmask.maskings import draw_elbo, make_generators

        return draw_elbo(
            make_generators(context.seeds),
            context.canvas,
            self.num_mc,
            coupled=self.coupled,
            stratified=self.stratified,
        )


@dataclass(frozen=True)
class TimeUniform(Estimator):
    """Time-uniform ELBO, t ~ U(0, 1] with weight 1/t (BGPO, arXiv 2510.11683).

    Args:
        num_mc: draws per completion, one forward pass each.
        stratified: spread a completion's times evenly.
    """

    num_mc: int = 16
    stratified: bool = False

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_draws(self.num_mc)

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings.draw_time_uniform`."""
        from unmask.maskings import draw_time_uniform, make_generators

        return draw_time_uniform(
            make_generators(context.seeds),
            context.canvas,
            self.num_mc,
            stratified=self.stratified,
        )


@dataclass(frozen=True)
class OneStep(Estimator):
    """One-step mean field: everything hidden, scored up to the first EOS (d1, arXiv 2504.12216).

    Args:
        p_mask_prompt: probability that a prompt token is hidden.
    """

    p_mask_prompt: float = 0.15

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not 0 <= self.p_mask_prompt <= 1:
            raise ValueError(
                f"p_mask_prompt={self.p_mask_prompt} is no probability: give one in [0, 1]"
            )

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings.draw_one_step`."""
        from unmask.maskings import draw_one_step, make_generators

        return draw_one_step(
            make_generators(context.seeds),
            context.lengths,
            context.canvas,
            prompt_lengths=context.prompt_lengths,
            p_mask_prompt=self.p_mask_prompt,
        )


def _require_draws(num_mc: int) -> None:
    if num_mc < 1:
        raise ValueError(f"num_mc={num_mc} is too small: an estimate needs at least 1 draw")


ESTIMATORS: dict[str, type[Estimator]] = {
    "elbo": ELBO,
    "time_uniform": TimeUniform,
    "one_step": OneStep,
}
