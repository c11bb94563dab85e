"""Likelihoods of block-causal views in one pass: exact, and what views have in common runs once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_families import load
from tiny_policies import tiny_policy
from torch import Tensor, nn

from unmask.estimators import ELBO, DrawContext, Estimator, OneStep, Trajectory
from unmask.maskings import Maskings
from unmask.models import sharing
from unmask.models.denoiser import Denoiser
from unmask.models.settings import LoRA
from unmask.objectives import ESPO, ObjectiveInputs, Totals
from unmask.training.packing import Slice
from unmask.training.policy_gradient import (
    Completions,
    evaluate_logprobs,
    streamed_backward,
    view_logprobs,
)

BLOCK = 4
LENGTH = 10
GROUP = 3
# Ends of blocks, middles of blocks, and no whole block at all.
PROMPTS = [8, 5, 3]


def group_of(lengths: list[int], high: int) -> Completions:
    """`GROUP` completions of a prompt of each length, padded on the left."""
    generator = torch.Generator().manual_seed(0)
    width = max(lengths)
    ids = torch.randint(5, high, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    rows = torch.arange(len(lengths)).repeat_interleave(GROUP)
    written = torch.randint(5, high, (len(rows), LENGTH), generator=generator)
    # Two completions may begin, or end, with the same tokens.
    written[1, :6] = written[0, :6]
    written[2] = written[0]
    return Completions(ids[rows], mask[rows], written)


def context_of(completions: Completions) -> DrawContext:
    batch = len(completions.completion_ids)
    generator = torch.Generator().manual_seed(1)
    return DrawContext(
        seeds=list(range(batch)),
        lengths=torch.full((batch,), LENGTH - 2),
        prompt_lengths=completions.prompt_lengths,
        canvas=LENGTH,
        step_map=torch.stack([torch.randperm(LENGTH, generator=generator) for _ in range(batch)]),
    )


def in_double(denoiser: Denoiser) -> Denoiser:
    """With norms in double too: transformers computes them in float32 whatever the weights are."""

    def normalise(norm: Any) -> Callable[[Tensor], Tensor]:
        def forward(states: Tensor) -> Tensor:
            scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
            return norm.weight * states * scale

        return forward

    for module in denoiser.double().modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = normalise(module)  # type: ignore[method-assign]
    return denoiser


def tiny(block_length: int = BLOCK) -> Denoiser:
    denoiser = tiny_policy().denoiser
    denoiser.block_length = block_length
    return denoiser


def block_by_block(denoiser: Denoiser, completions: Completions, maskings: Maskings) -> Tensor:
    """log p [B, M, L] from one forward per view and block, without padding, sharing or masks.

    A block is given as it is hidden behind the clean blocks before it.
    """
    size = denoiser.block_length
    assert size is not None
    mask_id = denoiser.mask_token_id
    values = torch.zeros(maskings.weight.shape, dtype=torch.float64)
    for row, view in maskings.scored.any(-1).nonzero().tolist():
        real = int(completions.prompt_lengths[row])
        prompt = completions.prompt_ids[row, -real:]
        if maskings.prompt_hidden is not None:
            # Hidden for good: no block of the view sees those tokens.
            prompt = prompt.masked_fill(maskings.prompt_hidden[row, view, -real:], mask_id)
        clean = torch.cat([prompt, completions.completion_ids[row]])
        nowhere = torch.zeros_like(prompt, dtype=torch.bool)
        noisy = clean.masked_fill(torch.cat([nowhere, maskings.hidden[row, view]]), mask_id)
        scored = torch.cat([nowhere, maskings.scored[row, view]])
        for start in range(0, len(clean), size):
            end = min(start + size, len(clean))
            if not scored[start:end].any():
                continue
            ids = torch.cat([clean[:start], noisy[start:end]])[None]
            number = torch.arange(end) // size
            allowed = (number[None] <= number[:, None])[None, None]
            logits = denoiser.causal_lm(input_ids=ids, attention_mask=allowed).logits[0, start:]
            logp = logits.log_softmax(-1).gather(-1, clean[start:end, None]).squeeze(-1)
            for place in scored[start:end].nonzero().flatten().tolist():
                values[row, view, start + place - real] = logp[place].to(values.dtype)
    return values


def gradients(denoiser: Denoiser, loss: Tensor) -> dict[str, Tensor]:
    """Of the parameters that have one."""
    denoiser.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in denoiser.named_parameters() if p.grad is not None}
    denoiser.zero_grad()
    return found


def assert_exact(
    denoiser: Denoiser,
    completions: Completions,
    maskings: Maskings,
    tolerance: float,
    reference: Denoiser | None = None,
) -> None:
    """Values, and gradients of a weighted sum, against one forward per view and block."""
    reference = reference or denoiser
    mask_id = denoiser.mask_token_id
    weight = torch.randn(maskings.weight.shape, generator=torch.Generator().manual_seed(2)).double()
    expected = block_by_block(reference, completions, maskings)
    wanted = gradients(reference, (expected * weight).sum())
    options: dict[str, Any] = {"mask_token_id": mask_id, "max_tokens": 10**6}
    found = evaluate_logprobs(denoiser, completions, maskings, **options)
    close = {"rtol": 0.0, "atol": tolerance}
    torch.testing.assert_close(found.double(), expected.detach(), **close)
    scored = maskings.scored
    rows, views = scored.any(-1).nonzero(as_tuple=True)
    # All views in one pass.
    values = view_logprobs(denoiser, completions, maskings, Slice(rows, views), mask_id)
    got = gradients(denoiser, (values * weight[rows, views] * scored[rows, views]).sum())
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = gradient.abs().max().item() + 1
        torch.testing.assert_close(got[name], gradient, rtol=0, atol=tolerance * scale)


ESTIMATORS: dict[str, Estimator] = {
    "elbo": ELBO(num_mc=2),
    "prompt hidden too": OneStep(p_mask_prompt=0.4),
    "steps of a rollout": Trajectory(num_mc=4),
}


@pytest.mark.parametrize("block_length", [1, 3, 4, 32])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_and_gradients_are_those_of_a_forward_per_view_and_block(
    estimator: str, block_length: int
) -> None:
    completions = group_of(PROMPTS, high=14)
    maskings = ESTIMATORS[estimator].draw(context_of(completions))
    assert_exact(in_double(tiny(block_length)), completions, maskings, 1e-10)


@pytest.mark.parametrize("strip_length", [1, 8, 1000])
def test_the_length_of_strips_changes_nothing(
    strip_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out = sharing.lay_out
    monkeypatch.setattr(
        "unmask.models.denoiser.lay_out", lambda *args: lay_out(*args, strip_length=strip_length)
    )
    completions = group_of(PROMPTS, high=14)
    maskings = ELBO(num_mc=2).draw(context_of(completions))
    assert_exact(in_double(tiny()), completions, maskings, 1e-10)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["sdar", "llada2"])
def test_families_with_blocks_are_exact(name: str, attention: str, tmp_path: Path) -> None:
    denoiser = load(name, tmp_path / name, attention=attention).denoiser
    reference = load(name, tmp_path / "reference").denoiser
    if name == "sdar":  # experts do not run in double
        denoiser, reference = in_double(denoiser), in_double(reference)
    completions = group_of(PROMPTS, high=100)
    maskings = ELBO(num_mc=2).draw(context_of(completions))
    # Eager attention has its softmax in float32 whatever the weights are.
    exact = name == "sdar" and attention == "sdpa"
    assert_exact(denoiser, completions, maskings, 1e-10 if exact else 5e-5, reference)


def test_adapters_and_checkpointing_get_the_same_gradients(tmp_path: Path) -> None:
    completions = group_of(PROMPTS, high=100)
    maskings = ELBO(num_mc=2).draw(context_of(completions))
    lora = LoRA(r=4, alpha=8)
    policy = load("sdar", tmp_path / "sdar", lora=lora, gradient_checkpointing=True)
    denoiser = in_double(policy.denoiser)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.requires_grad:  # adapters begin at 0
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    denoiser.train()
    layer = denoiser.causal_lm.model.layers[0]
    calls: list[int] = []
    layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    assert_exact(denoiser, completions, maskings, 1e-10)
    # A recomputed layer runs twice.
    calls.clear()
    options: dict[str, Any] = {"mask_token_id": denoiser.mask_token_id, "max_tokens": 10**6}
    streamed(denoiser, completions, maskings, **options)
    assert len(calls) == 2


def streamed(
    denoiser: Denoiser, completions: Completions, maskings: Maskings, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """logp and gradients of an ESPO step."""
    batch = len(completions.completion_ids)
    generator = torch.Generator().manual_seed(4)
    advantages = torch.randn(batch, generator=generator).double()
    maskings = replace(maskings, weight=maskings.weight.double())
    inputs = ObjectiveInputs(
        logp=torch.zeros_like(maskings.weight),
        old_logp=torch.full_like(maskings.weight, -2.0),
        ref_logp=None,
        weight=maskings.weight,
        views_per_draw=maskings.views_per_draw,
        advantages=advantages,
        rewards=advantages,
        lengths=torch.full((batch,), LENGTH),
        canvas=LENGTH,
        group_size=GROUP,
        totals=Totals(batch, 1, 1, 1),
    )
    denoiser.zero_grad()
    objective = ESPO(beta=0.0)
    _, logp = streamed_backward(
        denoiser, completions, maskings, objective, inputs, on_policy=True, **options
    )
    found = {n: p.grad.clone() for n, p in denoiser.named_parameters() if p.grad is not None}
    return logp, found


def widths(denoiser: Denoiser) -> list[int]:
    """Filled with the tokens of every pass that follows."""
    found: list[int] = []
    denoiser.causal_lm.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: found.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return found


def test_a_budget_splits_passes_and_changes_nothing() -> None:
    completions = group_of(PROMPTS, high=14)
    denoiser = in_double(tiny())
    options: dict[str, Any] = {"mask_token_id": denoiser.mask_token_id}
    tokens = widths(denoiser)
    most = []
    for num_mc in (2, 8):
        maskings = ELBO(num_mc=num_mc).draw(context_of(completions))
        logp, whole = streamed(denoiser, completions, maskings, max_tokens=10**6, **options)
        tokens.clear()
        again, split = streamed(denoiser, completions, maskings, max_tokens=40, **options)
        assert len(tokens) > 4 * num_mc
        most.append(max(tokens))
        torch.testing.assert_close(again, logp, rtol=0, atol=1e-10)
        for name, gradient in whole.items():
            torch.testing.assert_close(split[name], gradient, rtol=0, atol=1e-10)
    # A budget of 40 holds 2 views; the clean blocks come on top, whatever the number of views.
    assert max(most) <= 40 + 20


def test_what_views_have_in_common_runs_once() -> None:
    """Blocks of 4, a prompt of 8 (2 blocks) and completions of 8 (2 more blocks each)."""
    denoiser = tiny()
    tokens = widths(denoiser)
    prompt = torch.arange(5, 13).expand(2, -1)
    completion = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [9, 6, 7, 8, 9, 10, 11, 12]])
    completions = Completions(prompt, torch.ones_like(prompt), completion)
    everything = torch.ones(2, 3, 8, dtype=torch.bool)
    options: dict[str, Any] = {"mask_token_id": denoiser.mask_token_id, "max_tokens": 10**6}

    def count(hidden: Tensor) -> int:
        tokens.clear()
        evaluate_logprobs(denoiser, completions, Maskings(hidden, hidden.float()), **options)
        assert len(tokens) == 1
        return tokens[0]

    # Views that hide different tokens, in both blocks.
    hidden = everything.clone()
    hidden[:, 1, 0] = hidden[:, 2, 1] = False
    # 2 prompt blocks, the first block of each completion, 2 noisy blocks of each of 6 views.
    assert count(hidden) == 4 * (2 + 2 + 6 * 2)
    # What no scored token depends on does not run: here, no clean block of a completion.
    hidden[..., 4:] = False
    assert count(hidden) == 4 * (2 + 6)
    # Completions of one beginning share it.
    completion[1, :4], completion[1, 4:] = completion[0, :4], 5
    hidden[..., 4:], hidden[..., :4] = hidden[..., :4].clone(), False
    assert count(hidden) == 4 * (2 + 1 + 6)


@pytest.mark.parametrize("visible", [True, False])
def test_every_entry_of_the_masks_counts(visible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that misses one that it should see, or sees another, shows in the likelihoods."""
    completions = group_of([8, 5], high=14)
    maskings = ELBO(num_mc=1).draw(context_of(completions))
    denoiser = in_double(tiny())
    options: dict[str, Any] = {"mask_token_id": denoiser.mask_token_id, "max_tokens": 10**6}
    expected = evaluate_logprobs(denoiser, completions, maskings, **options)
    lay_out, generator = sharing.lay_out, torch.Generator().manual_seed(5)

    def broken(*args: Any) -> sharing.Layout:
        layout = lay_out(*args)
        entries = []
        for number, part in enumerate(layout.strips):
            if part.allowed is None:
                continue
            blocks = part.allowed[:, 0].unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
            seen = blocks.any(4).any(2)
            for strip, query, key in (seen == visible).nonzero().tolist():
                # Not the repeated queries that fill a strip up; and every token sees something.
                first = part.queries[strip].tolist().index(int(part.queries[strip, query])) == query
                if first and (not visible or seen[strip, query].sum() > 1):
                    entries.append((number, strip, query, key))
        pick = int(torch.randint(len(entries), (1,), generator=generator))
        number, strip, query, key = entries[pick]
        part = layout.strips[number]
        allowed = part.allowed.clone()
        rows, columns = (slice(at * BLOCK, at * BLOCK + BLOCK) for at in (query, key))
        allowed[strip, 0, rows, columns] = not visible
        strips = [*layout.strips]
        strips[number] = replace(part, allowed=allowed)
        return replace(layout, strips=strips)

    monkeypatch.setattr("unmask.models.denoiser.lay_out", broken)
    for _ in range(12):
        found = evaluate_logprobs(denoiser, completions, maskings, **options)
        assert (found - expected).abs().max() > 1e-8


