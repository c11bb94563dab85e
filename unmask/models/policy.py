"""A policy: denoiser, tokenizer and family of one checkpoint, loaded, adapted and saved as one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from unmask.models.denoiser import Denoiser
from unmask.models.families import Family, recognise
from unmask.models.settings import LoRA

Prompt = str | list[dict[str, str]]


@dataclass
class Policy:
    """A denoiser with what turns text into its tokens and back.

    Attributes:
        denoiser: the network behind `token_logprobs` and `propose`.
        tokenizer: of the checkpoint.
        family: what the checkpoint's tokens mean.
        source: folder that it was loaded from; None for a new model.
    """

    denoiser: Denoiser
    tokenizer: PreTrainedTokenizerBase
    family: Family
    source: Path | None

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
            text, special = prompt, True
        else:
            text, special = self.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=False
            ), False
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion up to its first EOS, without special tokens."""
        kept = []
        for token in ids:
            if token in self.family.eos_ids:
                break
            kept.append(token)
        return self.tokenizer.decode(kept, skip_special_tokens=True)

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
                f"prompt and completion take {num_tokens} tokens, but {self.source} has "
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
        """The base model: the reference policy of a LoRA run."""
        with self.denoiser.network.disable_adapter():
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
        self.denoiser.network.save_pretrained(folder, state_dict=state_dict)
        self.tokenizer.save_pretrained(folder)


def resolve_model_path(path: str) -> Path:
    """The folder of a model: a local path, a packaged model's name, or a hub id to download.

    Raises:
        ValueError: if it is none of these.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    packaged = Path(str(files("unmask") / "checkpoints"))
    if (packaged / path).is_dir() and path:
        return packaged / path
    names = ", ".join(sorted(entry.name for entry in packaged.iterdir() if entry.is_dir()))
    missing = (
        f"model.path={path!r} is neither a folder nor a packaged model ({names}): "
        "give one of these, or a hub id such as org/name"
    )
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise ValueError(missing)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        # Weights and text files only: no pickles, no code.
        return Path(snapshot_download(path, allow_patterns=["*.safetensors", "*.json", "*.txt"]
                                      + ["*.jinja", "*.model"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{missing}; the hub answered: {reason}") from error


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
    network, report = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        attn_implementation=attention,
        trust_remote_code=False,
        output_loading_info=True,
    )
    _require_all_weights(report, path)
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if network.get_input_embeddings().weight.shape[0] < len(tokenizer):
        raise ValueError(
            f"{path} has {network.get_input_embeddings().weight.shape[0]} embeddings for a "
            f"tokenizer of {len(tokenizer)} tokens: they do not belong together"
        )
    _require_bidirectional(network, path)
    disable_dropout(network)
    if gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        network.enable_input_require_grads()
    module: nn.Module = network
    if adapters is not None:
        from peft import PeftModel

        module = PeftModel.from_pretrained(network, adapters, is_trainable=lora is not None)
    elif lora is not None:
        module = _add_lora(network, lora, seed)
    # Rows of the embedding beyond the tokenizer are untrained.
    vocabulary = network.get_output_embeddings().weight.shape[0]
    denoiser = Denoiser(
        module,
        mask_token_id=recognised.mask_token_id,
        shift=recognised.shift,
        forbidden_ids=range(len(tokenizer), vocabulary),
        autocast=autocast,
    )
    return Policy(denoiser.to(device), tokenizer, recognised, base)


def disable_dropout(network: nn.Module) -> None:
    """Set every dropout probability to 0: passes with and without a graph must agree."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


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


def _adapter_base(folder: Path) -> str:
    return str(_read_json(folder / "adapter_config.json", str(folder))["base_model_name_or_path"])


def _read_json(file: Path, source: str) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{source} has no {file.name}: give the folder of a saved model")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: {file.name} is no valid JSON ({error})") from error


def _require_all_weights(report: dict[str, Any], source: str) -> None:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in report.get(kind) or ())
        if names:
            shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            raise ValueError(
                f"{source} does not fit its config.json, {kind.replace('_', ' ')}: {shown}; "
                "the weights are of another architecture or incomplete"
            )


@torch.no_grad()
def _require_bidirectional(network: nn.Module, source: str) -> None:
    """Early transformers 5 releases ignore `is_causal = False` without a word."""
    ids = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 1]], device=network.device)
    first, second = network(input_ids=ids, use_cache=False).logits[:, 0]
    if torch.equal(first, second):
        raise ValueError(
            f"{source} runs causally under this transformers release: the last token does not "
            "reach the first position; install transformers >= 5.17"
        )
