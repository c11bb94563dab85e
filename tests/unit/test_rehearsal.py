"""Tiny random checkpoints of every family, and which family a recipe's model belongs to."""

import json
import string
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from unmask.models.export import export
from unmask.models.families import FAMILIES, ORIGINALS, published_family
from unmask.models.policy import load_policy
from unmask.models.rehearsal import family_of, write_random_checkpoint
from unmask.models.settings import LoRA
from unmask.sampling.settings import Sampler
from unmask.training.dry_run import shrink_sampler

SYMBOLS = [character for character in string.printable if not character.isspace()]


@pytest.mark.parametrize(
    ("hub_id", "name"),
    [
        ("GSAI-ML/LLaDA-8B-Instruct", "llada"),
        ("GSAI-ML/LLaDA-8B-Base", "llada"),
        ("GSAI-ML/LLaDA-1.5", "llada"),
        ("gsai-ml/llada-8b-instruct", "llada"),
        ("Dream-org/Dream-v0-Instruct-7B", "dream"),
        ("Dream-org/Dream-Coder-v0-Base-7B", "dream"),
        ("apple/DiffuCoder-7B-cpGRPO", "dream"),
        ("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", "a2d-qwen3"),
        ("dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1", "a2d-qwen2"),
        ("JetLM/SDAR-4B-Chat-b16", "sdar"),
        ("Gen-Verse/TraDo-8B-Thinking", "sdar"),
        ("inclusionAI/LLaDA-MoE-7B-A1B-Instruct", "llada_moe"),
        ("inclusionAI/LLaDA2.0-mini-CAP", "llada2"),
        ("inclusionAI/LLaDA2.1-flash", "llada2"),
    ],
)
def test_published_checkpoints_are_known_by_their_hub_id(hub_id: str, name: str) -> None:
    spec = published_family(hub_id)
    assert spec is not None and spec.name == name
    assert family_of(hub_id) is spec


def test_what_cannot_be_told_without_the_network_is_no_family(tmp_path) -> None:
    assert family_of("someone/LLaDA-8B-Instruct") is None
    # Both were never checked, so a rehearsal on a relative would promise too much.
    assert family_of("GSAI-ML/iLLaDA-8B-Instruct") is None
    assert family_of("JetLM/SDAR-30B-A3B-Chat") is None
    assert family_of("someone/else", "dream") is published_family("Dream-org/Dream-v0-Base-7B")
    assert family_of("tiny-sudoku").name == "native"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sdar"}))
    assert family_of(str(tmp_path)).name == "sdar"
    assert family_of("someone/else", "no-such-family") is None


@pytest.mark.parametrize("spec", ORIGINALS, ids=lambda spec: spec.name)
def test_a_random_checkpoint_is_one_of_its_family(spec, tmp_path: Path) -> None:
    folder = tmp_path / "random"
    write_random_checkpoint(spec, folder, SYMBOLS)
    assert json.loads((folder / "config.json").read_text())["model_type"] == spec.model_type
    policy = load_policy(str(folder), family=spec.name, lora=LoRA(r=2, alpha=2), device="cpu")
    assert policy.family.spec is spec
    assert (policy.denoiser.shift, policy.denoiser.block_length) == (spec.shift, spec.block_length)
    assert policy.tokenizer.mask_token == (spec.mask_token or "<|mask|>")
    texts = [policy.tokenizer.decode([token]) for token in policy.family.eos_ids]
    assert texts == ["<|endoftext|>", *([spec.turn_end] if spec.turn_end else [])]
    # The family's own template, each of its special tokens as one token.
    ids = policy.encode([{"role": "user", "content": "3 5 7 : 22"}])
    assert policy.tokenizer.chat_template == spec.chat_template
    assert "357:22" in policy.tokenizer.decode(ids).replace(" ", "")
    assert policy.tokenizer.unk_token_id not in ids
    # Rows behind the tokenizer's are never proposed.
    assert policy.config.vocab_size > len(policy.tokenizer)
    logits = policy.denoiser.propose(torch.tensor([ids]), None, torch.tensor([[len(ids) - 1]]))
    assert logits[0, 0, len(policy.tokenizer) :].eq(-torch.inf).all()


def test_a_random_checkpoint_has_original_names_and_comes_back_byte_for_byte(tmp_path) -> None:
    spec = published_family("GSAI-ML/LLaDA-8B-Instruct")
    write_random_checkpoint(spec, tmp_path / "one", SYMBOLS)
    write_random_checkpoint(spec, tmp_path / "same", SYMBOLS)
    write_random_checkpoint(spec, tmp_path / "other", SYMBOLS, seed=1)
    export(str(tmp_path / "one"), tmp_path / "again")
    files = {
        name: (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("one", "same", "other", "again")
    }
    assert files["one"] == files["same"] == files["again"] != files["other"]
    with safe_open(tmp_path / "one" / "model.safetensors", "pt") as tensors:
        assert "model.transformer.blocks.1.ff_proj.weight" in tensors.keys()  # noqa: SIM118


def test_the_name_of_the_folder_tells_the_block_length(tmp_path: Path) -> None:
    spec = published_family("JetLM/SDAR-4B-Chat-b16")
    write_random_checkpoint(spec, tmp_path / "SDAR-4B-Chat-b16", SYMBOLS)
    assert load_policy(str(tmp_path / "SDAR-4B-Chat-b16"), device="cpu").family.block_length == 16


def test_every_original_family_can_be_rehearsed() -> None:
    assert [spec.name for spec in FAMILIES if spec.tiny] == [spec.name for spec in ORIGINALS]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (Sampler(256, 32, 128), (16, 8, 8)),
        (Sampler(256, 256, 256), (16, 16, 16)),
        (Sampler(256, 4, 256), (8, 4, 8)),
        (Sampler(16, 8, 4), (16, 8, 4)),
    ],
)
def test_a_rehearsal_keeps_tokens_per_step_and_never_widens_a_block(sampler, expected) -> None:
    small = shrink_sampler(sampler)
    assert (small.gen_length, small.block_length, small.steps) == expected
