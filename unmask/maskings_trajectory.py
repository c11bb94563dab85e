"""Draws that follow the order in which a completion was written: blocks, steps, left to right.

They know of the first EOS and of the denoising step that revealed each token, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.maskings import Maskings


def draw_block(
    generators: Sequence[torch.Generator],
    lengths: Tensor,
    length: int,
    num_mc: int,
    *,
    block_length: int,
    prompt_lengths: Tensor | None = None,
    p_mask_context: float = 0.15,
    score_block_only: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """Views of a block in the middle of its denoising (SPG, arXiv 2510.09541).

    A view takes a block that begins at or before the first EOS. Of the block's n tokens up to that
    EOS k ~ U{1..n} are hidden, everything later is hidden, and of the prompt and of the earlier
    blocks each token is hidden with probability `p_mask_context`. Every hidden completion token up
    to and including the first EOS is scored, with weight len_i / (tokens scored in the view). The
    views of a sequence take different blocks as long as there are any.

    Args:
        generators: one per sequence, B in all.
        lengths: int [B], tokens up to and including the first EOS.
        length: L, the completion canvas in tokens.
        num_mc: views per sequence.
        block_length: tokens per block.
        prompt_lengths: int [B], real tokens of each prompt; None leaves prompts clean.
        p_mask_context: probability in [0, 1].
        score_block_only: score the hidden tokens of the block and no others.
        dtype: of the weights.

    Raises:
        ValueError: if a size is below 1 or `p_mask_context` is no probability.
    """
    for name, value in (("length", length), ("num_mc", num_mc), ("block_length", block_length)):
        if value < 1:
            raise ValueError(f"{name}={value} is too small: it must be at least 1")
    if not 0 <= p_mask_context <= 1:
        raise ValueError(f"p_mask_context={p_mask_context} is no probability: give one in [0, 1]")
    batch = len(generators)
    sizes = [0] * batch if prompt_lengths is None else prompt_lengths.tolist()
    width = max(sizes, default=0)
    hidden = torch.zeros(batch, num_mc, length, dtype=torch.bool)
    scored = torch.zeros_like(hidden)
    prompt_hidden = torch.zeros(batch, num_mc, width, dtype=torch.bool)
    for row, (generator, size) in enumerate(zip(generators, sizes, strict=True)):
        until = int(lengths[row])
        order = torch.randperm((until - 1) // block_length + 1, generator=generator)
        for view in range(num_mc):
            start = int(order[view % len(order)]) * block_length
            end = min(start + block_length, until)
            count = int(torch.randint(end - start, (1,), generator=generator)) + 1
            chosen = torch.randperm(end - start, generator=generator)[:count]
            context = torch.rand(size + start, dtype=torch.float64, generator=generator)
            context_hidden = context < p_mask_context
            prompt_hidden[row, view, width - size :] = context_hidden[:size]
            hidden[row, view, :start] = context_hidden[size:]
            hidden[row, view, start + chosen] = True
            hidden[row, view, end:] = True
            within = slice(start if score_block_only else 0, end if score_block_only else until)
            scored[row, view, within] = hidden[row, view, within]
    weight = scored * (lengths.cpu()[:, None, None] / scored.sum(-1, keepdim=True).to(dtype))
    clean = prompt_lengths is None or p_mask_context == 0
    return Maskings(hidden, weight, None if clean else prompt_hidden)


def last_steps(
    step_map: Tensor, lengths: Tensor, eos: Tensor | None = None, *, until_eos: bool = False
) -> Tensor:
    """The last denoising step of each completion that is worth learning from: int64 [B].

    Args:
        step_map: int [B, L], the step at which each token was revealed.
        lengths: int [B], tokens up to and including the first EOS.
        eos: bool [B, L], True where the token is an EOS; None takes all tokens up to and including
            the first EOS for text.
        until_eos: the last step that revealed a token up to and including the first EOS, instead
            of the last one that revealed any other token than an EOS (AGRPO).
    """
    inside = torch.arange(step_map.shape[1], device=step_map.device) < lengths[:, None]
    if until_eos or eos is None:
        return step_map.masked_fill(~inside, -1).amax(-1)
    # A completion of nothing but EOS is left with the step of its first one.
    text = torch.where(eos.all(-1, keepdim=True), inside, ~eos)
    return step_map.masked_fill(~text, -1).amax(-1)


def draw_trajectory(
    generators: Sequence[torch.Generator],
    step_map: Tensor,
    last: Tensor,
    num_mc: int | None,
    *,
    shrink: int = 1,
    stratified: bool = True,
    entropy: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """States of the rollout before a denoising step (AGRPO, arXiv 2510.04019; TraceRL).

    hidden = step_map >= s and scored = step_map == s, for steps s out of 0..last. The estimate is
    the mean over steps: 1 / T_i of the log-likelihood of the whole trajectory, T_i = last + 1.
    For step_map = [1, 0, 2, 1]:

        s = 0: hidden [1, 1, 1, 1], scored [0, 1, 0, 0]
        s = 1: hidden [1, 0, 1, 1], scored [1, 0, 0, 1]
        s = 2: hidden [0, 0, 1, 0], scored [0, 0, 1, 0]

    Args:
        generators: one per sequence, B in all; not read where all steps are taken.
        step_map: int [B, L], the step at which each token was revealed.
        last: int [B], the last step that counts; tokens revealed later are never scored.
        num_mc: steps per sequence; None takes all of them, in order. Sequences of fewer steps than
            others then end in views that score nothing, and their weights make up for it.
        shrink: consecutive steps that are taken as one.
        stratified: space a sequence's steps evenly from one random start, in integers; with
            `entropy`, evenly in probability.
        entropy: float [B, L] in nats, of the distribution that each token was revealed from. A
            step is then drawn in proportion to the sum over its tokens, and weighs 1 / (T_i times
            its probability). None = steps are drawn uniformly.
        dtype: of the weights.

    Raises:
        ValueError: if `num_mc` or `shrink` is below 1, or `entropy` comes with `num_mc` None.
    """
    if num_mc is None and entropy is not None:
        raise ValueError("num_mc=None takes all steps, so none is drawn by its entropy: give one")
    for name, value in (("num_mc", num_mc), ("shrink", shrink)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is too small: it must be at least 1")
    step_map, last = step_map.cpu(), last.cpu()
    num_steps = last // shrink + 1
    merged = step_map // shrink
    if num_mc is None:
        views = int(num_steps.max())
        steps = torch.arange(views).expand(len(generators), -1)
        weight = (views / num_steps.to(dtype))[:, None]
    elif entropy is not None:
        counted = entropy.cpu().double().masked_fill(step_map > last[:, None], 0.0)
        share = _shares(merged, counted, num_steps)
        steps = torch.stack(
            [
                _pick_by_share(generator, row, num_mc, stratified)
                for generator, row in zip(generators, share, strict=True)
            ]
        )
        weight = (1 / (num_steps[:, None] * share.gather(1, steps))).to(dtype)
    else:
        steps = torch.stack(
            [
                _pick_steps(generator, size, num_mc, stratified)
                for generator, size in zip(generators, num_steps.tolist(), strict=True)
            ]
        )
        weight = torch.ones(len(generators), 1, dtype=dtype)
    merged, step = merged[:, None], steps[..., None]
    exists = step < num_steps[:, None, None]
    scored = (merged == step) & (step_map <= last[:, None])[:, None] & exists
    return Maskings((merged >= step) & exists, weight[..., None] * scored)


def draw_left_to_right(batch: int, length: int, *, dtype: torch.dtype = torch.float32) -> Maskings:
    """All L views of a left-to-right reading (JustGRPO, arXiv 2601.15165).

    View l hides tokens l..L and scores token l with weight L, so that the estimate, a mean over
    views, is the exact autoregressive log-likelihood.

    Args:
        batch: B.
        length: L, the completion canvas in tokens.
        dtype: of the weights.
    """
    hidden = torch.ones(length, length, dtype=torch.bool).triu()
    weight = length * torch.eye(length, dtype=dtype)
    return Maskings(hidden.expand(batch, -1, -1), weight.expand(batch, -1, -1))


def _pick_steps(
    generator: torch.Generator, num_steps: int, num_mc: int, stratified: bool
) -> Tensor:
    """Steps int64 [num_mc] out of 0..num_steps-1, each of them uniform by itself."""
    if not stratified:
        return torch.randint(num_steps, (num_mc,), generator=generator)
    start = torch.randint(num_steps, (1,), generator=generator)
    return (start + torch.arange(num_mc) * num_steps // num_mc) % num_steps


def _shares(steps: Tensor, entropy: Tensor, num_steps: Tensor) -> Tensor:
    """Each step's share of its sequence's entropy, float64 [B, most steps]; uniform if all is 0."""
    most = int(num_steps.max())
    total = entropy.new_zeros(len(steps), most).scatter_add_(1, steps.clamp(max=most - 1), entropy)
    flat = (torch.arange(most) < num_steps[:, None]).to(total.dtype)
    total = torch.where(total.sum(1, keepdim=True) > 0, total, flat)
    return total / total.sum(1, keepdim=True)


def _pick_by_share(
    generator: torch.Generator, share: Tensor, num_mc: int, stratified: bool
) -> Tensor:
    """Steps int64 [num_mc], each of them with the probability of its share, float64 [steps]."""
    points = torch.rand(1 if stratified else num_mc, dtype=torch.float64, generator=generator)
    if stratified:
        points = (points + torch.arange(num_mc)) / num_mc
    found = torch.searchsorted(share.cumsum(0), points, right=True)
    # Rounding may leave the sum below 1: no step of share 0 is picked for it.
    return found.clamp(max=int(share.nonzero().max()))
