"""Block-causal networks: likelihoods in one pass against one forward per block, and padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_families import expected, load, meta
from torch import Tensor

from unmask.models.attention import as_understood, block_causal, positions_of
from unmask.models.denoiser import Denoiser
from unmask.models.policy import Policy
from unmask.models.settings import Promising
from unmask.models.sharing import lay_out

BLOCKS = {"sdar": 4, "llada2": 8}


def example(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy ids, clean ids and what is scored: [3, 24] each; a prompt of 6 is never hidden."""
    clean = expected(name)["input_ids"]
    mask_id = meta(name)["mask_token_id"]
    clean = clean.masked_fill(clean == mask_id, 7)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(clean.shape, generator=generator) < 0.6
    hidden[:, :6] = False
    # Not all that is hidden is scored.
    scored = hidden & (torch.rand(clean.shape, generator=generator) < 0.7)
    return clean.masked_fill(hidden, mask_id), clean, scored


@torch.no_grad()
def one_forward_per_block(policy: Policy, noisy: Tensor, clean: Tensor, scored: Tensor) -> Tensor:
    """log p of the scored tokens: each block as it is hidden, behind the clean blocks before it."""
    size = policy.family.block_length
    assert size is not None
    values = torch.zeros(scored.shape)
    for start in range(0, noisy.shape[1], size):
        end = min(start + size, noisy.shape[1])
        ids = torch.cat([clean[:, :start], noisy[:, start:end]], dim=1)
        positions = torch.arange(end)
        allowed = positions[None, :] // size <= positions[:, None] // size
        allowed = allowed.expand(len(ids), 1, end, end)
        logits = policy.denoiser.causal_lm(input_ids=ids, attention_mask=allowed).logits
        logp = logits[:, start:].log_softmax(-1)
        values[:, start:end] = logp.gather(-1, clean[:, start:end, None]).squeeze(-1)
    return values[scored]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", BLOCKS)
def test_one_pass_gives_what_one_forward_per_block_gives(
    name: str, attention: str, tmp_path: Path
) -> None:
    policy = load(name, tmp_path / name)
    noisy, clean, scored = example(name)
    wanted = one_forward_per_block(policy, noisy, clean, scored)
    found = load(name, tmp_path / "other", attention=attention).denoiser
    torch.testing.assert_close(
        found.token_logprobs(noisy, None, clean, scored), wanted, rtol=0, atol=5e-5
    )
    # A pass over the noisy tokens alone would condition on hidden blocks.
    plain = policy.denoiser.propose(noisy, None, torch.arange(24).expand(3, 24))
    plain[..., policy.family.mask_token_id] = 0.0
    naive = plain.log_softmax(-1).gather(-1, clean.unsqueeze(-1)).squeeze(-1)[scored]
    assert (naive - wanted).abs().max() > 0.1


@pytest.mark.parametrize("name", BLOCKS)
def test_padding_on_the_left_changes_no_likelihood_and_no_logit(name: str, tmp_path: Path) -> None:
    denoiser = load(name, tmp_path / name).denoiser
    noisy, clean, scored = example(name)
    pads = [0, 3, 5]
    # Rows of different lengths, cut at the front so that all stay as wide.
    width = noisy.shape[1] + max(pads)

    def padded(values: Tensor, fill: Any) -> Tensor:
        rows = torch.full((len(values), width), fill, dtype=values.dtype)
        for row, pad in enumerate(pads):
            kept = values[row, : width - max(pads) - pad]
            rows[row, width - len(kept) :] = kept
        return rows

    mask = padded(torch.ones_like(noisy), 0)
    ids, targets = padded(noisy, 9), padded(clean, 11)
    found = denoiser.token_logprobs(ids, mask, targets, padded(scored, False))
    apart = []
    for row, pad in enumerate(pads):
        one = slice(row, row + 1), slice(0, 24 - pad)
        apart.append(denoiser.token_logprobs(noisy[one], None, clean[one], scored[one]))
    torch.testing.assert_close(found, torch.cat(apart), rtol=0, atol=5e-5)
    last = torch.tensor([[width - 1]] * 3)
    proposed = denoiser.propose(ids, mask, last)
    for row, pad in enumerate(pads):
        alone = denoiser.propose(noisy[row : row + 1, : 24 - pad], None, torch.tensor([[23 - pad]]))
        torch.testing.assert_close(proposed[row : row + 1], alone, rtol=0, atol=5e-5)


