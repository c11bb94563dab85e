"""Checkpoint families: how a folder's config.json is recognised and what its tokens mean.

Nothing in a checkpoint is executed: config.json is read as plain JSON, and the network is chosen
here. One file per family declares all that differs; this one reads the declarations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from unmask.models.families.a2d import A2D_LLAMA, A2D_QWEN2, A2D_QWEN3
from unmask.models.families.dream import DREAM
from unmask.models.families.llada import LLADA
from unmask.models.families.llada2 import LLADA2
from unmask.models.families.llada_moe import LLADA_MOE
from unmask.models.families.native import NATIVE
from unmask.models.families.sdar import SDAR
from unmask.models.families.spec import FamilySpec

ORIGINALS = (LLADA, LLADA_MOE, DREAM, A2D_QWEN3, A2D_QWEN2, A2D_LLAMA, SDAR, LLADA2)
FAMILIES = (*ORIGINALS, *NATIVE)
# In the config.json of a saved model: what `Family.record` returns.
RECORD = "unmask_family"
# Fields of transformers' configs that it takes any number for.
COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_group",
    "topk_group",
)
# transformers lists the layers as soon as it reads a config.
MOST, MOST_LAYERS = 2**31 - 1, 10_000
REFUSED = {
    "diffusion_gemma": "it hides tokens behind random ones instead of a mask token, and its "
    "decoder reads the cache of an encoder, so the likelihoods here do not apply",
    "illada": "its mask token and chat template are in no file of the checkpoint",
    "sdar_moe": "its tensors were never checked against the original code",
    "diffllama": "it is an autoregressive model with differential attention, no diffusion model",
}


@dataclass(frozen=True)
class Family:
    """What unmask must know about a checkpoint beyond its weights.

    Attributes:
        name: as in `model.family`.
        mask_token_id: the token that stands for "hidden".
        eos_ids: tokens that end a completion; the first fills what an early stop leaves.
        shift: True where the network predicts token i at position i-1.
        block_length: of block-causal attention, counted from the first token of the prompt; None
            = bidirectional.
        spec: the declaration.
        original: config.json in the family's own format; None for what was never in another than
            transformers' own.
        stored_head: whether the original files hold the output head of a model with tied ones.
        is_original: whether the folder at hand is in that format.
    """

    name: str
    mask_token_id: int
    eos_ids: tuple[int, ...]
    shift: bool = False
    block_length: int | None = None
    spec: FamilySpec = NATIVE[0]
    original: Mapping[str, Any] | None = field(default=None, compare=False)
    stored_head: bool = False
    is_original: bool = False

    def record(self) -> dict[str, Any]:
        """What a saved model's config.json keeps beside its ids; empty if there is nothing."""
        if self.name == "native" and not self.shift and self.block_length is None:
            return {}
        return {
            "name": self.name,
            "shift": self.shift,
            "block_length": self.block_length,
            "stored_head": self.stored_head,
            "original": None if self.original is None else dict(self.original),
        }


def recognise(
    config: Mapping[str, Any],
    source: str,
    tokenizer: Any = None,
    *,
    mask_token_id: int | None = None,
    block_length: int | None = None,
) -> Family:
    """The family of a checkpoint.

    Args:
        config: the parsed config.json.
        source: the checkpoint's name, for error messages and for what its name tells.
        tokenizer: where the texts of special tokens are looked up; None = ids of the config alone.
        mask_token_id: overrides the checkpoint's.
        block_length: overrides the checkpoint's.

    Raises:
        ValueError: if the architecture is unknown or causal, a field asks for what the network has
            no place for, or no mask or EOS token is named.
    """
    spec = find_spec(config, source)
    native = spec.name == "native"
    size = translate(spec, config, source).get("vocab_size", 0)
    record = config.get(RECORD) or {}
    if not isinstance(record, Mapping):
        raise ValueError(
            f"{source} has {RECORD}={record!r} in config.json, which is none that unmask writes: "
            "save the model again, or leave it out"
        )
    if native and record:
        spec = _by_name(record.get("name"), spec)
    lookup = _Lookup(None if native else tokenizer, size)
    mask = _first(
        mask_token_id,
        config.get("mask_token_id"),
        lookup.id(spec.mask_token),
        None if native else lookup.valid(spec.mask_token_id),
    )
    if not _is_token(mask, size):
        raise ValueError(
            f"{source} has mask_token_id {mask!r} and vocab_size {size!r} in config.json: "
            "a diffusion model needs the id of its mask token there, or in model.mask_token_id"
        )
    named = config.get("eos_token_id")
    if named is None and not native:
        # The families that leave it out pad with it.
        own = lookup.valid(getattr(tokenizer, "eos_token_id", None))
        named = _first(own, *map(lookup.valid, spec.eos_token_ids), config.get("pad_token_id"))
    eos_ids = tuple(named) if isinstance(named, list) else (named,)
    if not eos_ids or not all(_is_token(token, size) for token in eos_ids):
        raise ValueError(
            f"{source} has eos_token_id {named!r} and vocab_size {size!r} in config.json: "
            "name there the token, or the list of tokens, that ends a completion"
        )
    turn_end = lookup.id(spec.turn_end)
    if turn_end is not None and turn_end not in eos_ids:
        eos_ids = (*eos_ids, turn_end)
    shift = bool(record.get("shift")) if native else spec.shift
    length = _first(block_length, record.get("block_length"))
    if length is None and not native:
        own = config.get("block_size") if spec.block_length else None
        length = _first(spec.block_in_name(source), own, spec.block_length)
    if length is not None and (not _is_count(length, MOST) or shift):
        raise ValueError(
            f"model.block_length={length!r} does not fit {source}: give a number of tokens from 1 "
            "up, and none for a family whose logits are shifted"
        )
    return Family(
        name=spec.name,
        mask_token_id=mask,
        eos_ids=eos_ids,
        shift=shift,
        block_length=length,
        spec=spec,
        original=record.get("original") if native else dict(config),
        stored_head=bool(record.get("stored_head")),
        is_original=not native,
    )


