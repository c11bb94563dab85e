"""A token for every hidden position of a pass, drawn in chunks: no [B, L, V] tensor exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.sampling.candidates import choose_tokens
from unmask.sampling.orders import ORDERS, Candidates
from unmask.sampling.settings import Sampler


@dataclass(frozen=True)
class Draws:
    """Tokens drawn at S positions.

    Attributes:
        tokens: int64 [S].
        confidence: float32 [S], their probability at temperature 1 over all tokens.
        probability: float32 [S], their probability in the distribution they were drawn from.
        score: float32 [S], the highest are revealed first.
        entropy: float32 [S], where an entropy bound reads it.
    """

    tokens: Tensor
    confidence: Tensor
    probability: Tensor
    score: Tensor
    entropy: Tensor | None


def draw(
    logits_of: Callable[[slice], Tensor],
    chunk_size: int,
    token_noise: Tensor,
    order_noise: Tensor,
    places: Tensor,
    sampler: Sampler,
) -> Draws:
    """Draw a token at each of S positions.

    Args:
        logits_of: logits float32 [C, V] of a slice of the positions.
        chunk_size: positions whose logits are held at once.
        token_noise: float32 [S], uniform.
        order_noise: float32 [S], uniform.
        places: int64 [S], positions in the completion.
        sampler: the settings.
    """
    score = ORDERS[sampler.remasking]
    pieces = []
    for start in range(0, len(places), chunk_size):
        piece = slice(start, start + chunk_size)
        logits = logits_of(piece)
        tokens, probability = choose_tokens(
            logits,
            token_noise[piece],
            temperature=sampler.temperature,
            top_k=sampler.top_k,
            top_p=sampler.top_p,
        )
        if sampler.unmodified:
            confidence = probability
        else:
            chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            confidence = (chosen - logits.logsumexp(-1)).exp()
        candidates = Candidates(
            logits, None if sampler.select_first else confidence, order_noise[piece], places[piece]
        )
        found = [tokens, confidence, probability, score(candidates)]
        if sampler.entropy_bound is not None:
            found.append(candidates.entropies)
        pieces.append(found)
    joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
    return Draws(*joined, *([None] if len(joined) == 4 else []))
