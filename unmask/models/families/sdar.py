"""SDAR and TraDo: a Qwen3 that attends within a block and to the blocks before it."""

from __future__ import annotations

import re
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


def translate(config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """Qwen3's own fields; the width of a head is not that of the network over its heads."""
    return {
        **qwen_fields(config),
        "head_dim": config["head_dim"],
        "attention_bias": bool(config.get("attention_bias", False)),
    }


def block_in_name(name: str) -> int | None:
    """`SDAR-4B-Chat-b16` attends in blocks of 16."""
    found = re.search(r"-b(\d+)$", name.rstrip("/"))
    return int(found.group(1)) if found else None


SDAR = FamilySpec(
    name="sdar",
    checkpoints=(
        *(f"JetLM/SDAR-{size}B-Chat*" for size in ("1.7", "4", "8")),
        "Gen-Verse/TraDo-*",
    ),
    model_type="sdar",
    network="qwen3",
    translate=translate,
    only=QWEN_ONLY,
    # The files of one checkpoint spell its text in two ways; the id is what counts.
    mask_token="<|MASK|>",
    mask_token_id=151669,
    eos_token_ids=(151643,),
    turn_end="<|im_end|>",
    tokenizer="Qwen2Tokenizer",
    chat_template=(
        CHATML + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
    ),
    block_length=4,
    block_in_name=block_in_name,
    # One token a step; the authors reveal all that are surer than 0.85 at once.
    sampler={
        "gen_length": 256,
        "block_length": 4,
        "steps": 256,
        "temperature": 1.0,
        "remasking": "low_confidence",
    },
    tiny={**TINY_QWEN, "head_dim": 24},
)
