"""Autoregressive checkpoints made bidirectional, with a mask token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_families import checkpoint
from tiny_policies import saved
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from unmask.cli import main
from unmask.generation import sample
from unmask.models.adapt import adapt
from unmask.models.policy import load_policy
from unmask.models.tiny import build_tokenizer
from unmask.sampling.settings import Sampler

IDS = torch.tensor([[5, 6, 7, 8]])


def autoregressive(
    folder: Path, network: str = "llama", *, tied: bool = False, mask: bool = False, spare: int = 0
) -> Path:
    """A random causal checkpoint, as it would come from pretraining."""
    tokenizer = build_tokenizer(list("123456789"))
    if not mask:
        tokenizer.backend_tokenizer.save(str(folder.parent / "tokenizer.json"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder.parent / "tokenizer.json"),
            pad_token="<pad>",
            eos_token="<eos>",
            unk_token="<unk>",
        )
    config = AutoConfig.for_model(
        network,
        vocab_size=len(tokenizer) + spare,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        eos_token_id=1,
        bos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("network", ["llama", "qwen2", "qwen3"])
def test_an_adapted_checkpoint_sees_both_ways_and_has_a_new_mask_token(
    network: str, tied: bool, tmp_path: Path
) -> None:
    source = autoregressive(tmp_path / "in", network, tied=tied)
    done = adapt(str(source), tmp_path / "out")
    assert done == {
        "model_type": network,
        "mask_token": "<|mask|>",
        "mask_token_id": 14,
        "vocab_size": 15,
    }
    policy = load_policy(str(tmp_path / "out"))
    assert policy.family.mask_token_id == policy.tokenizer.mask_token_id == 14
    assert not policy.family.shift
    assert policy.tokenizer("<|mask|>")["input_ids"] == [14]
    old = AutoModelForCausalLM.from_pretrained(source).state_dict()
    new = policy.denoiser.causal_lm.state_dict()
    assert old.keys() == new.keys()
    for name, value in old.items():
        found = new[name]
        if found.shape != value.shape:
            assert name in ("model.embed_tokens.weight", "lm_head.weight")
            torch.testing.assert_close(found[14], value.mean(0))
            found = found[:14]
        assert torch.equal(found, value)
    completion = sample(policy, ["12"], Sampler(gen_length=4, block_length=4, steps=4))[0]
    assert 14 not in completion.ids


def test_a_causal_network_gives_the_same_numbers_under_its_causal_mask(tmp_path: Path) -> None:
    """Nothing but the mask and the new rows has changed."""
    source = autoregressive(tmp_path / "in")
    adapt(str(source), tmp_path / "out")
    network: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        found = network(input_ids=IDS, attention_mask=causal).logits[..., :14]
        wanted = AutoModelForCausalLM.from_pretrained(source)(input_ids=IDS).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_mask_token_of_its_own_and_a_spare_row_are_used(tmp_path: Path) -> None:
    own = adapt(str(autoregressive(tmp_path / "a", mask=True)), tmp_path / "a-out")
    assert (own["mask_token"], own["mask_token_id"], own["vocab_size"]) == ("<mask>", 2, 14)
    spare = adapt(str(autoregressive(tmp_path / "b", spare=4)), tmp_path / "b-out")
    assert (spare["mask_token_id"], spare["vocab_size"]) == (14, 18)
    policy = load_policy(str(tmp_path / "b-out"))
    assert policy.denoiser.forbidden_ids == [14, 15, 16, 17]
    embedding = policy.denoiser.causal_lm.get_input_embeddings().weight
    torch.testing.assert_close(embedding[14], embedding[:14].mean(0))


def test_shift_and_blocks_are_remembered(tmp_path: Path) -> None:
    source = str(autoregressive(tmp_path / "in"))
    adapt(source, tmp_path / "shifted", shift=True)
    assert load_policy(str(tmp_path / "shifted")).denoiser.shift
    adapt(source, tmp_path / "blocks", block_length=4)
    policy = load_policy(str(tmp_path / "blocks"))
    assert policy.denoiser.block_length == policy.family.block_length == 4
    with pytest.raises(ValueError, match="block_length=4 with shift=True"):
        adapt(source, tmp_path / "both", shift=True, block_length=4)


def test_the_command_line_says_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = autoregressive(tmp_path / "in")
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(source), "1"])
    assert stop.value.code == 2
    assert f"unmask adapt {source} OUT" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["adapt", str(source), str(tmp_path / "out")])
    assert stop.value.code in (0, None)
    assert "unmask sft model.path=" in capsys.readouterr().out.replace("\n", "")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token == "<|mask|>"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: saved(folder / "x"), "is a diffusion model already"),
        (lambda folder: checkpoint("sdar", folder / "x"), "is a sdar diffusion model already"),
        (lambda folder: folder / "missing.gguf", "is no file: give the path of a .gguf file"),
    ],
)
def test_what_cannot_be_adapted_is_refused(make: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        adapt(str(make(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_adapted_is_named(tmp_path: Path) -> None:
    source = autoregressive(tmp_path / "in")
    file = source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "glm4_moe"}))
    with pytest.raises(ValueError, match="model_type 'glm4_moe', which is not adapted: choose"):
        adapt(str(source), tmp_path / "out")
