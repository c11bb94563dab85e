"""Checkpoint families: how a folder's config.json is recognised and what its tokens mean.

Nothing in a checkpoint is executed: config.json is read as plain JSON, and the network is chosen
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NATIVE_MODEL_TYPES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class Family:
    """What unmask must know about a checkpoint beyond its weights.

    Attributes:
        name: as in `model.family`.
        mask_token_id: the token that stands for "hidden".
        eos_ids: tokens that end a completion; the first fills what an early stop leaves.
        shift: True where the network predicts token i at position i-1.
    """

    name: str
    mask_token_id: int
    eos_ids: tuple[int, ...]
    shift: bool = False


def recognise(config: dict[str, Any], source: str) -> Family:
    """The family of a checkpoint.

    Args:
        config: the parsed config.json.
        source: where it came from, for error messages.

    Raises:
        ValueError: if the architecture is unknown or causal, or if no mask or EOS token is named.
    """
    model_type = config.get("model_type")
    if model_type not in NATIVE_MODEL_TYPES:
        raise ValueError(
            f"{source} has model_type {model_type!r}, which no family here runs: "
            f"use a checkpoint of type {', '.join(NATIVE_MODEL_TYPES)}"
        )
    if config.get("is_causal", True) is not False:
        raise ValueError(
            f"{source} is a causal {model_type} checkpoint: a diffusion model needs "
            '"is_causal": false in config.json and training with masked tokens'
        )
    mask_token_id = config.get("mask_token_id")
    size = config.get("vocab_size", 0)
    if not isinstance(mask_token_id, int) or not 0 <= mask_token_id < size:
        raise ValueError(
            f"{source} has mask_token_id {mask_token_id!r} and vocab_size {size!r} in config.json: "
            "a diffusion model needs the id of its mask token there"
        )
    eos = config.get("eos_token_id")
    eos_ids = tuple(eos) if isinstance(eos, list) else (eos,)
    if not eos_ids or not all(isinstance(token, int) and 0 <= token < size for token in eos_ids):
        raise ValueError(
            f"{source} has eos_token_id {eos!r} and vocab_size {size!r} in config.json: "
            "name there the token, or the list of tokens, that ends a completion"
        )
    return Family("native", mask_token_id, eos_ids)