def test_a_pass_that_scores_nothing_still_reaches_every_parameter() -> None:
    denoiser = tiny()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    values = denoiser.token_logprobs(ids, None, ids, torch.zeros_like(ids, dtype=torch.bool))
    assert values.shape == (0,)
    values.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in denoiser.parameters())


def test_the_network_itself_goes_on_as_before() -> None:
    """A network whose attention reads strips gives the same logits without them."""
    denoiser = tiny()
    network: nn.Module = denoiser.network
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    before = network(input_ids=ids).logits
    scored = torch.ones_like(ids, dtype=torch.bool)
    denoiser.token_logprobs(ids, None, ids, scored)
    assert denoiser.causal_lm.config._attn_implementation != "sdpa"
    torch.testing.assert_close(network(input_ids=ids).logits, before, rtol=0, atol=0)
    assert "in_strips" not in denoiser.causal_lm.config.to_json_string()
    # Bidirectional without a mask, as the config says: the last token reaches the first.
    other = ids.clone()
    other[0, -1] = 10
    assert not torch.equal(network(input_ids=other).logits[0, 0], before[0, 0])
    denoiser.causal_lm.set_attn_implementation("eager")
    torch.testing.assert_close(
        denoiser.token_logprobs(ids, None, ids, scored),
        tiny().token_logprobs(ids, None, ids, scored),
    )
