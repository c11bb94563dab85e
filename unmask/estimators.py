"""Likelihood estimators by name: how many views a completion gets, and which tokens they hide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
        eos: bool [B, L], True where the token is an EOS; None = only `lengths` is known.
        round_seeds: one per sequence, the same for every update of a round; None where a round has
            one update.
        update: of the round, from 0.
        num_updates: mu, updates of a round.
        entropy: float [B, L] in nats, of the distribution that each token was revealed from; None
            where the estimator does not read it.
    """

    seeds: Sequence[int]
    lengths: torch.Tensor
    prompt_lengths: torch.Tensor
    canvas: int
    step_map: torch.Tensor
    eos: torch.Tensor | None = None
    round_seeds: Sequence[int] | None = None
    update: int = 0
    num_updates: int = 1
    entropy: torch.Tensor | None = None


class Estimator(ABC):
    """Settings of one estimator; `draw` turns them into maskings."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    @property
    def reads_entropy(self) -> bool:
        """Whether `draw` needs the entropies of the rollout."""
        return False

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


@dataclass(frozen=True)
class Quadrature(Estimator):
    """ELBO at the noise levels of a Gauss-Legendre rule (GDPO, arXiv 2510.08554).

    Args:
        num_mc: nodes, and draws per completion; exact in expectation for up to 2 num_mc tokens.
    """

    num_mc: int = 3

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_draws(self.num_mc)

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings.draw_quadrature`."""
        from unmask.maskings import draw_quadrature, make_generators

        return draw_quadrature(make_generators(context.seeds), context.canvas, self.num_mc)


@dataclass(frozen=True)
class CoupledTime(Estimator):
    """A hidden set at a random noise level, and its complement (coupled-GRPO, arXiv 2506.20639).

    Args:
        num_mc: draws per completion, of three forward passes with `full_view` and two without.
        t_min: lowest noise level.
        t_max: highest noise level.
        full_view: put a view that hides everything before each pair.
        until_eos: score tokens up to and including the first EOS only.
    """

    num_mc: int = 1
    t_min: float = 0.2
    t_max: float = 0.8
    full_view: bool = True
    until_eos: bool = True

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_draws(self.num_mc)
        if not 0 < self.t_min <= self.t_max <= 1:
            raise ValueError(
                f"t_min={self.t_min}, t_max={self.t_max} are no range of noise levels: give "
                "0 < t_min <= t_max <= 1"
            )

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings.draw_coupled_time`."""
        from unmask.maskings import draw_coupled_time, make_generators

        return draw_coupled_time(
            make_generators(context.seeds),
            context.canvas,
            self.num_mc,
            t_min=self.t_min,
            t_max=self.t_max,
            full_view=self.full_view,
            lengths=context.lengths if self.until_eos else None,
        )


@dataclass(frozen=True)
class SpacedTime(Estimator):
    """One view per update, its noise level spaced over a round's (UniGRPO, arXiv 2505.15809)."""

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings.draw_spaced_time`.

        Raises:
            ValueError: for a round of several updates without `round_seeds`.
        """
        from unmask.maskings import derive_seed, draw_spaced_time, make_generators

        if context.round_seeds is None and context.num_updates > 1:
            raise ValueError(
                f"num_updates={context.num_updates} share one random start: give round_seeds, "
                "one per sequence"
            )
        seeds = context.seeds if context.round_seeds is None else context.round_seeds
        return draw_spaced_time(
            make_generators(context.seeds),
            make_generators([derive_seed("start", seed) for seed in seeds]),
            context.canvas,
            update=context.update,
            num_updates=context.num_updates,
        )


@dataclass(frozen=True)
class Block(Estimator):
    """Views of one block in the middle of its denoising (SPG, arXiv 2510.09541).

    Args:
        num_mc: views per completion.
        block_length: tokens per block; take the sampler's.
        p_mask_context: probability that a token of the prompt or of an earlier block is hidden.
        score_block_only: score the hidden tokens of the block and no others.
    """

    num_mc: int = 2
    block_length: int = 32
    p_mask_context: float = 0.15
    score_block_only: bool = False

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_draws(self.num_mc)
        if self.block_length < 1:
            raise ValueError(f"block_length={self.block_length} is too small: give at least 1")
        if not 0 <= self.p_mask_context <= 1:
            raise ValueError(
                f"p_mask_context={self.p_mask_context} is no probability: give one in [0, 1]"
            )

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings_trajectory.draw_block`."""
        from unmask.maskings import make_generators
        from unmask.maskings_trajectory import draw_block

        return draw_block(
            make_generators(context.seeds),
            context.lengths,
            context.canvas,
            self.num_mc,
            block_length=self.block_length,
            prompt_lengths=context.prompt_lengths,
            p_mask_context=self.p_mask_context,
            score_block_only=self.score_block_only,
        )