def find_spec(config: Mapping[str, Any], source: str, *, causal: bool = False) -> FamilySpec:
    """The declaration that a config.json belongs to.

    Args:
        config: the parsed config.json.
        source: for error messages.
        causal: whether an autoregressive checkpoint will do.

    Raises:
        ValueError: if there is none, if the checkpoint is causal, or if a field has a value that
            the network has no place for.
    """
    model_type = config.get("model_type")
    for spec in FAMILIES:
        if spec.model_type == model_type and spec.matches(config):
            break
    else:
        raise ValueError(f"{source} has model_type {model_type!r}, {_reason(model_type)}")
    if spec.name == "native" and not causal and config.get("is_causal", True) is not False:
        raise ValueError(
            f"{source} is a causal {model_type} checkpoint: make it a diffusion model with "
            f'`unmask adapt {source} OUT`; one that is already has "is_causal": false in '
            "config.json"
        )
    for name, allowed in spec.only.items():
        if config.get(name) not in allowed:
            raise ValueError(
                f"{source} has {name}={config[name]!r} in config.json, which the {spec.network} "
                f"network that runs {spec.name} has no place for: it takes "
                f"{' or '.join(repr(value) for value in allowed if value is not None) or 'null'}"
            )
    return spec


def published_family(hub_id: str) -> FamilySpec | None:
    """The declaration whose published checkpoints go by this name, from the name alone."""
    lowered = hub_id.lower()
    for spec in ORIGINALS:
        if any(fnmatch(lowered, pattern.lower()) for pattern in spec.checkpoints):
            return spec
    return None


def translate(
    spec: FamilySpec, config: Mapping[str, Any], source: str, tensors: Collection[str] = ()
) -> dict[str, Any]:
    """The config of transformers' own network.

    Args:
        spec: the family.
        config: the parsed config.json.
        source: for error messages.
        tensors: names in the checkpoint's files.

    Raises:
        ValueError: if a field is missing, of another kind or out of range.
    """
    try:
        fields = spec.translate(config, tensors)
    except KeyError as error:
        raise ValueError(
            f"{source} has no {error.args[0]} in config.json, which every {spec.name} checkpoint "
            "has: give a whole checkpoint"
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{source} has a field of another kind in config.json than {spec.name} checkpoints "
            f"have ({error}): give a whole checkpoint"
        ) from error
    for name in COUNTS:
        value = fields.get(name)
        most = MOST_LAYERS if name == "num_hidden_layers" else MOST
        if value is not None and not _is_count(value, most):
            raise ValueError(
                f"{source} has {value!r} in config.json for the {name} of its {spec.network} "
                f"network, which is no number from 1 to {most}: give a whole checkpoint"
            )
    return fields


class _Lookup:
    """Ids of special tokens, as far as the vocabulary reaches."""

    def __init__(self, tokenizer: Any, size: Any) -> None:
        self._tokens = {} if tokenizer is None else tokenizer.get_vocab()
        self._size = size

    def id(self, text: str | None) -> int | None:
        return self.valid(self._tokens.get(text)) if text else None

    def valid(self, token: int | None) -> int | None:
        return token if _is_token(token, self._size) else None


def _is_token(token: Any, size: Any) -> bool:
    whole = isinstance(token, int) and not isinstance(token, bool) and isinstance(size, int)
    return whole and 0 <= token < size


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _by_name(name: Any, default: FamilySpec) -> FamilySpec:
    return next((spec for spec in ORIGINALS if spec.name == name), default)


def _reason(model_type: Any) -> str:
    plain = str(model_type).lower().replace("-", "").replace("_", "")
    for name, reason in REFUSED.items():
        if plain.startswith(name.replace("_", "")):
            return f"which is not run: {reason}"
    originals = ", ".join(f"{spec.name} ({spec.model_type})" for spec in ORIGINALS)
    return (
        f"which no family here runs: use a checkpoint of {originals}, or of transformers' own "
        f"{', '.join(spec.model_type for spec in NATIVE)}"
    )
