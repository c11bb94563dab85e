"""Checkpoints in transformers' own format: what unmask saves, adapts and ships."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from unmask.models.families.spec import Config, FamilySpec


def translate(config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """Nothing to translate."""
    return dict(config)


NATIVE = tuple(
    FamilySpec(
        name="native",
        checkpoints=(),
        model_type=network,
        network=network,
        translate=translate,
    )
    for network in ("llama", "qwen2", "qwen3", "qwen3_moe", "glm4_moe")
)
