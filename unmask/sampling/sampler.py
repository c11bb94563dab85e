"""The unmasking loop: block by block, each step reveals some of the block's hidden tokens.

A sequence's tokens depend on its prompt, its seed and the settings alone: not on its batch mates,
its padding or the batch size. That holds because all randomness is counter-based and a sequence
whose finished blocks hold an EOS leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unmask.sampling.candidates import choose_tokens
from unmask.sampling.noise import uniform
from unmask.sampling.orders import ORDERS
from unmask.sampling.settings import Sampler

OnStep = Callable[[int, Tensor, Tensor], None]


class Proposer(Protocol):
    """What the sampler needs of a model; `unmask.models.denoiser.Denoiser` is one."""

    mask_token_id: int

    def propose(self, ids: Tensor, attention_mask: Tensor | None, positions: Tensor) -> Tensor:
        """Logits float32 [N, K, V] at the given columns of ids [N, T]."""


@dataclass(frozen=True)
class Samples:
    """Completions and how they came about.

    Attributes:
        completion_ids: int64 [B, L], filled with EOS behind an early stop.
        step_map: int64 [B, L], the denoising step at which each token was revealed; `steps` where
            it never was, because the sequence had closed.
        confidence: float32 [B, L], the model's probability (temperature 1, all tokens) of the
            token when it was revealed; 1 where it never was.
        lengths: int64 [B], tokens up to and including the first EOS.
        num_forwards: sequences x denoising passes spent.
    """

    completion_ids: Tensor
    step_map: Tensor
    confidence: Tensor
    lengths: Tensor
    num_forwards: int


def completion_lengths(ids: Tensor, eos_ids: Iterable[int]) -> Tensor:
    """Tokens up to and including the first EOS, the whole length where there is none: int64 [B].

    Args:
        ids: int [B, L].
        eos_ids: every token that ends a completion.
    """
    is_eos = _is_any(ids, eos_ids)
    first = is_eos.int().argmax(-1) + 1
    return torch.where(is_eos.any(-1), first, ids.shape[-1])


def tokens_per_step(block_length: int, steps_per_block: int) -> list[int]:
    """How many tokens each step of a block reveals; the first steps take the remainder (LLaDA)."""
    share, rest = divmod(block_length, steps_per_block)
    return [share + (step < rest) for step in range(steps_per_block)]


@torch.no_grad()
def sample(
    proposer: Proposer,
    prompt_ids: Tensor,
    prompt_mask: Tensor | None,
    seeds: Tensor,
    sampler: Sampler,
    *,
    eos_ids: Sequence[int] = (),
    on_step: OnStep | None = None,
) -> Samples:
    """Write B completions by iterative unmasking (LLaDA, arXiv 2502.09992, Algorithm 5).

    Args:
        proposer: the model.
        prompt_ids: int [B, P], padded on the left.
        prompt_mask: [B, P], 1 for real tokens; None = no padding.
        seeds: int64 [B], one per sequence; at temperature 0 read by the random order alone.
        sampler: the settings.
        eos_ids: tokens that close a completion; the first fills what an early stop leaves.
        on_step: called after each step with its number, the canvas so far, int64 [B, L], and the
            confidence, float32 [B, L].

    Returns:
        The completions; see `Samples`.

    Raises:
        ValueError: if the model's logits are not finite.
    """
    batch, device = prompt_ids.shape[0], prompt_ids.device
    length, mask_id = sampler.gen_length, proposer.mask_token_id
    canvas = torch.full((batch, length), mask_id, dtype=torch.int64, device=device)
    step_map = torch.full_like(canvas, sampler.steps)
    confidence = torch.ones(batch, length, device=device)
    attention = None
    if prompt_mask is not None and not bool(prompt_mask.all()):
        ones = torch.ones(batch, length, dtype=prompt_mask.dtype, device=device)
        attention = torch.cat([prompt_mask, ones], dim=1)
    counts = tokens_per_step(sampler.block_length, sampler.steps // sampler.num_blocks)
    active = torch.arange(batch, device=device)
    num_forwards = 0
    for block in range(sampler.num_blocks):
        start = block * sampler.block_length
        if block and sampler.early_stop and eos_ids:
            active = active[~_is_any(canvas[active, :start], eos_ids).any(-1)]
            if not len(active):
                break
        hidden = torch.arange(start, start + sampler.block_length, device=device)
        hidden = hidden.expand(len(active), -1)
        for offset, count in enumerate(counts):
            step = block * len(counts) + offset
            rows = active.unsqueeze(-1)
            logits = _propose(
                proposer,
                prompt_ids[active],
                canvas[active],
                None if attention is None else attention[active],
                hidden,
                sampler.cfg_scale,
            )
            num_forwards += len(active) * (2 if sampler.cfg_scale else 1)
            picked, tokens, probs = _reveal(logits, hidden, seeds[active], step, count, sampler)
            if bool(probs.isnan().any()):
                raise ValueError(
                    f"the model gives logits that are NaN or infinite (denoising step {step}): its "
                    "weights have diverged or its dtype is too narrow; use an earlier checkpoint "
                    "or model.dtype=float32"
                )
            revealed = hidden.gather(1, picked)
            canvas[rows, revealed] = tokens
            confidence[rows, revealed] = probs
            step_map[rows, revealed] = step
            keep = torch.ones_like(hidden, dtype=torch.bool).scatter(1, picked, False)
            hidden = hidden[keep].view(len(active), -1)
            if on_step is not None:
                on_step(step, canvas, confidence)
    if eos_ids:
        canvas.masked_fill_(canvas == mask_id, eos_ids[0])
    return Samples(canvas, step_map, confidence, completion_lengths(canvas, eos_ids), num_forwards)


def _propose(
    proposer: Proposer,
    prompt_ids: Tensor,
    canvas: Tensor,
    attention: Tensor | None,
    hidden: Tensor,
    cfg_scale: float,
) -> Tensor:
    """Logits [N, K, V] at the hidden positions of the active block."""
    columns = hidden + prompt_ids.shape[1]
    ids = torch.cat([prompt_ids, canvas], dim=1)
    if not cfg_scale:
        return proposer.propose(ids, attention, columns)
    blank = torch.cat([torch.full_like(prompt_ids, proposer.mask_token_id), canvas], dim=1)
    both = None if attention is None else attention.repeat(2, 1)
    logits = proposer.propose(torch.cat([ids, blank]), both, columns.repeat(2, 1))
    conditional, unconditional = logits.chunk(2)
    guided = unconditional + (cfg_scale + 1) * (conditional - unconditional)
    # -inf - -inf: what must not be placed stays out.
    return guided.masked_fill(conditional.isneginf(), -torch.inf)


def _reveal(
    logits: Tensor, hidden: Tensor, seeds: Tensor, step: int, count: int, sampler: Sampler
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the K hidden positions to reveal, their tokens and probabilities: [N, count]."""
    logp = logits.log_softmax(-1)
    token_noise = uniform(seeds, step, hidden)
    order_noise = uniform(seeds, step, hidden, stream=1)
    score = ORDERS[sampler.remasking]

    def choose(at_logits: Tensor, noise: Tensor) -> Tensor:
        return choose_tokens(
            at_logits,
            noise,
            temperature=sampler.temperature,
            top_k=sampler.top_k,
            top_p=sampler.top_p,
        )

    if sampler.select_first:
        picked = _highest(score(logp, None, order_noise), count)
        index = picked.unsqueeze(-1).expand(-1, -1, logits.shape[-1])
        tokens = choose(logits.gather(1, index), token_noise.gather(1, picked))
    else:
        every = choose(logits, token_noise)
        picked = _highest(score(logp, every, order_noise), count)
        tokens = every.gather(1, picked)
    chosen = logp.gather(1, picked.unsqueeze(-1).expand(-1, -1, logp.shape[-1]))
    return picked, tokens, chosen.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).exp()


def _highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores of each row, ties in reading order: int64 [N, count].

    `topk` leaves ties open, and confidences that round to 1 are ties.
    """
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :count]


def _is_any(ids: Tensor, wanted: Iterable[int]) -> Tensor:
    return torch.isin(ids, torch.tensor(list(wanted), dtype=ids.dtype, device=ids.device))
