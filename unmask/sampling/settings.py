"""Settings of the unmasking loop, checked without importing torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

Remasking = Literal["low_confidence", "random", "entropy", "margin", "left_to_right"]


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
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is out of range: give a mass in (0, 1]")
        if self.remasking not in get_args(Remasking):
            raise ValueError(
                f"remasking={self.remasking!r} is unknown: choose {', '.join(get_args(Remasking))}"
            )

    @property
    def num_blocks(self) -> int:
        """Blocks of the canvas."""
        return self.gen_length // self.block_length
