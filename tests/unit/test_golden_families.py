"""Every family against the logits of its authors' code, and wrong settings, which move them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_families import (
    NAMES,
    OPTIONS,
    TURN_END_ID,
    checkpoint,
    expected,
    largest_difference,
    load,
    meta,
    proposals,
    raw_logits,
    shifted,
)
from safetensors.torch import load_file, save_file

from unmask.models.policy import Policy, load_policy

TOLERANCE = 5e-5
# What any wrong setting moves logits by.
WRONG = 5e-3
BLOCKS = ("sdar", "llada2")
PADDED = ("llada", "dream", "a2d-qwen3", "llada_moe")


def padded_golden(name: str) -> dict[str, Any]:
    return expected(name, "expected_padded" if name == "llada_moe" else "expected")


def difference(policy: Policy, name: str) -> float:
    """Of what the sampler sees from the golden, padded rows included."""
    golden = padded_golden(name) if name in PADDED else expected(name)
    mask = golden.get("attention_mask")
    where = None if mask is None else mask.clone()
    if where is not None and policy.family.shift:
        # The first real token of a padded row is predicted from the padding.
        where[:, 1:] &= mask[:, :-1]
    wanted = shifted(policy, golden["logits"])
    return largest_difference(proposals(policy, golden["input_ids"], mask), wanted, where)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_the_sampler_sees_the_authors_logits(name: str, attention: str, tmp_path: Path) -> None:
    policy = load(name, tmp_path / name, attention=attention)
    assert difference(policy, name) < TOLERANCE
    if name == "llada_moe":
        golden = expected(name)
        assert largest_difference(proposals(policy, golden["input_ids"]), golden["logits"]) < (
            TOLERANCE
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_the_network_alone_gives_the_authors_logits(
    name: str, attention: str, tmp_path: Path
) -> None:
    """With a padding mask as transformers takes it, padded positions included."""
    policy = load(name, tmp_path / name, attention=attention)
    golden = padded_golden(name) if name in PADDED else expected(name)
    mask = golden.get("attention_mask")
    wanted = golden["logits_bidirectional" if name in BLOCKS else "logits"]
    where = mask if name == "dream" else None
    assert (
        largest_difference(raw_logits(policy, golden["input_ids"], mask), wanted, where) < TOLERANCE
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_the_files_and_the_family_say_is_known(name: str, tmp_path: Path) -> None:
    policy = load(name, tmp_path / name)
    facts = meta(name)
    family = policy.family
    assert family.name == name
    assert family.mask_token_id == policy.tokenizer.mask_token_id == facts["mask_token_id"]
    assert family.eos_ids == (facts["eos_token_id"], TURN_END_ID)
    assert family.shift is facts["logit_shift"]
    assert family.block_length == facts.get("block_length")
    assert policy.denoiser.block_length == family.block_length
    assert policy.defaults["sampler"]["gen_length"] > 0


def test_a_block_length_is_told_by_the_user_the_name_the_config_or_the_family(
    tmp_path: Path,
) -> None:
    def length(folder: str, **options: Any) -> int | None:
        fields = options.pop("fields", {})
        path = checkpoint(options.pop("name", "sdar"), tmp_path / folder, **fields)
        return load_policy(str(path), **options).family.block_length

    assert length("a", fields={"block_size": ...}) == 4
    assert length("b", fields={"block_size": 8}) == 8
    assert length("SDAR-4B-Chat-b16") == 16
    assert length("c-b16", block_length=2) == 2
    assert length("d", name="llada2") == 32
    assert length("Qwen3-0.6B-diffusion-bd3lm-v0.1", name="a2d-qwen3") == 32
    assert length("e", name="a2d-qwen3") is None
    assert length("f", name="llada", block_length=4) == 4


def edit(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


IGNORED: list[tuple[str, dict[str, Any]]] = [
    # The authors' routers do not read these.
    ("llada_moe", {"norm_topk_prob": True}),
    ("llada_moe", {"norm_topk_prob": ...}),
    ("llada2", {"norm_topk_prob": False}),
    # Whether there are norms is told by the tensors.
    ("llada2", {"use_qk_norm": ...}),
    ("llada2", {"use_qk_norm": False}),
    ("llada2", {"partial_rotary_factor": ...}),
    # Padding of the vocabulary, and a field that the width of the MLP overrides.
    ("llada", {"vocab_size": 100}),
    ("llada", {"mlp_ratio": 2}),
    # Windows that are switched off.
    ("dream", {"sliding_window": 4}),
    ("sdar", {"sliding_window": 4, "max_window_layers": 0}),
]


@pytest.mark.parametrize(("name", "fields"), IGNORED, ids=str)
def test_what_the_authors_code_ignores_changes_nothing(
    name: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    path = checkpoint(name, tmp_path / name, **fields)
    assert difference(load_policy(str(path), **OPTIONS.get(name, {})), name) < TOLERANCE


TRAPS: list[tuple[str, dict[str, Any]]] = [
    ("llada", {"rope_theta": 1e6}),
    ("llada", {"rms_norm_eps": 1e-3}),
    ("dream", {"rope_theta": 2e6}),
    ("dream", {"rms_norm_eps": 1e-3}),
    ("a2d-qwen3", {"rope_theta": 2e6}),
    ("sdar", {"rope_theta": 2e6}),
    ("sdar", {"block_size": 8}),
    ("llada_moe", {"rope_theta": 1e5}),
    ("llada_moe", {"num_experts_per_tok": 2}),
    ("llada2", {"routed_scaling_factor": 1.0}),
    ("llada2", {"topk_group": 4}),
    ("llada2", {"partial_rotary_factor": 1.0}),
    ("llada2", {"rope_theta": 1.2e6}),
]


@pytest.mark.parametrize(("name", "fields"), TRAPS, ids=str)
def test_a_wrong_field_moves_the_logits(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    path = checkpoint(name, tmp_path / name, **fields)
    assert difference(load_policy(str(path), **OPTIONS.get(name, {})), name) > WRONG


def causal(policy: Policy) -> None:
    policy.config.is_causal = True


def no_biases(policy: Policy) -> None:
    for name, parameter in policy.denoiser.named_parameters():
        if name.endswith("_proj.bias"):
            parameter.data.zero_()


def no_head_norms(policy: Policy) -> None:
    for layer in policy.denoiser.causal_lm.model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.Identity()


def renormalised(policy: Policy) -> None:
    for layer in policy.denoiser.causal_lm.model.layers:
        layer.mlp.gate.norm_topk_prob = True


def no_expert_bias(policy: Policy) -> None:
    for module in policy.denoiser.modules():
        if hasattr(module, "e_score_correction_bias"):
            module.e_score_correction_bias.zero_()


def up_before_gate(policy: Policy) -> None:
    for name, parameter in policy.denoiser.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            parameter.data = parameter.data.roll(parameter.shape[1] // 2, dims=1)


def other_blocks(policy: Policy) -> None:
    policy.denoiser.block_length = 3


def unshifted(policy: Policy) -> None:
    policy.denoiser.shift = False


def other_head(policy: Policy) -> None:
    head = policy.denoiser.causal_lm.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.flip(0))


def queries_from_the_values(policy: Policy) -> None:
    for layer in policy.denoiser.causal_lm.model.layers:
        attention = layer.self_attn
        attention.k_proj, attention.v_proj = attention.v_proj, attention.k_proj


SPOILED: list[tuple[str, Callable[[Policy], None]]] = [
    *((name, causal) for name in PADDED),
    *((name, no_head_norms) for name in ("a2d-qwen3", "sdar", "llada_moe", "llada2")),
    *((name, other_blocks) for name in BLOCKS),
    ("dream", no_biases),
    ("dream", unshifted),
    ("llada_moe", renormalised),
    ("llada_moe", up_before_gate),
    ("llada2", up_before_gate),
    ("llada2", no_expert_bias),
    ("llada2", queries_from_the_values),
    ("a2d-qwen3", other_head),
]


@pytest.mark.parametrize(
    ("name", "spoil"), SPOILED, ids=[f"{name}-{spoil.__name__}" for name, spoil in SPOILED]
)
def test_a_network_that_is_built_wrongly_moves_the_logits(
    name: str, spoil: Callable[[Policy], None], tmp_path: Path
) -> None:
    policy = load(name, tmp_path / name)
    wanted_by = replace(policy, family=policy.family)
    spoil(policy)
    assert difference(wanted_by, name) > WRONG


@pytest.mark.parametrize("name", PADDED)
def test_the_padding_mask_matters(name: str, tmp_path: Path) -> None:
    policy = load(name, tmp_path / name)
    golden = padded_golden(name)
    found = raw_logits(policy, golden["input_ids"])
    real = golden["attention_mask"]
    assert largest_difference(found[2], golden["logits"][2], real[2]) > WRONG


@pytest.mark.parametrize("name", NAMES)
def test_rotary_frequencies_follow_the_formula_and_stay_float32(name: str, tmp_path: Path) -> None:
    policy = load(name, tmp_path / name, dtype="bfloat16")
    rotary = policy.denoiser.causal_lm.model.rotary_emb
    theta = {"llada": 5e5, "llada_moe": 5e4, "llada2": 6e5}.get(name, 1e6)
    width = {"llada2": 8, "a2d-qwen3": 24, "sdar": 24}.get(name, 16)
    expected_values = [theta ** (-2 * i / width) for i in range(width // 2)]
    assert rotary.inv_freq.dtype == torch.float32
    torch.testing.assert_close(rotary.inv_freq, torch.tensor(expected_values), rtol=1e-6, atol=0.0)
    assert {p.dtype for p in policy.denoiser.parameters()} == {torch.bfloat16}
    biases = [b for n, b in policy.denoiser.named_buffers() if n.endswith("correction_bias")]
    assert len(biases) == (2 if name == "llada2" else 0)
    assert all(bias.dtype == torch.float32 for bias in biases)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_gives_equal_gradients(name: str, tmp_path: Path) -> None:
    ids = expected(name)["input_ids"]
    scored = torch.zeros_like(ids, dtype=torch.bool)
    scored[:, 5:20:3] = True
    noisy = ids.masked_fill(scored, meta(name)["mask_token_id"])
    found = []
    for number, checkpointing in enumerate((False, True)):
        policy = load(name, tmp_path / str(number), gradient_checkpointing=checkpointing)
        policy.denoiser.train()
        policy.denoiser(noisy, None, ids, scored).sum().backward()
        found.append({n: p.grad for n, p in policy.denoiser.named_parameters()})
    for parameter, gradient in found[0].items():
        assert gradient is not None, parameter
        torch.testing.assert_close(found[1][parameter], gradient, rtol=1e-5, atol=1e-6)
        # Experts too: the authors' code of LLaDA2 gives them none.
        assert gradient.any(), parameter
