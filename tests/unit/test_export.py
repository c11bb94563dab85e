"""What is saved loads back; what is exported is what was loaded; adapters fold in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_families import (
    GOLDEN,
    NAMES,
    TURN_END_ID,
    checkpoint,
    expected,
    largest_difference,
    load,
    meta,
    proposals,
    raw_logits,
)
from safetensors.torch import load_file, save_file
from tiny_policies import saved
from transformers import AutoModelForCausalLM, AutoTokenizer

from unmask.cli import main
from unmask.models.export import export, merge
from unmask.models.policy import Policy, load_policy
from unmask.models.settings import LoRA
from unmask.models.weights import save_shards

ADAPTERS = LoRA(r=2, alpha=4)


def bytes_of(folder: Path) -> dict[str, tuple[str, bytes]]:
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("model*.safetensors"):
        tensors |= load_file(file)
    return {
        name: (str(value.dtype), value.contiguous().view(torch.uint8).numpy().tobytes())
        for name, value in tensors.items()
    }


def move(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def in_bfloat16(folder: Path) -> None:
    """As real checkpoints are stored: all but the biases of a router."""
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if not name.endswith("expert_bias"):
            weights[name] = value.bfloat16()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_load_and_export_give_the_same_bytes(name: str, stored: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path / "in")
    if stored == "bfloat16":
        in_bfloat16(folder)
    before = bytes_of(folder)
    export(str(folder), tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before
    old, new = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "out"))
    dtype = "torch_dtype" if "torch_dtype" in old else "dtype"
    assert new == old | {dtype: stored}
    # By way of transformers' own format too.
    load_policy(str(folder)).save(tmp_path / "native")
    export(str(tmp_path / "native"), tmp_path / "again")
    assert bytes_of(tmp_path / "again") == before


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_is_the_same_policy_and_loads_in_transformers_alone(
    name: str, tmp_path: Path
) -> None:
    policy = load(name, tmp_path / "in")
    policy.save(tmp_path / "out")
    again = load_policy(str(tmp_path / "out"))
    ids = expected(name)["input_ids"]
    assert torch.equal(proposals(again, ids), proposals(policy, ids))
    assert not again.family.is_original
    for fact in ("name", "mask_token_id", "eos_ids", "shift", "block_length", "stored_head"):
        assert getattr(again.family, fact) == getattr(policy.family, fact)
    assert again.defaults == policy.defaults
    assert again.tokenizer.chat_template == policy.tokenizer.chat_template
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    with torch.no_grad():
        found = alone(input_ids=ids).logits
    assert largest_difference(found, raw_logits(policy, ids)) < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert tokenizer.mask_token_id == meta(name)["mask_token_id"]


@pytest.mark.parametrize("name", NAMES)
def test_trained_weights_are_exported(name: str, tmp_path: Path) -> None:
    policy = load(name, tmp_path / "in")
    move(policy)
    policy.save(tmp_path / "run" / "model")
    export(str(tmp_path / "run"), tmp_path / "out")
    options: dict[str, Any] = {"block_length": policy.family.block_length}
    again = load_policy(str(tmp_path / "out"), **options)
    ids = expected(name)["input_ids"]
    assert again.family.is_original
    assert torch.equal(proposals(again, ids), proposals(policy, ids))
    assert bytes_of(tmp_path / "out").keys() == bytes_of(GOLDEN / name).keys()


@pytest.mark.parametrize("name", NAMES)
def test_adapters_reach_the_linear_layers_of_every_layer_and_fold_in(
    name: str, tmp_path: Path
) -> None:
    policy = load(name, tmp_path / "in", lora=ADAPTERS)
    ids = expected(name)["input_ids"]
    adapted = {n for n, p in policy.denoiser.named_parameters() if p.requires_grad}
    assert adapted
    assert all("lora_" in n for n in adapted)
    for layer in range(policy.config.num_hidden_layers):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            assert any(f"layers.{layer}.self_attn.{module}." in n for n in adapted)
    dense = name in ("llada", "dream", "a2d-qwen3", "sdar")
    assert any("mlp.down_proj" in n for n in adapted) is dense
    move(policy)
    moved = proposals(policy, ids)
    policy.save(tmp_path / "run")
    again = load_policy(str(tmp_path / "run"))
    assert again.family.block_length == policy.family.block_length
    assert torch.equal(proposals(again, ids), moved)
    merge(str(tmp_path / "run"), tmp_path / "merged")
    whole = load_policy(str(tmp_path / "merged"))
    assert not whole.has_adapters
    assert whole.family.block_length == policy.family.block_length
    assert largest_difference(proposals(whole, ids), moved.nan_to_num(neginf=0.0)) < 1e-4
    export(str(tmp_path / "run"), tmp_path / "out")
    assert bytes_of(tmp_path / "out").keys() == bytes_of(GOLDEN / name).keys()
    assert bytes_of(tmp_path / "out") != bytes_of(GOLDEN / name)


def test_a_head_that_is_not_the_embedding_is_kept_apart(tmp_path: Path) -> None:
    """Some tied checkpoints store a head of their own; it is what they were trained with."""
    folder = checkpoint("a2d-qwen3", tmp_path / "in")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"] * 2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    policy = load_policy(str(folder))
    network = policy.denoiser.causal_lm
    assert network.lm_head.weight is not network.model.embed_tokens.weight
    assert torch.equal(network.lm_head.weight, weights["lm_head.weight"])
    export(str(folder), tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(folder)


def test_a_head_that_is_left_out_is_the_embedding(tmp_path: Path) -> None:
    folder = checkpoint("a2d-qwen3", tmp_path / "in")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    golden = expected("a2d-qwen3")
    policy = load_policy(str(folder))
    network = policy.denoiser.causal_lm
    assert network.lm_head.weight is network.model.embed_tokens.weight
    found = raw_logits(policy, golden["input_ids"], golden["attention_mask"])
    assert largest_difference(found, golden["logits"]) < 5e-5
    export(str(folder), tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(folder)


@pytest.mark.parametrize("name", ["llada", "llada2"])
def test_shards_are_read_and_written(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path / "in")
    weights = load_file(folder / "model.safetensors")
    before = bytes_of(folder)
    (folder / "model.safetensors").unlink()
    save_shards(iter(weights.items()), folder, max_bytes=50_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["weight_map"].keys() == before.keys()
    assert max(file.stat().st_size for file in folder.glob("*.safetensors")) < 60_000
    assert bytes_of(folder) == before
    golden = expected(name)
    policy = load_policy(str(folder))
    key = "logits_bidirectional" if name == "llada2" else "logits"
    found = raw_logits(policy, golden["input_ids"], golden.get("attention_mask"))
    assert largest_difference(found, golden[key]) < 5e-5


def test_the_command_line_exports_and_merges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load("llada", tmp_path / "in", lora=ADAPTERS)
    move(policy)
    policy.save(tmp_path / "run" / "model")
    run = str(tmp_path / "run")
    for arguments in (
        ["merge", run, str(tmp_path / "merged")],
        ["export", run, str(tmp_path / "original")],
        ["export", run, str(tmp_path / "native"), "--format", "native"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in (0, None)
    assert "llada" in capsys.readouterr().out
    assert bytes_of(tmp_path / "merged") == bytes_of(tmp_path / "native")
    assert json.loads((tmp_path / "original" / "config.json").read_text())["model_type"] == "llada"


def test_what_cannot_be_exported_or_merged_is_refused(tmp_path: Path) -> None:
    native = saved(tmp_path / "native")
    original = checkpoint("llada", tmp_path / "llada")
    with pytest.raises(ValueError, match=r"never in another: .* choose --format native"):
        export(str(native), tmp_path / "out")
    with pytest.raises(ValueError, match="format='gguf' is unknown: choose original or native"):
        export(str(native), tmp_path / "out", "gguf")
    with pytest.raises(ValueError, match="no adapters to fold in"):
        merge(str(native), tmp_path / "out")
    for write in (export, merge):
        with pytest.raises(ValueError, match="is not empty: name a new folder"):
            write(str(original), native)
    assert not (tmp_path / "out").exists()


def test_the_end_of_a_turn_ends_a_completion_after_saving_too(tmp_path: Path) -> None:
    policy = load("llada", tmp_path / "in")
    policy.save(tmp_path / "out")
    again = load_policy(str(tmp_path / "out"))
    assert again.decode([5, 6, TURN_END_ID, 7]).split() == ["w5", "w6"]


def test_no_code_of_a_checkpoint_runs_and_nothing_is_asked(tmp_path: Path) -> None:
    """Every golden's auto_map names files; a copy of them here would leave a trace."""
    for name in NAMES:
        folder = checkpoint(name, tmp_path / name)
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        for target in auto_map.values():
            code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
            (folder / f"{target.split('.')[0]}.py").write_text(code)
    script = (
        "import sys\nfrom unmask import load_policy\n"
        "for path in sys.argv[1:]: load_policy(path, **{})\n"
    )
    paths = [str(tmp_path / name) for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "ran").exists()
