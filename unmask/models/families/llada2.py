"""LLaDA2.x: a GLM-4-MoE with partial rotary embeddings that attends in blocks of 32."""

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
    rotary,
)


def translate(config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """Routing is GLM's: sigmoid scores, groups, weights renormalised and scaled."""
    width = config["head_dim"]
    factor = config.get("partial_rotary_factor") or config.get("rotary_dim", width) / width
    fields = qwen_fields(config)
    del fields["use_sliding_window"]
    return {
        **fields,
        "head_dim": width,
        "rope_parameters": rotary(config, partial_rotary_factor=factor),
        "n_routed_experts": config["num_experts"],
        "n_shared_experts": config["num_shared_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "moe_intermediate_size": config["moe_intermediate_size"],
        "first_k_dense_replace": config["first_k_dense_replace"],
        "n_group": config["n_group"],
        "topk_group": config["topk_group"],
        "routed_scaling_factor": config["routed_scaling_factor"],
        # The authors' code renormalises whatever their config says.
        "norm_topk_prob": True,
        "attention_bias": False,
        # Some configs lack the field, and the classes that read them differ in its default.
        "use_qk_norm": any(".query_layernorm." in name for name in tensors),
    }


ATTENTION = "model.layers.*.attention."
NATIVE = "model.layers.*.self_attn."

LLADA2 = FamilySpec(
    name="llada2",
    checkpoints=("inclusionAI/LLaDA2.0-*", "inclusionAI/LLaDA2.1-*"),
    model_type="llada2_moe",
    network="glm4_moe",
    translate=translate,
    only={
        **QWEN_ONLY,
        "use_qkv_bias": (None, False),
        "use_bias": (None, False),
        "score_function": (None, "sigmoid"),
        "moe_router_enable_expert_bias": (None, True),
        "norm_head": (None, False),
        "norm_softmax": (None, False),
        "use_rmsnorm": (None, True),
        "using_split_qkv_in_self_attention": (None, False),
    },
    names=(
        ("model.word_embeddings", "model.embed_tokens"),
        (f"{ATTENTION}dense", f"{NATIVE}o_proj"),
        (f"{ATTENTION}query_layernorm", f"{NATIVE}q_norm"),
        (f"{ATTENTION}key_layernorm", f"{NATIVE}k_norm"),
        (
            "model.layers.*.mlp.gate.expert_bias",
            "model.layers.*.mlp.gate.e_score_correction_bias",
        ),
    ),
    fused=(("attention.query_key_value", tuple(f"self_attn.{name}_proj" for name in "qkv")),),
    mask_token="<|mask|>",
    mask_token_id=156895,
    eos_token_ids=(156892,),
    turn_end="<|role_end|>",
    chat_template=role_template("detailed thinking off"),
    block_length=32,
    # One token a step; the authors reveal all that are surer than 0.95 at once.
    sampler={
        "gen_length": 2048,
        "block_length": 32,
        "steps": 2048,
        "temperature": 0.0,
        "remasking": "low_confidence",
    },
    # peft takes the names of a MLP's layers for those of the stacked experts.
    lora_targets=ATTENTION_LAYERS,
    tiny={
        **TINY_QWEN,
        "head_dim": 16,
        "partial_rotary_factor": 0.5,
        "num_experts": 4,
        "num_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 2.5,
    },
)
