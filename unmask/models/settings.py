"""Settings of models, checked without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685), through peft; dropout is always 0.

    Args:
        r: rank.
        alpha: scale numerator; updates are scaled by alpha / r.
        target_modules: names of the linear layers to adapt; "auto" = all but the output head.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    r: int = 128
    alpha: int = 64
    target_modules: str | list[str] = "auto"


@dataclass(frozen=True)
class TinyArchitecture:
    """Shape of a tiny network.

    Args:
        num_layers: transformer layers.
        hidden_size: width.
        intermediate_size: width of the feed-forward part.
        num_heads: attention heads.
        max_length: longest prompt plus completion, in tokens.
        rope_theta: base of the rotary frequencies; short sequences want a small one.
        initializer_range: standard deviation of the initial weights.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    num_layers: int = 3
    hidden_size: int = 64
    intermediate_size: int = 176
    num_heads: int = 4
    max_length: int = 128
    rope_theta: float = 100.0
    initializer_range: float = 0.05
