"""An autoregressive checkpoint -> one that attends in both directions and has a mask token.

It keeps all that it learned but must be taught to fill in hidden tokens: `unmask sft`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from unmask.models.denoiser import Denoiser
from unmask.models.export import require_new_folder
from unmask.models.families import RECORD, Family, find_spec
from unmask.models.families.spec import FamilySpec
from unmask.models.loading import (
    known_ids,
    load_tokenizer,
    read_json,
    read_network,
    require_bidirectional,
    require_layers,
)
from unmask.models.paths import resolve_model_path
from unmask.models.policy import Policy
from unmask.models.weights import StoredTensors

ADAPTABLE = ("llama", "qwen2", "qwen3")
MASK_TOKEN = "<|mask|>"


def adapt(
    path: str, out: Path, *, shift: bool = False, block_length: int | None = None
) -> dict[str, Any]:
    """Write a diffusion checkpoint with the weights of an autoregressive one.

    The mask token takes the tokenizer's own, if it has one, else a new `<|mask|>`, whose rows of
    the embedding (and of an untied output head) are the mean of the trained ones.

    Args:
        path: a folder, a hub id, or a .gguf file of a Llama, Qwen2 or Qwen3 network.
        out: a new folder.
        shift: keep predicting a token from the position before it, as autoregressive models and
            Dream do.
        block_length: attend in blocks of so many tokens; None = over the whole sequence.

    Returns:
        What was done: `model_type`, `mask_token`, `mask_token_id`, `vocab_size`.

    Raises:
        ValueError: if the checkpoint is of another network, or a diffusion model already.
    """
    require_new_folder(out)
    if path.endswith(".gguf"):
        network, tokenizer, spec = _read_gguf(Path(path).expanduser())
    else:
        network, tokenizer, spec = _read_folder(path)
    mask_token_id = _add_mask_token(network, tokenizer)
    config = network.config
    config.is_causal = False
    config.mask_token_id = mask_token_id
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    eos = config.eos_token_id
    if eos is None:
        raise ValueError(f"{path} names no EOS token: set eos_token_id in its config.json")
    family = Family(
        "native",
        mask_token_id,
        tuple(eos) if isinstance(eos, list) else (eos,),
        shift=shift,
        block_length=block_length,
        spec=spec,
    )
    if family.record():
        setattr(config, RECORD, family.record())
    denoiser = Denoiser(
        network, mask_token_id=mask_token_id, shift=shift, block_length=block_length
    )
    require_bidirectional(network, path)
    Policy(denoiser, tokenizer, family, None).save(out)
    return {
        "model_type": config.model_type,
        "mask_token": tokenizer.mask_token,
        "mask_token_id": mask_token_id,
        "vocab_size": config.vocab_size,
    }


@torch.no_grad()
def _add_mask_token(network: Any, tokenizer: Any) -> int:
    if tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    mask_token_id: int = tokenizer.mask_token_id
    rows, needed = network.get_input_embeddings().weight.shape[0], max(known_ids(tokenizer)) + 1
    # Many vocabularies end in rows without a token, which the mask token may take.
    if needed > rows:
        network.resize_token_embeddings(needed, mean_resizing=False)
    known = min(rows, mask_token_id)
    weights = [network.get_input_embeddings().weight]
    if not network.config.tie_word_embeddings:
        weights.append(network.get_output_embeddings().weight)
    if mask_token_id == needed - 1:
        for weight in weights:
            weight[mask_token_id] = weight[:known].float().mean(0).to(weight.dtype)
    return mask_token_id


def _read_folder(path: str) -> tuple[Any, Any, FamilySpec]:
    folder = resolve_model_path(path)
    content = read_json(folder / "config.json", path)
    if content.get("is_causal") is False:
        raise ValueError(f"{path} is a diffusion model already: use it as it is")
    spec = find_spec(content, path, causal=True)
    if spec.name != "native":
        raise ValueError(f"{path} is a {spec.name} diffusion model already: use it as it is")
    if spec.network not in ADAPTABLE:
        raise ValueError(
            f"{path} has model_type {spec.network!r}, which is not adapted: choose a checkpoint of "
            f"{', '.join(ADAPTABLE)}"
        )
    stored = StoredTensors(folder, path)
    require_layers(content, stored, path)
    tokenizer: Any = load_tokenizer(folder, spec, path)
    network, _ = read_network(
        folder,
        lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False),
        stored,
        None,
        source=path,
        dtype="auto",
        attention="sdpa",
        device="cpu",
    )
    return network, tokenizer, spec


def _read_gguf(file: Path) -> tuple[Any, Any, FamilySpec]:
    """A llama.cpp file through transformers, its weights dequantised to float32."""
    if not file.is_file():
        raise ValueError(f"{file} is no file: give the path of a .gguf file")
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{file} needs the gguf package: pip install gguf")
    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        network: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, attn_implementation="sdpa", **options
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be read ({reason}): give another .gguf file") from error
    config: Any = network.config
    spec = find_spec(config.to_dict(), str(file), causal=True)
    if spec.network not in ADAPTABLE:
        raise ValueError(
            f"{file} has model_type {spec.network!r}, which is not adapted: choose a checkpoint of "
            f"{', '.join(ADAPTABLE)}"
        )
    # The weights are plain numbers from here on.
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    network.hf_quantizer = None
    return network, tokenizer, spec
