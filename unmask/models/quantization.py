"""Frozen linear layers in 4 or 8 bit, for adapters on top (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from unmask.models.settings import LoRA


def require_quantization(kind: str | None) -> None:
    """Raise ValueError where weights cannot be quantised; before anything is loaded.

    Args:
        kind: "4bit", "8bit" or None.
    """
    if kind is None:
        return
    if kind not in ("4bit", "8bit"):
        raise ValueError(f"model.quantization={kind!r} is unknown: choose 4bit, 8bit or null")
    if not torch.cuda.is_available():
        raise ValueError(
            f"model.quantization={kind} needs a CUDA device, and there is none: set it to null"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"model.quantization={kind} needs the package bitsandbytes: pip install bitsandbytes, "
            "or set it to null"
        )


def require_trainable(lora: LoRA | None, kind: str | None) -> None:
    """Raise ValueError where quantised weights would have to be trained themselves."""
    if kind is not None and lora is None:
        raise ValueError(
            f"model.quantization={kind} without model.lora: quantised weights are not trained; "
            "set model.lora, or model.quantization to null"
        )


def quantize(network: Any, kind: str, device: torch.device | str) -> None:
    """Replace the decoder's linear layers, in place; the output head stays as it is.

    The weights are quantised as they move to `device`, layer by layer.

    Args:
        network: a transformers causal LM with its weights on the CPU.
        kind: "4bit" (NF4, double quantisation) or "8bit" (LLM.int8).
        device: a CUDA device.
    """
    decoder = network.get_decoder()
    for name, layer in list(decoder.named_modules()):
        if type(layer) is nn.Linear:
            parent, _, leaf = name.rpartition(".")
            setattr(decoder.get_submodule(parent), leaf, _quantized(layer, kind).to(device))
    # Read by peft, which chooses its layers by it.
    setattr(network, f"is_loaded_in_{kind}", True)


def _quantized(layer: nn.Linear, kind: str) -> nn.Module:
    import bitsandbytes as bnb

    weight, has_bias = layer.weight.data, layer.bias is not None
    new: Any
    if kind == "4bit":
        new = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            has_bias,
            compute_dtype=weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
        )
        new.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=new
        )
    else:
        new = bnb.nn.Linear8bitLt(
            layer.in_features, layer.out_features, has_bias, has_fp16_weights=False, threshold=6.0
        )
        new.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    if has_bias:
        new.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    return new
