"""Checkpoints: everything the next update needs, written whole or not at all, never as pickles."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

STATE_FILE = "state.json"


def gather_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Full trainable weights and optimizer state by parameter name, on the CPU.

    Every rank must call this; only rank 0 gets the content.

    Returns:
        Weights by name; optimizer state as tensors by "name/key", and the `param_groups`.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights: dict[str, Any] = dict(get_model_state_dict(model, options=options))
    if not optimizer.state:
        # Asking for the state of an optimizer that has none would make it step, and leave a trace.
        return weights, {}
    nested: dict[str, Any] = dict(get_optimizer_state_dict(model, optimizer, options=options))
    if not nested:  # not rank 0
        return weights, {}
    state: dict[str, Any] = {
        f"{name}/{key}": value
        for name, values in nested["state"].items()
        for key, value in values.items()
    }
    return weights, {**state, "param_groups": nested["param_groups"]}


def restore_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, Tensor],
    optimizer_state: dict[str, Any],
) -> None:
    """The reverse of `gather_state`, on every rank."""
    # Not strict: frozen weights are not among them.
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
    set_model_state_dict(model, dict(weights), options=options)
    if not optimizer_state:
        return
    nested: dict[str, Any] = {"state": {}, "param_groups": optimizer_state["param_groups"]}
    for path, value in optimizer_state.items():
        name, slash, key = path.rpartition("/")
        if slash:
            nested["state"].setdefault(name, {})[key] = value
    set_optimizer_state_dict(model, optimizer, nested, options=options)


def write_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Any]],
    *,
    keep: int,
) -> None:
    """Write `folder` under a temporary name, flush it to disk, rename it, drop the oldest.

    Checkpoints of later steps are dropped too: the run was resumed from an earlier one, and they
    are no part of its history. If anything fails, the disk being full included, the older
    checkpoints stand untouched.

    Args:
        folder: `…/checkpoints/step-000100`.
        state: counters and everything else that JSON can hold.
        tensors: by file name; values that are no tensors go into the JSON file.
        keep: newest checkpoints to keep.
    """
    temporary = folder.parent / f".{folder.name}.tmp"
    # A process that was killed while it wrote leaves one behind.
    for left in folder.parent.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        plain: dict[str, dict[str, Any]] = {}
        for name, values in tensors.items():
            kept = {key: v.contiguous() for key, v in values.items() if isinstance(v, Tensor)}
            plain[name] = {key: v for key, v in values.items() if not isinstance(v, Tensor)}
            # Weights that share memory would be refused; a clone is written twice instead.
            save_file(_unshared(kept), temporary / f"{name}.safetensors")
        (temporary / STATE_FILE).write_text(json.dumps({**state, "plain": plain}, indent=1))
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"checkpoint {folder} could not be written ({error}): free some space; "
            "older checkpoints are untouched"
        ) from error
    found = list_checkpoints(folder.parent)
    newest = found.index(folder) + 1
    for other in [*found[: max(newest - keep, 0)], *found[newest:]]:
        shutil.rmtree(other)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """State and tensors of a checkpoint, as they were given to `write_checkpoint`.

    Raises:
        ValueError: if the folder is no whole checkpoint.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        plain = state.pop("plain")
        tensors = {
            name: {**load_file(folder / f"{name}.safetensors"), **values}
            for name, values in plain.items()
        }
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"checkpoint {folder} cannot be read ({reason}): give a folder checkpoints/step-… of "
            "a run, or start anew with checkpoint.resume=never"
        ) from error
    return state, tensors


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [
        path
        for path in folder.glob("step-*")
        if re.fullmatch(r"step-\d+", path.name) and (path / STATE_FILE).is_file()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return result
