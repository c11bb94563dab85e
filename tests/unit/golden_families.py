"""Tiny checkpoints in each family's original format, with what its authors' code makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.models.policy import Policy, load_policy

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("llada", "llada_moe", "dream", "a2d-qwen3", "sdar", "llada2")
# Texts of the tokens that the families look up.
MASK = {"llada": "<|mdm_mask|>", "sdar": "<|MASK|>"}
TURN_END = {"llada": "<|eot_id|>", "llada_moe": "<|role_end|>", "llada2": "<|role_end|>"}
# The golden of LLaDA2 was made with shorter blocks than its checkpoints have.
OPTIONS: dict[str, dict[str, Any]] = {"llada2": {"block_length": 8}}
TURN_END_ID = 120


def meta(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / name / "meta.json").read_text())
    return content


def expected(name: str, file: str = "expected") -> dict[str, Tensor]:
    return load_file(GOLDEN / name / f"{file}.safetensors")


def checkpoint(name: str, folder: Path, **fields: Any) -> Path:
    """A copy with a tokenizer of 128 words, some fields of its config.json changed.

    Args:
        name: of the family.
        folder: does not exist yet.
        fields: of config.json; ... (an ellipsis) leaves one out.
    """
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / name / "model.safetensors", folder)
    config = json.loads((GOLDEN / name / "config.json").read_text()) | fields
    kept = {field: value for field, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))
    tokenizer(name).save_pretrained(folder)
    return folder


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    ids = meta(name)
    words = [f"w{number}" for number in range(128)]
    words[ids["mask_token_id"]] = MASK.get(name, "<|mask|>")
    words[ids["eos_token_id"]] = "<|endoftext|>"
    words[TURN_END_ID] = TURN_END.get(name, "<|im_end|>")
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="w0",
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        additional_special_tokens=[words[ids["mask_token_id"]], words[TURN_END_ID]],
    )


def load(name: str, folder: Path, **options: Any) -> Policy:
    """The checkpoint of a family, copied to `folder`."""
    return load_policy(str(checkpoint(name, folder)), **(OPTIONS.get(name, {}) | options))


@torch.no_grad()
def raw_logits(policy: Policy, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of the network itself, [N, T, V]."""
    return policy.denoiser.causal_lm(input_ids=ids, attention_mask=mask, use_cache=False).logits


def proposals(policy: Policy, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """What the sampler sees at every position, [N, T, V]."""
    return policy.denoiser.propose(ids, mask, torch.arange(ids.shape[1]).expand(ids.shape))


def largest_difference(found: Tensor, golden: Tensor, where: Tensor | None = None) -> float:
    """Over the tokens that may be placed, at the positions that count."""
    difference = (found - golden).abs().masked_fill(found.isneginf(), 0.0)
    if where is not None:
        difference = difference[where.bool()]
    return difference.max().item()


def shifted(policy: Policy, logits: Tensor) -> Tensor:
    """The outputs that predict each position."""
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if policy.family.shift else logits
