"""Tiny random checkpoints in a family's original format, for rehearsals without the hub.

They are written as the family publishes its own and read by the normal loader, so that names,
config, special tokens, chat template, shift and attention are all the family's; only sizes, weights
and vocabulary are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from unmask.models.denoiser import Denoiser
from unmask.models.export import write_original
from unmask.models.families import FAMILIES, find_spec, published_family, recognise
from unmask.models.families.spec import FamilySpec
from unmask.models.loading import network_config
from unmask.models.paths import find_local_model
from unmask.models.policy import Policy
from unmask.models.tiny import word_level

END, UNKNOWN = "<|endoftext|>", "<|unknown|>"
# Published embeddings have more rows than their tokenizers have tokens.
SPARE_ROWS = 5
_SPECIAL = re.compile(r"<\|\w+\|>")


def family_of(path: str, family: str = "auto") -> FamilySpec | None:
    """The declaration of a checkpoint's family, found without the network.

    Args:
        path: a folder, the name of a packaged model, or a hub id.
        family: `model.family`; "auto" = as the folder's config.json or the hub id tells.

    Returns:
        None for a hub id of no published checkpoint that is known.

    Raises:
        ValueError: if there is no such folder and it can be no hub id.
    """
    if family != "auto":
        return next((spec for spec in FAMILIES if spec.name == family), None)
    folder = find_local_model(path)
    if folder is None:
        return published_family(path)
    if (folder / "config.json").is_file():
        return find_spec(json.loads((folder / "config.json").read_text("utf-8")), path)
    return None


def write_random_checkpoint(
    spec: FamilySpec, folder: Path, symbols: Sequence[str], seed: int = 0
) -> None:
    """A checkpoint of a few thousand random weights in the family's original format.

    Args:
        spec: of a family with an original format.
        folder: new; its name may tell the block length, as those of the family do.
        symbols: the vocabulary besides the family's special tokens, split longest first.
        seed: of the weights; the global generator is left as it was.
    """
    tokenizer = _tokenizer(spec, symbols)
    config = {
        **spec.tiny,
        "model_type": spec.model_type,
        "vocab_size": len(tokenizer) + SPARE_ROWS,
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "torch_dtype": "float32",
    }
    name = folder.name
    family = recognise(config, name, tokenizer)
    tensors = [f"{original}.weight" for original, _ in spec.names]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(
            network_config(folder, config, family, tensors, name)
        )
    denoiser = Denoiser(
        network,
        mask_token_id=family.mask_token_id,
        shift=family.shift,
        block_length=family.block_length,
    )
    folder.mkdir(parents=True)
    write_original(Policy(denoiser, tokenizer, family, None), folder)


def _tokenizer(spec: FamilySpec, symbols: Sequence[str]) -> PreTrainedTokenizerFast:
    """Word-level, with the special tokens that the family's own tokenizer has."""
    mask = spec.mask_token or "<|mask|>"
    named = [mask, *([spec.turn_end] if spec.turn_end else [])]
    special = dict.fromkeys([END, UNKNOWN, *named, *_SPECIAL.findall(spec.chat_template or "")])
    return PreTrainedTokenizerFast(
        tokenizer_object=word_level(list(special), symbols, UNKNOWN),
        pad_token=END,
        eos_token=END,
        mask_token=mask,
        unk_token=UNKNOWN,
        additional_special_tokens=[token for token in special if token not in (END, mask, UNKNOWN)],
        clean_up_tokenization_spaces=False,
    )
