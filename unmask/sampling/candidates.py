"""One denoising step's choice of tokens: temperature, top-k, top-p, inverse-CDF sampling."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_tokens(
    logits: Tensor, noise: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """A token for every position: the argmax at temperature 0, else a draw by inverse CDF.

    Args:
        logits: float32 [..., V]; -inf = never chosen.
        noise: float32 [...] in [0, 1), one uniform number per position.
        temperature: divides the logits before sampling.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the smallest set of most probable tokens whose mass reaches top_p; 1 keeps all.

    Returns:
        The tokens, int64 [...], and the probability under which each was taken, float32 [...]: 1
        for an argmax.
    """
    if temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, torch.ones_like(tokens, dtype=logits.dtype)
    scaled = logits if temperature == 1 else logits / temperature
    probs = restrict(scaled, top_k, top_p).softmax(-1)
    cumulative = probs.cumsum(-1)
    # The largest noise, 1 - 2**-24, times the total stays below the total in float32, so that a
    # token of probability 0 is never found.
    wanted = noise.unsqueeze(-1) * cumulative[..., -1:]
    chosen = torch.searchsorted(cumulative, wanted, right=True)
    # Only NaN gets past the end; the caller sees it in the probabilities.
    chosen = chosen.clamp(max=logits.shape[-1] - 1)
    return chosen.squeeze(-1), probs.gather(-1, chosen).squeeze(-1)


def restrict(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits with -inf outside the top-k, then outside the top-p tokens; ties at the edge stay.

    Args:
        logits: float [..., V].
        top_k: 0 keeps all.
        top_p: 1 keeps all.
    """
    if 0 < top_k < logits.shape[-1]:
        edge = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < edge, -torch.inf)
    if top_p < 1:
        ordered = logits.sort(dim=-1, descending=True).values
        probs = ordered.softmax(-1)
        # A token stays while the mass before it is below top_p; the first one always stays.
        kept = (probs.cumsum(-1) - probs < top_p) | (
            torch.arange(probs.shape[-1], device=probs.device) == 0
        )
        edge = ordered.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < edge, -torch.inf)
    return logits
