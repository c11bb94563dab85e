"""A model in its family's original format again, and adapters folded into their base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask.models.denoiser import Denoiser
from unmask.models.families import Family
from unmask.models.loading import EMBEDDING, HEAD
from unmask.models.policy import Policy, load_policy
from unmask.models.tensors import plan_tensors
from unmask.models.weights import originals, save_shards

FORMATS = ("original", "native")


def model_of(path: str) -> str:
    """The model of a run folder; anything else as it is."""
    inside = Path(path).expanduser() / "model"
    return str(inside) if inside.is_dir() else path


def require_new_folder(out: Path) -> None:
    """Raise ValueError if there is something in `out` that would be mixed with new files."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: name a new folder")


def export(path: str, out: Path, form: str = "original") -> Family:
    """Write a model in the format that its family is published in, or in transformers' own.

    Tensors that were loaded and not trained are written as they were, byte for byte. Adapters are
    folded in first.

    Args:
        path: a run folder, a model folder, a packaged model or a hub id.
        out: a new folder.
        form: "original" or "native".

    Returns:
        The family that was written.

    Raises:
        ValueError: if the family has no original format, or `out` is not empty.
    """
    if form not in FORMATS:
        raise ValueError(f"format={form!r} is unknown: choose {' or '.join(FORMATS)}")
    require_new_folder(out)
    policy = load_policy(model_of(path), device="cpu")
    if form == "original" and policy.family.original is None:
        raise ValueError(
            f"{path} is in transformers' own format and was never in another: it is exported "
            "already, or choose --format native"
        )
    if policy.has_adapters:
        policy = merged(policy)
    out.mkdir(parents=True, exist_ok=True)
    if form == "native":
        policy.save(out)
    else:
        write_original(policy, out)
    return policy.family


def merge(path: str, out: Path) -> None:
    """Fold the adapters of a run or model into their base, and save the whole as one model.

    Raises:
        ValueError: if there are no adapters, or `out` is not empty.
    """
    require_new_folder(out)
    policy = load_policy(model_of(path), device="cpu")
    if not policy.has_adapters:
        raise ValueError(f"{path} has no adapters to fold in: it is a whole model already")
    merged(policy).save(out)


def merged(policy: Policy) -> Policy:
    """The same policy without adapters: W + (alpha / r) B A in place of W (arXiv 2106.09685)."""
    old = policy.denoiser
    adapted: Any = old.network
    denoiser = Denoiser(
        adapted.merge_and_unload(),
        mask_token_id=old.mask_token_id,
        shift=old.shift,
        block_length=old.block_length,
        forbidden_ids=old.forbidden_ids,
        autocast=old.autocast,
    )
    return replace(policy, denoiser=denoiser, trained_adapters=False)


def original_tensors(policy: Policy) -> dict[str, Tensor]:
    """The tensors of a whole model under their original names.

    Args:
        policy: of a family with an original format, without adapters.
    """
    family = policy.family
    state = dict(policy.denoiser.causal_lm.state_dict())
    if policy.config.tie_word_embeddings:
        state.pop(HEAD, None)
        if family.stored_head:
            # Files hold no tensor under two names.
            state[HEAD] = state[EMBEDDING].clone()
    shapes = {name: value.shape for name, value in state.items()}
    return dict(originals(state, plan_tensors(shapes, family.spec)))


def write_original(policy: Policy, out: Path) -> None:
    """Write a whole model in its family's original format.

    Args:
        policy: of a family with an original format, without adapters.
        out: an empty folder.
    """
    family = policy.family
    assert family.original is not None
    save_shards(iter(original_tensors(policy).items()), out)
    config = dict(family.original)
    # As the file says it, in the dtype that the weights have now.
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[name] = str(policy.config.dtype).removeprefix("torch.")
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    policy.tokenizer.save_pretrained(out)
