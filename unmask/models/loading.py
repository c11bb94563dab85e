"""A checkpoint folder -> a network on transformers' own classes, and its tokenizer; no remote code.

The network is built on the meta device and its tensors come in one by one, so that a checkpoint
takes its own size in memory and no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from unmask.errors import in_one_line
from unmask.models.families import RECORD, Family, translate
from unmask.models.families.spec import FamilySpec
from unmask.models.tensors import plan_tensors
from unmask.models.weights import StoredTensors, fill

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def read_json(file: Path, source: str) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
        ValueError: if the file is missing or holds something else.
    """
    if not file.is_file():
        raise ValueError(f"{source} has no {file.name}: give the folder of a saved model")
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{source}: {file.name} is no valid JSON ({in_one_line(error)}): save the model again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{source}: {file.name} holds no JSON object: save the model again")
    return content


def load_tokenizer(folder: Path, spec: FamilySpec, source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, on transformers' own classes.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        if spec.name == "native":
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # AutoTokenizer would ask the unknown config, or for the checkpoint's code.
        return _tokenizer_class(folder, spec).from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"{source} cannot be loaded: its tokenizer gives {in_one_line(error)}; "
            "give a whole checkpoint with its tokenizer"
        ) from error


def known_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that stand for a token."""
    return set(tokenizer.get_vocab().values())


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, family: Family, source: str) -> None:
    """Make the tokenizer know its mask token and the family's chat template.

    Raises:
        ValueError: if the mask token's id is none of the tokenizer's.
    """
    mask = family.mask_token_id
    # Ids may have gaps, so their number says little.
    if mask == len(tokenizer) and mask not in known_ids(tokenizer) and family.spec.mask_token:
        # Some are saved without the token that their training code adds.
        tokenizer.add_special_tokens({"mask_token": family.spec.mask_token})
    if mask not in known_ids(tokenizer):
        raise ValueError(
            f"{source} has a tokenizer without mask token: it has {len(tokenizer)} tokens, and "
            f"mask_token_id is {mask}; give the checkpoint with its own tokenizer"
        )
    if tokenizer.mask_token_id != mask:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(mask)
    if family.is_original and family.spec.chat_template is not None:
        # A template that always opens an answer cannot write complete dialogues.
        own = tokenizer.chat_template
        if own is None or (isinstance(own, str) and "add_generation_prompt" not in own):
            tokenizer.chat_template = family.spec.chat_template


def load_network(
    folder: Path,
    content: Mapping[str, Any],
    family: Family,
    *,
    source: str,
    dtype: str = "auto",
    attention: str = "sdpa",
    device: torch.device | str = "cpu",
) -> tuple[PreTrainedModel, Family]:
    """The network of a checkpoint, and the family with what its files tell.

    Args:
        folder: with config.json and safetensors.
        content: the parsed config.json.
        family: what it was recognised as.
        source: for error messages.
        dtype: of the parameters, a torch dtype's name; "auto" = as stored.
        attention: transformers' attention implementation.
        device: where to put the weights.

    Raises:
        ValueError: if the files do not fit the config.
    """
    stored = StoredTensors(folder, source)
    require_layers(content, stored, source)
    spec = family.spec if family.is_original else None
    network, tied = read_network(
        folder,
        lambda: network_config(folder, content, family, stored.names, source),
        stored,
        spec,
        source=source,
        dtype=dtype,
        attention=attention,
        device=device,
    )
    if family.is_original:
        family = replace(family, stored_head=tied)
    require_bidirectional(network, source)
    record = family.record()
    if record:
        setattr(network.config, RECORD, record)
    return network, family


def read_network(
    folder: Path,
    make_config: Callable[[], Any],
    stored: StoredTensors,
    spec: FamilySpec | None,
    *,
    source: str,
    dtype: str,
    attention: str,
    device: torch.device | str,
) -> tuple[PreTrainedModel, bool]:
    """A network with its weights, and whether its tied output head is stored.

    Args:
        folder: remembered as where the network came from.
        make_config: gives the network's config.
        stored: the tensors.
        spec: whose names they have; None = transformers' own.
        source: for error messages.
        dtype: see `load_network`.
        attention: see `load_network`.
        device: see `load_network`.

    Raises:
        ValueError: if they do not fit together.
    """
    sources = {
        name: plan_tensors({name: torch.Size()}, spec)[name][0].source for name in (EMBEDDING, HEAD)
    }
    kind = _dtype(dtype, stored, sources[EMBEDDING])
    try:
        config = make_config()
        config._name_or_path = str(folder)
        tied_head = _tie(config, stored, sources)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                config, dtype=kind, attn_implementation=attention, trust_remote_code=False
            )
    except Exception as error:
        raise ValueError(
            f"{source} cannot be loaded with model.attention={attention}: {in_one_line(error)}; "
            "give a whole checkpoint with its tokenizer"
        ) from error
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop(HEAD, None)
        stored.forget(sources[HEAD])
    plan = plan_tensors(shapes, spec, stored.names)
    fill(network, stored, plan, dtype=kind, device=device, source=source)
    network.tie_weights()
    restore_rotary(network, device)
    return network.eval(), tied_head


def restore_rotary(network: PreTrainedModel, device: torch.device | str) -> None:
    """Compute the rotary frequencies, which no checkpoint stores, in float32.

    They stay float32 whatever the weights are: rounded to bfloat16 they move logits by several
    units at 2048 tokens.

    Raises:
        ValueError: if the release of transformers computes others than theta^(-2i/d).
    """
    for module in network.modules():
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        try:
            fresh: Any = type(module)(config=network.config)
        except Exception as error:
            raise ValueError(
                f"{network.config._name_or_path} asks for rotary embeddings that there are none of "
                f"({in_one_line(error)}): give a whole checkpoint with its own config.json"
            ) from error
        for name, buffer in fresh.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device, torch.float32)
        _require_rotary(module, network.config)


def network_config(
    folder: Path, content: Mapping[str, Any], family: Family, tensors: Collection[str], source: str
) -> PreTrainedConfig:
    """The config of transformers' own network.

    Args:
        folder: where a config in transformers' own format is read from.
        content: the parsed config.json.
        family: what it was recognised as.
        tensors: names in the checkpoint's files.
        source: for error messages.

    Raises:
        ValueError: if a field is missing or of another kind.
    """
    if not family.is_original:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    else:
        fields = translate(family.spec, content, source, tensors)
        pad = content.get("pad_token_id")
        config = AutoConfig.for_model(
            family.spec.network,
            **fields,
            bos_token_id=content.get("bos_token_id"),
            pad_token_id=family.eos_ids[0] if pad is None else pad,
        )
        config.eos_token_id = list(family.eos_ids)
        if family.spec.sampler:
            config.unmask = {"sampler": dict(family.spec.sampler)}
    config.is_causal = False
    config.mask_token_id = family.mask_token_id
    return config


def require_layers(content: Mapping[str, Any], stored: StoredTensors, source: str) -> None:
    """Raise ValueError if config.json counts more layers than there are tensors.

    Before that many are made, which may take for ever.
    """
    for name in ("num_hidden_layers", "n_layers"):
        count = content.get(name)
        if isinstance(count, int) and count > len(stored.names):
            raise ValueError(
                f"{source} has {name}={count} in config.json, but its files hold only "
                f"{len(stored.names)} tensors: give a whole checkpoint with its own config.json"
            )


def _tie(config: Any, stored: StoredTensors, sources: Mapping[str, str]) -> bool:
    """Untie an output head that is stored with other values; whether an equal one is stored."""
    names = [sources[EMBEDDING], sources[HEAD]]
    if not config.tie_word_embeddings or not stored.names.issuperset(names):
        return False
    embedding, head = (stored.read(name) for name in names)
    if torch.equal(embedding, head):
        return True
    config.tie_word_embeddings = False
    return False


def _dtype(name: str, stored: StoredTensors, embedding: str) -> torch.dtype:
    if name == "auto":
        return stored.dtype(embedding) if embedding in stored.names else torch.float32
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"model.dtype={name!r} is no dtype of torch: choose float32 or bfloat16")
    return found


def _tokenizer_class(folder: Path, spec: FamilySpec) -> Any:
    """The class that tokenizer_config.json names, if it is transformers' own."""
    file = folder / "tokenizer_config.json"
    named = json.loads(file.read_text("utf-8")).get("tokenizer_class") if file.is_file() else None
    own = getattr(transformers, str(named), None)
    if isinstance(own, type) and issubclass(own, PreTrainedTokenizerBase):
        return own
    whole = (folder / "tokenizer.json").is_file() and not spec.tokenizer
    return (
        transformers.PreTrainedTokenizerFast
        if whole
        else getattr(transformers, spec.tokenizer or "PreTrainedTokenizerFast")
    )


