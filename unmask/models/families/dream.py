"""Dream (arXiv 2508.15487) and DiffuCoder: a Qwen2 that predicts token i at position i-1."""

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


def translate(config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """Qwen2's own fields."""
    return qwen_fields(config)


DREAM = FamilySpec(
    name="dream",
    checkpoints=("Dream-org/Dream-v0-*", "Dream-org/Dream-Coder-v0-*", "apple/DiffuCoder-7B-*"),
    model_type="Dream",
    network="qwen2",
    translate=translate,
    only={**QWEN_ONLY, "use_mrope": (None, False)},
    mask_token="<|mask|>",
    mask_token_id=151666,
    eos_token_ids=(151643,),
    turn_end="<|im_end|>",
    # tokenizer_config.json names a class of the repository's own code; its files are Qwen2's.
    tokenizer="Qwen2Tokenizer",
    chat_template=(
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
        + CHATML
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    shift=True,
    sampler={
        "gen_length": 512,
        "block_length": 512,
        "steps": 512,
        "temperature": 0.2,
        "top_p": 0.95,
        "remasking": "entropy",
    },
    tiny=TINY_QWEN,
)
