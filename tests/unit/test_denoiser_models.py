"""The denoiser against the network's own full logits, and tiny models built from scratch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_policies import SHAPE, tiny_policy
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from unmask.models.denoiser import Denoiser
from unmask.models.policy import load_policy
from unmask.models.settings import LoRA, TinyArchitecture
from unmask.models.tiny import SPECIAL_TOKENS, build_network, build_tokenizer

IDS = torch.tensor([[5, 6, 2, 8, 2, 10, 11], [12, 2, 2, 9, 9, 2, 7]])
TARGETS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 5, 9, 9, 8, 7]])
SCORED = IDS == 2


def reference_logprobs(denoiser: Denoiser, mask: Tensor | None = None) -> Tensor:
    """From all logits of the network, [N, T, V]."""
    logits = denoiser.causal_lm(input_ids=IDS, attention_mask=mask, use_cache=False).logits
    if denoiser.shift:
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    logp = logits.float().log_softmax(-1).gather(-1, TARGETS.unsqueeze(-1)).squeeze(-1)
    return logp[SCORED]


def gradients(denoiser: Denoiser, logp: Tensor) -> dict[str, Tensor]:
    """Of a sum that weighs every scored position differently."""
    denoiser.zero_grad()
    (logp * torch.arange(1.0, len(logp) + 1)).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in denoiser.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 2048])
def test_logprobs_and_gradients_are_those_of_the_full_logits(shift: bool, chunk_size: int) -> None:
    denoiser = tiny_policy(shift=shift, chunk_size=chunk_size).denoiser
    expected = reference_logprobs(denoiser)
    expected_gradients = gradients(denoiser, expected)
    found = denoiser.token_logprobs(IDS, None, TARGETS, SCORED)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found_gradients = gradients(denoiser, found)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in found_gradients.items():
        largest = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(
            gradient, expected_gradients[name], rtol=1e-3, atol=1e-5 * largest
        )


def test_a_shifted_network_predicts_from_the_position_before() -> None:
    plain, shifted = tiny_policy().denoiser, tiny_policy(shift=True).denoiser
    later = torch.zeros_like(SCORED)
    later[:, 1:] = SCORED[:, :-1]
    moved_targets = TARGETS.roll(1, dims=1)
    torch.testing.assert_close(
        shifted.token_logprobs(IDS, None, moved_targets, later),
        plain.token_logprobs(IDS, None, TARGETS, SCORED),
    )


def test_values_come_row_by_row() -> None:
    denoiser = tiny_policy().denoiser
    both = denoiser.token_logprobs(IDS, None, TARGETS, SCORED)
    apart = [
        denoiser.token_logprobs(IDS[row, None], None, TARGETS[row, None], SCORED[row, None])
        for row in range(2)
    ]
    torch.testing.assert_close(both, torch.cat(apart))


def test_calling_the_module_is_token_logprobs() -> None:
    denoiser = tiny_policy().denoiser
    assert torch.equal(
        denoiser(IDS, None, TARGETS, SCORED), denoiser.token_logprobs(IDS, None, TARGETS, SCORED)
    )


def test_targets_are_read_only_where_scored() -> None:
    denoiser = tiny_policy().denoiser
    other = TARGETS.masked_fill(~SCORED, -100)
    assert torch.equal(
        denoiser.token_logprobs(IDS, None, TARGETS, SCORED),
        denoiser.token_logprobs(IDS, None, other, SCORED),
    )


def test_nothing_scored_gives_nothing_and_has_a_gradient_of_zero() -> None:
    denoiser = tiny_policy().denoiser
    logp = denoiser.token_logprobs(IDS, None, TARGETS, torch.zeros_like(SCORED))
    assert logp.shape == (0,)
    logp.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in denoiser.parameters())


@pytest.mark.parametrize("width", [1, 8])
def test_padding_changes_no_logprob_and_no_logit(width: int) -> None:
    denoiser = tiny_policy().denoiser

    def padded(values: Tensor) -> Tensor:
        return nn.functional.pad(values, (width, 0))

    mask = padded(torch.ones_like(IDS))
    torch.testing.assert_close(
        denoiser.token_logprobs(padded(IDS), mask, padded(TARGETS), padded(SCORED)),
        denoiser.token_logprobs(IDS, None, TARGETS, SCORED),
        rtol=1e-5,
        atol=1e-6,
    )
    positions = torch.tensor([[2, 4], [1, 5]])
    torch.testing.assert_close(
        denoiser.propose(padded(IDS), mask, positions + width),
        denoiser.propose(IDS, None, positions),
        rtol=1e-5,
        atol=1e-5,
    )


def test_positions_are_counted_from_the_first_real_token() -> None:
    denoiser = tiny_policy().denoiser
    seen: list[Tensor] = []
    decoder = denoiser.causal_lm.get_decoder()
    handle = decoder.register_forward_pre_hook(
        lambda _, arguments, options: seen.append(options["position_ids"]), with_kwargs=True
    )
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1] * 7])
    denoiser.propose(IDS, mask, torch.tensor([[4], [4]]))
    handle.remove()
    assert seen[0][0, 3:].tolist() == [0, 1, 2, 3]
    assert seen[0][1].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_what_stands_in_the_padding_does_not_matter() -> None:
    denoiser = tiny_policy().denoiser
    mask = torch.ones_like(IDS)
    mask[0, :2] = 0
    other = IDS.clone()
    other[0, :2] = torch.tensor([13, 2])
    torch.testing.assert_close(
        denoiser.token_logprobs(IDS, mask, TARGETS, SCORED),
        denoiser.token_logprobs(other, mask, TARGETS, SCORED),
    )


@pytest.mark.parametrize("chunk_size", [2, 2048])
def test_only_scored_positions_reach_the_vocabulary_projection(chunk_size: int) -> None:
    denoiser = tiny_policy(chunk_size=chunk_size).denoiser
    rows: list[int] = []
    head = denoiser.causal_lm.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    with torch.no_grad():
        denoiser.token_logprobs(IDS, None, TARGETS, SCORED)
    handle.remove()
    assert sum(rows) == int(SCORED.sum()) == 5
    assert max(rows) <= chunk_size


def test_proposals_are_the_networks_logits_without_forbidden_tokens() -> None:
    policy = tiny_policy()
    denoiser = Denoiser(policy.denoiser.network, mask_token_id=2, forbidden_ids=[0, 13])
    positions = torch.tensor([[4, 2], [5, 1]])
    found = denoiser.propose(IDS, None, positions)
    logits = denoiser.causal_lm(input_ids=IDS, use_cache=False).logits
    expected = torch.stack([logits[0, [4, 2]], logits[1, [5, 1]]])
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found[..., [0, 2, 13]].isneginf().all()
    allowed = [i for i in range(found.shape[-1]) if i not in (0, 2, 13)]
    torch.testing.assert_close(found[..., allowed], expected[..., allowed], rtol=1e-5, atol=1e-5)


def test_the_last_token_reaches_the_first_position_and_back() -> None:
    denoiser = tiny_policy().denoiser
    first = torch.zeros_like(SCORED)
    first[:, 0] = True
    other = IDS.clone()
    other[:, -1] = 8
    before, after = (denoiser.token_logprobs(ids, None, TARGETS, first) for ids in (IDS, other))
    assert ((before - after).abs() > 1e-4).all()


def test_autocast_computes_in_bfloat16_and_returns_float32() -> None:
    exact = tiny_policy().denoiser
    coarse = Denoiser(exact.network, mask_token_id=2, autocast=torch.bfloat16)
    found = coarse.token_logprobs(IDS, None, TARGETS, SCORED)
    expected = exact.token_logprobs(IDS, None, TARGETS, SCORED)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    # A pass without a graph must not leave anything behind that cuts the next one's gradient.
    with torch.no_grad():
        coarse.token_logprobs(IDS, None, TARGETS, SCORED)
    found_gradients = gradients(coarse, coarse.token_logprobs(IDS, None, TARGETS, SCORED))
    assert len(found_gradients) == len(list(coarse.parameters()))
    assert all(gradient.any() for gradient in found_gradients.values())


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    tiny_policy().save(tmp_path)
    found = []
    for checkpointing in (False, True):
        policy = load_policy(str(tmp_path), gradient_checkpointing=checkpointing)
        policy.denoiser.train()
        switches = [getattr(m, "gradient_checkpointing", False) for m in policy.denoiser.modules()]
        assert any(switches) is checkpointing
        found.append(gradients(policy.denoiser, policy.denoiser(IDS, None, TARGETS, SCORED)))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


@pytest.mark.parametrize(
    ("config_class", "model_class"),
    [(Qwen2Config, Qwen2ForCausalLM), (Qwen3Config, Qwen3ForCausalLM)],
)
def test_other_native_architectures_attend_in_both_directions(
    config_class: type, model_class: type, tmp_path: Path
) -> None:
    tokenizer = build_tokenizer(list("123456789"))
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    config.is_causal = False
    config.mask_token_id = tokenizer.mask_token_id
    torch.manual_seed(0)
    model_class(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    denoiser = load_policy(str(tmp_path)).denoiser
    with torch.no_grad():
        expected = reference_logprobs(denoiser)
        torch.testing.assert_close(denoiser(IDS, None, TARGETS, SCORED), expected)
        other = IDS.clone()
        other[:, -1] = 8
        assert not torch.equal(
            denoiser.propose(IDS, None, torch.zeros(2, 1).long()),
            denoiser.propose(other, None, torch.zeros(2, 1).long()),
        )


# --- tiny models --------------------------------------------------------------------------------


def test_a_symbol_is_a_token_and_the_longest_match_wins() -> None:
    tokenizer = build_tokenizer(["1", "12", "+", "a.b"])
    ids = tokenizer("12 1+ 112a.b")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["12", "1", "+", "1", "12", "a.b"]


def test_special_tokens_come_first_and_unknown_text_is_unk() -> None:
    tokenizer = build_tokenizer(["1", "2"])
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == [*SPECIAL_TOKENS, "1", "2"]
    ids = tokenizer("1x2")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["1", "<unk>", "2"]
    special = (tokenizer.pad_token, tokenizer.eos_token, tokenizer.mask_token, tokenizer.unk_token)
    assert special == ("<pad>", "<eos>", "<mask>", "<unk>")


@pytest.mark.parametrize("symbols", [["1", "1"], ["1", ""], ["1", "<mask>"]])
def test_symbols_that_are_not_distinct_tokens_are_refused(symbols: list[str]) -> None:
    with pytest.raises(ValueError, match="must be distinct, not empty and no special token"):
        build_tokenizer(symbols)


def test_a_network_is_decided_by_its_seed_and_leaves_the_global_generator_alone() -> None:
    tokenizer = build_tokenizer(["1", "2"])
    before = torch.get_rng_state()
    first = build_network(SHAPE, tokenizer, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    second = build_network(SHAPE, tokenizer, seed=1).state_dict()
    other = build_network(SHAPE, tokenizer, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_packaged_shape_has_165_thousand_parameters() -> None:
    tokenizer = build_tokenizer([*"1234", "."])
    network = build_network(TinyArchitecture(), tokenizer, seed=0)
    # Embedding and head 2 * 10 * 64; a layer 4 * 64^2 + 3 * 64 * 176 + 2 * 64; a last norm of 64.
    assert sum(p.numel() for p in network.parameters()) == 1280 + 3 * 50_304 + 64


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_layers": 0}, "num_layers=0 is too small"),
        ({"max_length": -3}, "max_length=-3 is too small"),
        ({"hidden_size": 30}, "hidden_size=30 does not split into num_heads=2 heads of even width"),
        ({"num_heads": 0}, "num_heads=0 is too small"),
    ],
    ids=str,
)
def test_shapes_that_cannot_be_built_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SHAPE, **settings)


@pytest.mark.parametrize("settings", [{"r": 0}, {"alpha": -1}], ids=str)
def test_adapters_without_rank_or_scale_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is too small: give at least 1"):
        LoRA(**settings)