def _require_rotary(module: Any, config: Any) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or "rope_theta" not in rope:
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = int(width * rope.get("partial_rotary_factor", 1.0))
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    expected = torch.tensor(rope["rope_theta"], dtype=torch.float64) ** -exponents
    found = module.inv_freq.double().cpu()
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-5, atol=0):
        raise ValueError(
            f"transformers {transformers.__version__} computes other rotary frequencies than "
            f"theta^(-2i/{width}) for {config.model_type}: install a release that is tested"
        )


@torch.no_grad()
def require_bidirectional(network: PreTrainedModel, source: str) -> None:
    """Raise ValueError if the last token does not reach the first position, or the network fails.

    Early transformers 5 releases ignore `is_causal = False` without a word.
    """
    # Random embeddings: those of the checkpoint's tokens may be equal or zero.
    width: int = network.config.hidden_size
    embedded = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    embedded[1, -1].neg_()
    embedded = embedded.to(network.device, network.dtype)
    try:
        logits = network(inputs_embeds=embedded, use_cache=False).logits
    except Exception as error:
        raise ValueError(
            f"{source} cannot be run as its config.json and model.dtype say "
            f"({in_one_line(error)}): give a whole checkpoint with its own config.json"
        ) from error
    if torch.equal(logits[0, -1], logits[1, -1]):
        raise ValueError(
            f"{source} answers every token alike: its weights are zero; give a whole checkpoint"
        )
    if torch.equal(logits[0, 0], logits[1, 0]):
        raise ValueError(
            f"{source} runs causally under this transformers release: the last token does not "
            "reach the first position; install transformers >= 5.17"
        )
