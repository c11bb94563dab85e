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

    Raises:
        ValueError: if r or alpha is below 1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    r: int = 128
    alpha: int = 64
    target_modules: str | list[str] = "auto"

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_positive(r=self.r, alpha=self.alpha)


@dataclass(frozen=True)
class Promising:
    """The tokens that every softmax of the likelihood runs over (RLPT, arXiv 2602.03195).

    They are the reference policy's most probable ones at that position, and the token itself.

    Args:
        top_k: at most so many.
        top_p: of these the fewest that hold this share of their mass.

    Raises:
        ValueError: if top_k is below 1, or top_p outside (0, 1].
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    top_k: int = 64
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_positive(top_k=self.top_k)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is no mass: give one in (0, 1]")


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

    Raises:
        ValueError: if a size is below 1, or the heads do not divide the width evenly.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    num_layers: int = 3
    hidden_size: int = 64
    intermediate_size: int = 176
    num_heads: int = 4
    max_length: int = 128
    rope_theta: float = 100.0
    initializer_range: float = 0.05

    def __post_init__(self) -> None:
        """Validate the settings."""
        _require_positive(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_heads=self.num_heads,
            max_length=self.max_length,
        )
        # Rotary embeddings turn pairs of a head's dimensions.
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} does not split into num_heads={self.num_heads} "
                f"heads of even width: choose a multiple of {2 * self.num_heads}"
            )


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value} is too small: give at least 1")
