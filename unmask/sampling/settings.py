"""Settings of the unmasking loop, checked without importing torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

Remasking = Literal["low_confidence", "random", "entropy", "margin", "left_to_right"]
Caching = Literal["none", "prefix", "dual"]
# Logits divided by less leave float32.
LOWEST_TEMPERATURE = 1e-30
PARALLEL_RULES = ("threshold", "factor", "entropy_bound")


@dataclass(frozen=True)
class Sampler:
    """Settings of the unmasking loop, under the names of LLaDA's.

    Args:
        gen_length: L, the completion canvas in tokens.
        block_length: tokens per block; blocks are finished from left to right.
        steps: denoising steps in all, shared evenly by the blocks.
        temperature: 0 = the likeliest token.
        top_p: keep the likeliest tokens up to this mass; 1 keeps all.
        top_k: keep the k likeliest tokens; 0 keeps all.
        remasking: the order in which positions are revealed.
        select_first: choose positions first and then sample there, instead of sampling every
            position and keeping the best.
        cfg_scale: classifier-free guidance w: logits = uncond + (w + 1) (cond - uncond).
        early_stop: do not denoise the blocks of a sequence that has closed with EOS.
        cache: keys and values that a step takes over from the first step of its block: prefix =
            of what is before the block, dual = also of what is behind it; none is exact, and in a
            block-causal model so are the others.
        threshold: reveal every token at least this probable, and what the schedule asks for.
        factor: reveal the n likeliest tokens where (n + 1) (1 - the n-th probability) < factor.
        entropy_bound: reveal the n first tokens whose entropies, the largest left out, sum to at
            most this many nats.
        max_tokens_per_step: most tokens that these rules reveal at once; null = no cap.

    Raises:
        ValueError: for settings that do not fit together.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    gen_length: int = 256
    block_length: int = 32
    steps: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    remasking: Remasking = "low_confidence"
    select_first: bool = False
    cfg_scale: float = 0.0
    early_stop: bool = True
    cache: Caching = "none"
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    max_tokens_per_step: int | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("gen_length", "block_length", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is too small: give at least 1")
        if self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length={self.gen_length} is not a multiple of "
                f"block_length={self.block_length}: blocks tile the canvas, so choose a divisor"
            )
        if self.steps % self.num_blocks:
            raise ValueError(
                f"steps={self.steps} does not split over {self.num_blocks} blocks of "
                f"{self.block_length}: choose a multiple of {self.num_blocks}"
            )
        if self.steps > self.gen_length:
            raise ValueError(
                f"steps={self.steps} is more than gen_length={self.gen_length}: every step "
                f"reveals at least one token, so choose at most {self.gen_length}"
            )
        for name in ("temperature", "top_k", "cfg_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name}={getattr(self, name)} is out of range: give a finite number from 0 up"
                )
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            raise ValueError(
                f"temperature={self.temperature} is too small to divide logits by: give 0 for the "
                "likeliest token"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is out of range: give a mass in (0, 1]")
        for name, choices in (("remasking", get_args(Remasking)), ("cache", get_args(Caching))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown: choose {', '.join(choices)}"
                )
        self._check_parallel()

    def _check_parallel(self) -> None:
        rules = [name for name in PARALLEL_RULES if getattr(self, name) is not None]
        for name in rules:
            value, highest = getattr(self, name), 1 if name == "threshold" else math.inf
            if not 0 < value <= highest or value == math.inf:
                limit = "a probability in (0, 1]" if name == "threshold" else "a number above 0"
                raise ValueError(f"{name}={value} is out of range: give {limit}")
        if len(rules) > 1:
            raise ValueError(
                f"{rules[0]}={getattr(self, rules[0])} and {rules[1]}={getattr(self, rules[1])} "
                "are two rules for one choice: give one of them"
            )
        if rules and rules[0] != "entropy_bound" and self.remasking != "low_confidence":
            raise ValueError(
                f"{rules[0]}={getattr(self, rules[0])} reads probabilities, but "
                f"remasking={self.remasking}: choose remasking=low_confidence or entropy_bound"
            )
        cap = self.max_tokens_per_step
        if cap is None:
            return
        if not rules:
            raise ValueError(
                f"max_tokens_per_step={cap} caps {', '.join(PARALLEL_RULES)}, and none is set: "
                "give one, or leave out the cap"
            )
        scheduled = -(-self.gen_length // self.steps)
        if cap < scheduled:
            raise ValueError(
                f"max_tokens_per_step={cap} is less than the {scheduled} that steps={self.steps} "
                f"asks for: give at least {scheduled}, or more steps"
            )

    def require_two_steps(self) -> None:
        """Raise ValueError unless a block can be finished in two parts, one after the other."""
        if self.steps < 2 * self.num_blocks:
            raise ValueError(
                f"steps={self.steps} leaves one step to a block, but a prompt ends inside a block "
                "of a block-causal model, so that one takes two steps: choose at least "
                f"{2 * self.num_blocks}"
            )

    @property
    def num_blocks(self) -> int:
        """Blocks of the canvas."""
        return self.gen_length // self.block_length

    @property
    def parallel(self) -> bool:
        """Whether a rule reveals more than the schedule."""
        return any(getattr(self, name) is not None for name in PARALLEL_RULES)

    @property
    def approximate(self) -> bool:
        """Whether samples come from another policy than the schedule's: caches, parallel rules."""
        return self.cache != "none" or self.parallel

    @property
    def unmodified(self) -> bool:
        """Whether tokens are drawn at the model's own probabilities."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1 and not self.cfg_scale
