"""LLaDA-MoE: a Qwen3-MoE with per-head query and key norms, attending in both directions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from unmask.models.families.spec import (
    ATTENTION_LAYERS,
    QWEN_ONLY,
    TINY_QWEN,
    Config,
    FamilySpec,
    qwen_fields,
    role_template,
)


def translate(config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """Dense layers are those that `moe_layer_freq` marks with 0."""
    sparse = config.get("moe_layer_freq") or ()
    return {
        **qwen_fields({**config, "intermediate_size": config["dense_intermediate_size"]}),
        "num_experts": config["num_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "moe_intermediate_size": config["expert_intermediate_size"],
        "mlp_only_layers": [layer for layer, is_sparse in enumerate(sparse) if not is_sparse],
        "decoder_sparse_step": 1,
        # The authors' router never renormalises, whatever their config says.
        "norm_topk_prob": False,
        "attention_bias": bool(config.get("attention_bias", False)),
        **({"head_dim": config["head_dim"]} if config.get("head_dim") else {}),
    }


LLADA_MOE = FamilySpec(
    name="llada_moe",
    checkpoints=("inclusionAI/LLaDA-MoE-7B-A1B-*",),
    model_type="llada",
    matches=lambda config: "num_experts" in config,
    network="qwen3_moe",
    translate=translate,
    only={
        **QWEN_ONLY,
        "moe_router_enable_expert_bias": (None, False),
        "moe_router_score_function": (None, "softmax"),
        "shared_expert_intermediate_size": (None, 0),
        "router_num_group": (None, 0, 1),
        "routed_scaling_factor": (None, 1),
        "partial_rotary_factor": (None, 1),
        "qk_layernorm": (None, True),
        "clip_qkv": (None,),
    },
    mask_token="<|mask|>",
    mask_token_id=156895,
    eos_token_ids=(156892,),
    turn_end="<|role_end|>",
    chat_template=role_template(),
    sampler={
        "gen_length": 128,
        "block_length": 32,
        "steps": 128,
        "temperature": 0.0,
        "remasking": "low_confidence",
    },
    # The experts are no linear layers but stacked in one tensor.
    lora_targets=ATTENTION_LAYERS,
    tiny={
        **TINY_QWEN,
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "expert_intermediate_size": 16,
        "dense_intermediate_size": 64,
    },
)