def test_the_gradient_of_one_pass_is_that_of_all_blocks(tmp_path: Path) -> None:
    policy = load("sdar", tmp_path / "sdar")
    denoiser = policy.denoiser.double()
    noisy, clean, scored = example("sdar")
    denoiser.token_logprobs(noisy, None, clean, scored).sum().backward()
    found = {name: p.grad.clone() for name, p in denoiser.named_parameters()}
    denoiser.zero_grad()
    with torch.enable_grad():
        for start in range(0, 24, 4):
            part = torch.zeros_like(scored)
            part[:, start : start + 4] = scored[:, start : start + 4]
            ids = torch.cat([clean[:, :start], noisy[:, start : start + 4]], dim=1)
            if part.any():
                columns = part[:, : start + 4]
                logits = denoiser.causal_lm(
                    input_ids=ids,
                    attention_mask=block_causal(positions_of(None, ids), 4),
                ).logits
                logp = logits.log_softmax(-1).gather(-1, clean[:, : start + 4, None]).squeeze(-1)
                logp[columns].sum().backward()
    for name, parameter in denoiser.named_parameters():
        # Norms compute in float32 whatever the weights are.
        scale = found[name].abs().max().item()
        torch.testing.assert_close(parameter.grad, found[name], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", BLOCKS)
def test_later_blocks_do_not_reach_earlier_ones(name: str, tmp_path: Path) -> None:
    denoiser = load(name, tmp_path / name).denoiser
    noisy, clean, scored = example(name)
    size = BLOCKS[name]
    other = clean.clone()
    other[:, 2 * size :] = 3
    changed = torch.where(noisy == denoiser.mask_token_id, noisy, other)
    early = scored.clone()
    early[:, 2 * size :] = False
    torch.testing.assert_close(
        denoiser.token_logprobs(noisy, None, clean, early),
        denoiser.token_logprobs(changed, None, other, early),
    )


def test_promising_tokens_are_given_the_clean_blocks_too(tmp_path: Path) -> None:
    policy = load("sdar", tmp_path / "sdar")
    noisy, clean, scored = example("sdar")
    promising = Promising(top_k=1)
    best = policy.denoiser(noisy, None, clean, scored, None, promising).squeeze(-1)
    # At the best token, its own log-probability is the largest there is.
    one = torch.zeros_like(scored)
    rows, columns = scored.nonzero(as_tuple=True)
    one[rows[-1], columns[-1]] = True
    last = clean.clone()
    last[rows[-1], columns[-1]] = best[-1]
    top = policy.denoiser.token_logprobs(noisy, None, last, one)
    for token in range(0, 128, 5):
        last[rows[-1], columns[-1]] = token
        assert policy.denoiser.token_logprobs(noisy, None, last, one) <= top + 1e-6


# --- masks ----------------------------------------------------------------------------------------


def test_blocks_are_counted_from_the_first_real_token() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions = positions_of(mask, mask)
    assert positions.tolist() == [[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert block_causal(positions, 2)[:, 0].int().tolist() == [
        [
            [1, 0, 0, 0, 0],  # padding sees itself alone
            [0, 1, 1, 0, 0],
            [0, 1, 1, 0, 0],
            [0, 1, 1, 1, 1],
            [0, 1, 1, 1, 1],
        ],
        [
            [1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1],
        ],
    ]


def test_a_noisy_block_sees_itself_and_the_clean_blocks_before_it() -> None:
    ids, clean = torch.tensor([[0, 5, 0, 0]]), torch.tensor([[4, 5, 6, 7]])
    scored = torch.tensor([[True, False, False, True]])
    layout = lay_out(ids, clean, positions_of(None, ids), scored, 2)
    # The first block as it is, then both as they are hidden.
    assert layout.ids.tolist() == [[4, 5, 0, 5, 0, 0]]
    assert layout.positions.tolist() == [[0, 1, 0, 1, 2, 3]]
    assert layout.wanted.tolist() == [2, 5]
    first, second = layout.strips
    assert first.queries.tolist() == first.keys.tolist() == [[0]]
    assert first.allowed is None
    assert second.queries.tolist() == [[1, 2]]
    assert second.keys.tolist() == [[0, 1, 2]]
    assert second.allowed[0, 0].int().tolist() == [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
    ]
    assert layout.order.tolist() == [0, 1, 2]


def test_an_attention_without_such_masks_is_refused() -> None:
    allowed = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="flash_attention_2 has no block-causal attention"):
        as_understood(allowed, "flash_attention_2", torch.float32)


def test_a_shifted_network_in_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="block_length=4 with shift=True"):
        Denoiser(torch.nn.Linear(1, 1), mask_token_id=0, shift=True, block_length=4)
    with pytest.raises(ValueError, match=r"model\.block_length=4 does not fit"):
        load("dream", tmp_path / "dream", block_length=4)
