"""Low-rank adapters through peft: added, loaded, folded in; and dropout switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from unmask.errors import in_one_line
from unmask.models.families.spec import FamilySpec
from unmask.models.loading import read_json
from unmask.models.settings import LoRA


def disable_dropout(network: nn.Module) -> None:
    """Set every dropout probability to 0: passes with and without a graph must agree."""
    module: Any
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


def base_of(folder: Path) -> str:
    """The folder or hub id of the model that adapters belong to.

    Raises:
        ValueError: if they do not name it.
    """
    base = read_json(folder / "adapter_config.json", str(folder)).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise ValueError(
            f"{folder} has base_model_name_or_path {base!r} in adapter_config.json: "
            "name the folder or hub id of the model that the adapters belong to"
        )
    return base


def load_adapters(network: PreTrainedModel, folder: Path, lora: LoRA | None) -> nn.Module:
    """The network with saved adapters, trainable if `lora` asks for adapters of their shape.

    Raises:
        ValueError: if they are no LoRA adapters of this network in safetensors, or `lora` asks for
            another shape.
    """
    from peft import PeftModel, get_peft_model_state_dict

    kind = read_json(folder / "adapter_config.json", str(folder)).get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{folder} has peft_type {kind!r}: only LORA adapters are read")
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ValueError(f"{folder} has no {file.name}: save the adapters in that format")
    try:
        module = PeftModel.from_pretrained(network, folder, is_trainable=lora is not None)
        # Of tensors without a place, and places without a tensor, peft only warns.
        with safe_open(file, framework="pt") as opened:
            stored = {name for name in opened.keys() if ".lora_" in name}  # noqa: SIM118
        state = get_peft_model_state_dict(module, save_embedding_layers=False)
    except Exception as error:
        raise ValueError(
            f"{folder} has adapters that do not fit their base or are damaged "
            f"({in_one_line(error)}): give the whole folder, and the base that they belong to"
        ) from error
    different = sorted(stored ^ {name for name in state if ".lora_" in name})
    if different:
        raise ValueError(
            f"{folder} does not fit its adapter_config.json: {different[0]} is missing or left "
            "over; give the whole folder"
        )
    found: Any = module.peft_config["default"]
    if lora is not None and (found.r, found.lora_alpha) != (lora.r, lora.alpha):
        raise ValueError(
            f"model.lora has r={lora.r}, alpha={lora.alpha}, but the adapters in {folder} have "
            f"r={found.r}, alpha={found.lora_alpha}: set these"
        )
    return module


def add_lora(network: nn.Module, lora: LoRA, seed: int, spec: FamilySpec) -> nn.Module:
    """The network with new adapters, the same for the same seed."""
    from peft import LoraConfig, get_peft_model

    modules: Any = lora.target_modules
    if modules == "auto":
        modules = "all-linear" if spec.name == "native" else list(spec.lora_targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(network, config)