@dataclass(frozen=True)
class Trajectory(Estimator):
    """States of the rollout before some of its steps (AGRPO, arXiv 2510.04019; TraceRL).

    Args:
        num_mc: steps per completion, one forward pass each; null = all of them.
        shrink: consecutive steps that are taken as one.
        stratified: spread a completion's steps evenly.
        steps: how they are drawn: uniform, or in proportion to the entropy of a step's tokens, and
            weighed back to uniform.
        until: the last step to learn from: the last that revealed text (any other token than an
            EOS), or the last that revealed a token up to and including the first EOS.
    """

    num_mc: int | None = 24
    shrink: int = 1
    stratified: bool = True
    steps: Literal["uniform", "entropy"] = "uniform"
    until: Literal["text", "first_eos"] = "text"

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_draws(1 if self.num_mc is None else self.num_mc)
        if self.shrink < 1:
            raise ValueError(f"shrink={self.shrink} is too small: give at least 1")
        if self.until not in ("text", "first_eos"):
            raise ValueError(f"until={self.until!r} is unknown: choose text or first_eos")
        if self.steps not in ("uniform", "entropy"):
            raise ValueError(f"steps={self.steps!r} is unknown: choose uniform or entropy")
        if self.reads_entropy and self.num_mc is None:
            raise ValueError("steps=entropy draws steps, and num_mc=null takes all: give a number")

    @property
    def reads_entropy(self) -> bool:
        """Whether steps are drawn by their entropy."""
        return self.steps == "entropy"

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings_trajectory.draw_trajectory`."""
        from unmask.maskings import make_generators
        from unmask.maskings_trajectory import draw_trajectory, last_steps

        if self.reads_entropy and context.entropy is None:
            raise ValueError(
                "estimator.steps=entropy reads the entropies of a rollout, and here are none: set "
                "estimator.steps=uniform"
            )
        last = last_steps(
            context.step_map,
            context.lengths,
            context.eos,
            until_eos=self.until == "first_eos",
        )
        return draw_trajectory(
            make_generators(context.seeds),
            context.step_map,
            last,
            self.num_mc,
            shrink=self.shrink,
            stratified=self.stratified,
            entropy=context.entropy if self.reads_entropy else None,
        )


@dataclass(frozen=True)
class LeftToRight(Estimator):
    """The exact autoregressive log-likelihood, a forward pass per token (arXiv 2601.15165)."""

    def draw(self, context: DrawContext) -> Maskings:
        """See `unmask.maskings_trajectory.draw_left_to_right`."""
        from unmask.maskings_trajectory import draw_left_to_right

        return draw_left_to_right(len(context.seeds), context.canvas)


def _require_draws(num_mc: int) -> None:
    if num_mc < 1:
        raise ValueError(f"num_mc={num_mc} is too small: an estimate needs at least 1 draw")


ESTIMATORS: dict[str, type[Estimator]] = {
    "elbo": ELBO,
    "time_uniform": TimeUniform,
    "one_step": OneStep,
    "quadrature": Quadrature,
    "coupled_time": CoupledTime,
    "spaced_time": SpacedTime,
    "block": Block,
    "trajectory": Trajectory,
    "left_to_right": LeftToRight,
}
