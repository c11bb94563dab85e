"""torch.compile, layer by layer: one compilation serves all layers of a network."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import torch


def require_compilable(device: torch.device | str, block_length: int | None) -> None:
    """Raise ValueError where torch.compile has nothing to compile, or nothing to compile with.

    Args:
        device: of the network.
        block_length: of block-causal attention, whose passes are all cached or shared; None = it
            is bidirectional.
    """
    if block_length is not None:
        raise ValueError(
            f"model.compile=true with blocks of {block_length}: passes of block-causal networks "
            "are not compiled; leave model.compile out"
        )
    if torch.device(device).type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ValueError(
                "model.compile=true needs the package triton on a GPU, and it is not installed: "
                "pip install triton, or leave model.compile out"
            )
    elif not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise ValueError(
            "model.compile=true needs a C++ compiler on a CPU, and there is no g++: install one "
            "or name it in CXX, or leave model.compile out"
        )


def compile_layers(decoder: Any) -> None:
    """Compile the layers that are not yet, for any number of rows and columns.

    A copy of a compiled network is not compiled.

    Args:
        decoder: of a transformers causal LM; changed in place, its parameters keep their names.
    """
    for layer in decoder.layers:
        if layer._compiled_call_impl is None:
            layer.compile(dynamic=True)
