"""A policy: denoiser, tokenizer and family of one checkpoint, loaded, adapted and saved as one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from unmask.errors import in_one_line
from unmask.models.adapters import add_lora, base_of, disable_dropout, load_adapters
from unmask.models.compilation import require_compilable
from unmask.models.denoiser import Denoiser
from unmask.models.families import Family, find_spec, recognise
from unmask.models.loading import (
    fit_tokenizer,
    known_ids,
    load_network,
    load_tokenizer,
    read_json,
)
from unmask.models.paths import resolve_model_path
from unmask.models.quantization import quantize, require_quantization
from unmask.models.settings import LoRA

Prompt = str | list[dict[str, str]]
# Next to adapters, what `Policy.defaults` keeps in the config.json of a whole model.
ADAPTER_DEFAULTS = "unmask.json"


@dataclass
class Policy:
    """A denoiser with what turns text into its tokens and back.

    Attributes:
        denoiser: the network behind `token_logprobs` and `propose`.
        tokenizer: of the checkpoint.
        family: what the checkpoint's tokens mean.
        source: folder that it was loaded from; None for a new model.
        trained_adapters: whether the adapters came with the checkpoint.
    """

    denoiser: Denoiser
    tokenizer: PreTrainedTokenizerBase
    family: Family
    source: Path | None
    trained_adapters: bool = False

    @property
    def config(self) -> Any:
        """The transformers config of the network."""
        return self.denoiser.causal_lm.config

    @property
    def has_adapters(self) -> bool:
        """Whether the network is wrapped by peft."""
        return self.denoiser.causal_lm is not self.denoiser.network

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: plain text as it is, messages through the chat template.

        Raises:
            ValueError: if there is no template, it fails, or the text cannot be encoded.
        """
        if isinstance(prompt, str):
            return self._tokens(prompt)
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {self.source} has no chat template: give prompts as plain text, "
                "or a checkpoint with one"
            )
        try:
            text = self.tokenizer.apply_chat_template(
                prompt,
                add_generation_prompt=True,
                tokenize=False,
                **self.family.spec.template_options,
            )
        except Exception as error:
            raise ValueError(
                f"the chat template of {self.source} fails ({in_one_line(error)}): give messages "
                "that it takes, or a checkpoint with another"
            ) from error
        return self._tokens(str(text), add_special_tokens=False)

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, without special tokens."""
        return self._tokens(text, add_special_tokens=False)

    def _tokens(self, text: str, **options: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"a text cannot be tokenised ({error}): give valid UTF-8") from error
        return self.tokenizer(text, **options)["input_ids"]

    def fill_canvas(self, ids: Sequence[int], canvas: int) -> list[int]:
        """Token ids of a completion, filled up with EOS to `canvas` tokens."""
        return [*ids, *[self.family.eos_ids[0]] * (canvas - len(ids))]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion up to its first EOS, without special tokens."""
        kept = []
        for token in ids:
            if token in self.family.eos_ids:
                break
            kept.append(token)
        return str(self.tokenizer.decode(kept, skip_special_tokens=True))

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        return self.tokenizer.batch_decode([[token] for token in ids])

    def pad_prompts(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts padded on the left: ids int64 [B, P] and mask int64 [B, P], 1 for real tokens."""
        width = max(len(prompt) for prompt in prompts)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(prompts), width), 0 if pad is None else pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids, mask

    def require_room(self, num_tokens: int) -> None:
        """Raise ValueError if the network has fewer positions than `num_tokens`."""
        limit = getattr(self.config, "max_position_embeddings", None)
        if limit is not None and num_tokens > limit:
            raise ValueError(
                f"prompt and completion take {num_tokens} tokens, but "
                f"{self.source or 'the new model'} has "
                f"{limit} positions: lower sampler.gen_length or task.max_prompt_length"
            )

    def require_blocks(self, block_length: int) -> None:
        """Raise ValueError if the sampler's blocks would reach over those of the network."""
        own = self.family.block_length
        if own is not None and own % block_length:
            raise ValueError(
                f"sampler.block_length={block_length} does not divide the blocks of {own} tokens "
                f"that {self.source or 'the model'} attends in: set it to {own}"
            )

    @property
    def defaults(self) -> dict[str, Any]:
        """Sections of a recipe that the model was trained with: `sampler` and `task`, if any."""
        return dict(getattr(self.config, "unmask", None) or {})

    @defaults.setter
    def defaults(self, sections: dict[str, Any]) -> None:
        self.config.unmask = dict(sections)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """The base model."""
        network: Any = self.denoiser.network
        with network.disable_adapter():
            yield

    def save(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a folder that transformers loads alone: safetensors, config, tokenizer.

        Args:
            folder: created if missing.
            state_dict: full weights of the denoiser; None takes them from the module.
        """
        if state_dict is not None:
            prefix = "network."
            state_dict = {name.removeprefix(prefix): value for name, value in state_dict.items()}
        network: Any = self.denoiser.network
        # Left to decide, peft reads the base's config.json as if it were transformers' own.
        options = {"save_embedding_layers": False} if self.has_adapters else {}
        network.save_pretrained(folder, state_dict=state_dict, **options)
        if self.has_adapters:
            # Adapters come without a config.json, which would make transformers expect weights.
            told = {"block_length": self.family.block_length}
            told["mask_token_id"] = self.family.mask_token_id
            kept = {**self.defaults, "family": told}
            (folder / ADAPTER_DEFAULTS).write_text(json.dumps(kept, indent=2))
        self.tokenizer.save_pretrained(folder)


def load_policy(
    path: str,
    *,
    family: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    compile: bool = False,
    lora: LoRA | None = None,
    mask_token_id: int | None = None,
    block_length: int | None = None,
    quantization: str | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Policy:
    """Load a masked diffusion checkpoint into transformers' own network; no remote code.

    Args:
        path: a folder, the name of a packaged model, or a hub id.
        family: the expected family, or "auto".
        dtype: of the weights, a torch dtype's name; "auto" = as in the checkpoint.
        attention: transformers' attention implementation.
        gradient_checkpointing: recompute activations in the backward pass.
        compile: compile the network's layers at their first pass; see `Denoiser`.
        lora: adapters to add, or None.
        mask_token_id: the mask token, where the checkpoint does not name it.
        block_length: of block-causal attention, where the checkpoint does not tell; None = as it
            says, or its family's.
        quantization: "4bit" or "8bit" weights of the linear layers, or None.
        autocast: dtype to compute in where weights are float32, or None.
        seed: of new adapters' weights.
        device: where to put the weights; None = the GPU if there is one, else the CPU.

    Raises:
        ValueError: if the folder is no checkpoint that a family here runs.
    """
    require_quantization(quantization)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    files = _read(path, mask_token_id, block_length)
    found, tokenizer = files.family, files.tokenizer
    if compile:
        require_compilable(device, found.block_length)
    if family not in ("auto", found.name):
        raise ValueError(
            f"model.family={family!r}, but {path} is of family {found.name!r}: "
            "set model.family=auto"
        )
    network, found = load_network(
        files.base,
        files.config,
        found,
        source=path,
        dtype=dtype,
        attention=attention,
        device="cpu" if quantization else device,
    )
    vocabulary, known = network.config.vocab_size, known_ids(tokenizer)
    if vocabulary <= max(known):
        raise ValueError(
            f"{path} has {vocabulary} embeddings for a tokenizer of {max(known) + 1} tokens: "
            "they do not belong together, so save the model with its own tokenizer"
        )
    if quantization is not None:
        quantize(network, quantization, device)
    if gradient_checkpointing:
        _checkpoint_activations(network)
    module: nn.Module = network
    if files.adapters is not None:
        module = load_adapters(network, files.adapters, lora)
    elif lora is not None:
        module = add_lora(network, lora, seed, found.spec)
    disable_dropout(module)
    denoiser = Denoiser(
        module,
        mask_token_id=found.mask_token_id,
        shift=found.shift,
        block_length=found.block_length,
        # Rows of the embedding that no token has are untrained.
        forbidden_ids=[token for token in range(vocabulary) if token not in known],
        autocast=autocast,
        compiled=compile,
    )
    trained = files.adapters is not None
    policy = Policy(denoiser.to(device), tokenizer, found, files.base, trained)
    if files.defaults is not None:
        policy.defaults = files.defaults
    return policy


def _checkpoint_activations(network: Any) -> None:
    # transformers renames the method during 5.x.
    old = network.gradient_checkpointing_enable
    getattr(network, "activation_checkpointing_enable", old)({"use_reentrant": False})
    network.enable_input_require_grads()


@dataclass(frozen=True)
class _Files:
    """What a checkpoint says of itself, read before its weights.

    Attributes:
        base: folder of the whole model.
        adapters: folder of the adapters that were asked for, or None.
        defaults: of a policy that was saved with adapters, or None.
        config: the content of config.json.
        family: what the checkpoint's tokens mean.
        tokenizer: fitted to the family.
    """

    base: Path
    adapters: Path | None
    defaults: dict[str, Any] | None
    config: dict[str, Any]
    family: Family
    tokenizer: PreTrainedTokenizerBase


def _read(path: str, mask_token_id: int | None, block_length: int | None) -> _Files:
    folder = resolve_model_path(path)
    adapters, base = None, folder
    defaults: dict[str, Any] | None = None
    if (folder / "adapter_config.json").is_file():
        adapters, base = folder, resolve_model_path(base_of(folder))
        if (folder / ADAPTER_DEFAULTS).is_file():
            defaults = read_json(folder / ADAPTER_DEFAULTS, path)
            told = defaults.pop("family", {})
            if not isinstance(told, dict):
                raise ValueError(
                    f"{path} has family={told!r} in {ADAPTER_DEFAULTS}, which is none that unmask "
                    "writes: save the adapters again"
                )
            block_length = block_length or told.get("block_length")
            mask_token_id = told.get("mask_token_id") if mask_token_id is None else mask_token_id
    config = read_json(base / "config.json", path)
    spec = find_spec(config, path)
    # An original config names too little; one of transformers' own must be right by itself.
    tokenizer = None if spec.name == "native" else load_tokenizer(base, spec, path)
    family = recognise(
        config, path, tokenizer, mask_token_id=mask_token_id, block_length=block_length
    )
    if tokenizer is None:
        tokenizer = load_tokenizer(base, spec, path)
    fit_tokenizer(tokenizer, family, path)
    return _Files(base, adapters, defaults, config, family, tokenizer)
