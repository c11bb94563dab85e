"""LLaDA (arXiv 2502.09992): a Llama under the names of OLMo, attending in both directions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from unmask.models.families.spec import Config, FamilySpec, rotary

BLOCK = "model.transformer.blocks.*."
LAYER = "model.layers.*."


def header(role: str) -> str:
    """What opens a message, in Jinja.

    Args:
        role: an expression.
    """
    return f"{{{{ '<|start_header_id|>' + {role} + '<|end_header_id|>\\n\\n' }}}}"


def translate(config: Config, tensors: Collection[str]) -> dict[str, Any]:
    """LLaDA's fields in Llama's."""
    heads = config["n_heads"]
    shared = 1 if config.get("multi_query_attention") else heads
    return {
        # The embedding may have more rows than the tokenizer has tokens.
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
        "hidden_size": config["d_model"],
        "intermediate_size": config.get("mlp_hidden_size")
        or config["mlp_ratio"] * config["d_model"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_kv_heads") or shared,
        "max_position_embeddings": config["max_sequence_length"],
        "rms_norm_eps": config["rms_norm_eps"],
        "rope_parameters": rotary(config),
        "tie_word_embeddings": bool(config.get("weight_tying", False)),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


LLADA = FamilySpec(
    name="llada",
    checkpoints=("GSAI-ML/LLaDA-8B-*", "GSAI-ML/LLaDA-1.5"),
    model_type="llada",
    # LLaDA-MoE calls itself "llada" too.
    matches=lambda config: "num_experts" not in config,
    network="llama",
    translate=translate,
    only={
        **{
            flag: (None, False)
            for flag in (
                "include_bias",
                "include_qkv_bias",
                "bias_for_layer_norm",
                "attention_layer_norm",
                "scale_logits",
                "input_emb_norm",
                "alibi",
            )
        },
        "rope": (None, True),
        "block_type": (None, "llama"),
        "block_group_size": (None, 1),
        "activation_type": (None, "silu"),
        "layer_norm_type": (None, "rms"),
    },
    names=(
        ("model.transformer.wte", "model.embed_tokens"),
        ("model.transformer.ln_f", "model.norm"),
        ("model.transformer.ff_out", "lm_head"),
        *((f"{BLOCK}{name}_proj", f"{LAYER}self_attn.{name}_proj") for name in "qkv"),
        (f"{BLOCK}attn_out", f"{LAYER}self_attn.o_proj"),
        (f"{BLOCK}ff_proj", f"{LAYER}mlp.gate_proj"),
        (f"{BLOCK}up_proj", f"{LAYER}mlp.up_proj"),
        (f"{BLOCK}ff_out", f"{LAYER}mlp.down_proj"),
        (f"{BLOCK}attn_norm", f"{LAYER}input_layernorm"),
        (f"{BLOCK}ff_norm", f"{LAYER}post_attention_layernorm"),
    ),
    mask_token="<|mdm_mask|>",
    mask_token_id=126336,
    eos_token_ids=(126081,),
    turn_end="<|eot_id|>",
    chat_template=(
        "{{ '<|startoftext|>' }}{% for message in messages %}"
        + header("message['role']")
        + "{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
        + "{% if add_generation_prompt %}"
        + header("'assistant'")
        + "{% endif %}"
    ),
    sampler={
        "gen_length": 128,
        "block_length": 128,
        "steps": 128,
        "temperature": 0.0,
        "remasking": "low_confidence",
    },
    tiny={
        "d_model": 32,
        "mlp_hidden_size": 64,
        "n_layers": 2,
        "n_heads": 2,
        "max_sequence_length": 8_192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
    },
)
