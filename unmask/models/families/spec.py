"""What a family's file declares: how its checkpoints are recognised, read, named and prompted."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LAYERS = (*ATTENTION_LAYERS, "gate_proj", "up_proj", "down_proj")


def always(config: Config) -> bool:
    """Every config of the model type."""
    return True


def no_block(name: str) -> None:
    """The names of these checkpoints say nothing of a block length."""


@dataclass(frozen=True)
class FamilySpec:
    """One family of checkpoints; whatever is said of token texts is looked up in the tokenizer.

    Attributes:
        name: as in `model.family`.
        checkpoints: hub ids of published ones, `*` for any text.
        model_type: in the original config.json.
        network: transformers' model_type of the network that runs it.
        translate: original config and tensor names -> config of that network.
        mask_token: text of the token that stands for "hidden".
        mask_token_id: its id, where the config names none.
        eos_token_ids: where the config names none.
        turn_end: text of a token that ends a completion beside EOS.
        matches: tells checkpoints of the same model_type apart.
        only: per config field the values that the network has a place for; a missing field is
            none of the others.
        names: (original, native) prefixes of tensor names, `*` for a layer's number; the rest of a
            name, and what is not listed, stay.
        fused: (original, natives) suffixes of modules whose rows lie in one original tensor.
        tokenizer: class in transformers, where tokenizer_config.json names code of the checkpoint.
        chat_template: Jinja, for tokenizers without one or with one that cannot end a dialogue.
        template_options: handed to any template.
        shift: whether the token at position i is predicted by output i-1.
        block_length: of block-causal attention; None = bidirectional.
        block_in_name: block length that the name of a checkpoint tells, or None.
        sampler: the authors' defaults, as a recipe's `sampler` section.
        lora_targets: names of the linear layers that adapters go to.
        tiny: config.json in the original format, without tokens, of a network for rehearsals; empty
            where there is no such format.
    """

    name: str
    checkpoints: tuple[str, ...]
    model_type: str
    network: str
    translate: Callable[[Config, Collection[str]], dict[str, Any]]
    mask_token: str | None = None
    mask_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    turn_end: str | None = None
    matches: Callable[[Config], bool] = always
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = ()
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tokenizer: str | None = None
    chat_template: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    shift: bool = False
    block_length: int | None = None
    block_in_name: Callable[[str], int | None] = no_block
    sampler: Mapping[str, Any] = field(default_factory=dict)
    lora_targets: tuple[str, ...] = ALL_LAYERS
    tiny: Mapping[str, Any] = field(default_factory=dict)


def rotary(config: Config, **more: Any) -> dict[str, Any]:
    """Plain rotary embeddings in the words of transformers 5."""
    theta = float(config["rope_theta"])
    if not 0 < theta < math.inf:
        raise ValueError(f"rope_theta={theta} is no number above 0")
    return {"rope_type": "default", "rope_theta": theta, **more}


def qwen_fields(config: Config) -> dict[str, Any]:
    """What the configs of Qwen-like families share with transformers' own."""
    kept = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
    )
    return {
        **{name: config[name] for name in kept},
        "hidden_act": config.get("hidden_act", "silu"),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rope_parameters": rotary(config),
        # Left to itself, Qwen's config windows the upper layers.
        "use_sliding_window": False,
    }


# The smallest network that still has several layers, heads and shared keys.
TINY_QWEN: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8_192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
}
# What no Qwen-like network here has a place for.
QWEN_ONLY: Mapping[str, tuple[Any, ...]] = {
    "rope_scaling": (None,),
    "use_sliding_window": (None, False),
}

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
)


def role_template(default: str = "") -> str:
    """The `<role>NAME</role>text<|role_end|>` format of LLaDA-MoE and LLaDA2.

    Args:
        default: system text where the messages bring none.
    """
    opening = (
        "{% if messages[0]['role'] != 'system' %}"
        f"{{{{ '<role>SYSTEM</role>{default}<|role_end|>' }}}}"
        "{% endif %}"
    )
    return (
        "{% set names = {'user': 'HUMAN', 'assistant': 'ASSISTANT', 'system': 'SYSTEM'} %}"
        + (opening if default else "")
        + "{% for message in messages %}"
        "{{ '<role>' + names.get(message['role'], message['role']) + '</role>' }}"
        "{{ message['content'] + '<|role_end|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
    )
