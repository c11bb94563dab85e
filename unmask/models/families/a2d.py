"""Tiny-A2D: autoregressive checkpoints taught diffusion, bidirectional (mdlm) or in blocks (bd3lm).

The networks and tensor names are those of the autoregressive originals.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from unmask.models.families.spec import (
    CHATML,
    QWEN_ONLY,
    TINY_QWEN,
    Config,
    FamilySpec,
    qwen_fields,
)

THOUGHTLESS = "<think>\\n\\n</think>\\n\\n"
SAMPLER = {
    "gen_length": 128,
    "block_length": 32,
    "steps": 128,
    "temperature": 0.0,
    "remasking": "low_confidence",
}


def translate(config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """The fields of the network itself, which may have biases and a head width of their own."""
    own = {name: config[name] for name in ("head_dim", "mlp_bias") if config.get(name) is not None}
    own["attention_bias"] = bool(config.get("attention_bias", False))
    return {**qwen_fields(config), **own}


def block_in_name(name: str) -> int | None:
    """The bd3lm variants attend in blocks of 32; config.json does not say so."""
    return 32 if "bd3lm" in name else None


def a2d(
    network: str, checkpoints: tuple[str, ...], mask_token_id: int | None = None, thinking: str = ""
) -> FamilySpec:
    """The family of one network.

    Args:
        network: transformers' model_type.
        checkpoints: published ones.
        mask_token_id: the first id behind the original tokenizer, where the mask token is added.
        thinking: what stands before an answer without thoughts.
    """
    return FamilySpec(
        name=f"a2d-{network}",
        checkpoints=checkpoints,
        model_type=f"a2d-{network}",
        network=network,
        translate=translate,
        only=QWEN_ONLY,
        mask_token="<|mask|>",
        mask_token_id=mask_token_id,
        turn_end="<|im_end|>",
        chat_template=(
            CHATML + "{% if add_generation_prompt %}"
            f"{{{{ '<|im_start|>assistant\\n{thinking}' }}}}{{% endif %}}"
        ),
        template_options={"enable_thinking": False},
        block_in_name=block_in_name,
        sampler=SAMPLER,
        tiny={**TINY_QWEN, "tie_word_embeddings": True},
    )


A2D_QWEN3 = a2d(
    "qwen3",
    ("dllm-hub/Qwen3-*-diffusion-*", "dllm-collection/Qwen3-*-diffusion-*"),
    151669,
    THOUGHTLESS,
)
A2D_QWEN2 = a2d("qwen2", ("dllm-hub/Qwen2.5-*-diffusion-*",), 151665)
# None is published; it is what the same authors' code writes.
A2D_LLAMA = a2d("llama", ())
