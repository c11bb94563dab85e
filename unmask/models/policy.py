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
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from unmask.models.denoiser import Denoiser
from unmask.models.families import Family, recognise
from unmask.models.paths import resolve_model_path
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
        """Token ids of a prompt: plain text as it is, messages through the chat template."""
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {self.source} has no chat template: give prompts as plain text, "
                "or a checkpoint with one"
            )
        text = self.tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=False
        )
        return self.tokenizer(str(text), add_special_tokens=False)["input_ids"]

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

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
        network.save_pretrained(folder, state_dict=state_dict)
        if self.has_adapters:
            # Adapters come without a config.json, which would make transformers expect weights.
            (folder / ADAPTER_DEFAULTS).write_text(json.dumps(self.defaults, indent=2))
        self.tokenizer.save_pretrained(folder)


def load_policy(
    path: str,
    *,
    family: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    lora: LoRA | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Policy:
    """Load a masked diffusion checkpoint into transformers' own network; no remote code.

    Args:
        path: a folder, the name of a packaged model, or a hub id.
        family: the expected family, or "auto".
        dtype: of the weights, a torch dtype's name; "auto" = as in the checkpoint.
        attention: transformers' attention implementation.
        gradient_checkpointing: recompute activations in the backward pass.
        lora: adapters to add, or None.
        autocast: dtype to compute in where weights are float32, or None.
        seed: of new adapters' weights.
        device: where to put the weights.

    Raises:
        ValueError: if the folder is no checkpoint that a family here runs.
    """
    folder = resolve_model_path(path)
    adapters, base = None, folder
    if (folder / "adapter_config.json").is_file():
        adapters, base = folder, resolve_model_path(_adapter_base(folder))
    config = _read_json(base / "config.json", path)
    recognised = recognise(config, path)
    if family not in ("auto", recognised.name):
        raise ValueError(
            f"model.family={family!r}, but {path} is of family {recognised.name!r}: "
            "set model.family=auto"
        )
    if not list(base.glob("*.safetensors")):
        raise ValueError(f"{path} has no *.safetensors: save the model in that format")
    network, tokenizer = _load(base, path, dtype, attention)
    vocabulary = network.config.vocab_size
    if vocabulary < len(tokenizer):
        raise ValueError(
            f"{path} has {vocabulary} embeddings for a tokenizer of {len(tokenizer)} tokens: "
            "they do not belong together, so save the model with its own tokenizer"
        )
    _require_bidirectional(network, path)
    if gradient_checkpointing:
        # transformers renames the method during 5.x.
        old = network.gradient_checkpointing_enable
        getattr(network, "activation_checkpointing_enable", old)({"use_reentrant": False})
        network.enable_input_require_grads()
    module: nn.Module = network
    if adapters is not None:
        module = _load_adapters(network, adapters, lora)
    elif lora is not None:
        module = _add_lora(network, lora, seed)
    disable_dropout(module)
    denoiser = Denoiser(
        module,
        mask_token_id=recognised.mask_token_id,
        shift=recognised.shift,
        # Rows of the embedding beyond the tokenizer are untrained.
        forbidden_ids=range(len(tokenizer), vocabulary),
        autocast=autocast,
    )
    policy = Policy(denoiser.to(device), tokenizer, recognised, base, adapters is not None)
    if adapters is not None and (adapters / ADAPTER_DEFAULTS).is_file():
        policy.defaults = _read_json(adapters / ADAPTER_DEFAULTS, path)
    return policy


def disable_dropout(network: nn.Module) -> None:
    """Set every dropout probability to 0: passes with and without a graph must agree."""
    module: Any
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


def _load_adapters(network: PreTrainedModel, folder: Path, lora: LoRA | None) -> nn.Module:
    from peft import PeftModel

    module = PeftModel.from_pretrained(network, folder, is_trainable=lora is not None)
    found: Any = module.peft_config["default"]
    if lora is not None and (found.r, found.lora_alpha) != (lora.r, lora.alpha):
        raise ValueError(
            f"model.lora has r={lora.r}, alpha={lora.alpha}, but the adapters in {folder} have "
            f"r={found.r}, alpha={found.lora_alpha}: set these"
        )
    return module


def _add_lora(network: nn.Module, lora: LoRA, seed: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules="all-linear" if lora.target_modules == "auto" else lora.target_modules,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(network, config)


def _load(
    folder: Path, source: str, dtype: str, attention: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    wanted = dtype if dtype == "auto" else getattr(torch, dtype, None)
    if wanted != "auto" and not isinstance(wanted, torch.dtype):
        raise ValueError(f"model.dtype={dtype!r} is no dtype of torch: choose float32 or bfloat16")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=wanted,
            attn_implementation=attention,
            trust_remote_code=False,
            output_loading_info=True,
            # Reported below, with the names of the weights.
            ignore_mismatched_sizes=True,
        )
    except Exception as error:
        raise ValueError(
            f"{source} cannot be loaded with model.attention={attention}: {_one_line(error)}; "
            "give a whole checkpoint with its tokenizer"
        ) from error
    network, report = loaded
    _require_all_weights(report, source)
    return network, tokenizer


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _adapter_base(folder: Path) -> str:
    base = _read_json(folder / "adapter_config.json", str(folder)).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise ValueError(
            f"{folder} has base_model_name_or_path {base!r} in adapter_config.json: "
            "name the folder or hub id of the model that the adapters belong to"
        )
    return base


def _read_json(file: Path, source: str) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{source} has no {file.name}: give the folder of a saved model")
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{source}: {file.name} is no valid JSON ({error}): save the model again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{source}: {file.name} holds no JSON object: save the model again")
    return content


def _require_all_weights(report: dict[str, Any], source: str) -> None:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        # A mismatched key comes with the two shapes.
        found = report.get(kind) or ()
        names = sorted(name if isinstance(name, str) else name[0] for name in found)
        if names:
            shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            raise ValueError(
                f"{source} does not fit its config.json, {kind.replace('_', ' ')}: {shown}; "
                "the weights are of another architecture or incomplete"
            )


@torch.no_grad()
def _require_bidirectional(network: PreTrainedModel, source: str) -> None:
    """Early transformers 5 releases ignore `is_causal = False` without a word."""
    # Random embeddings: those of the checkpoint's tokens may be equal or zero.
    width: int = network.config.hidden_size
    embedded = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    embedded[1, -1].neg_()
    embedded = embedded.to(network.device, network.dtype)
    first, second = network(inputs_embeds=embedded, use_cache=False).logits[:, 0]
    if torch.equal(first, second):
        raise ValueError(
            f"{source} runs causally under this transformers release: the last token does not "
            "reach the first position; install transformers >= 5.17"
        )
