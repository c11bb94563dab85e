"""Who attends to whom in block-causal networks, as masks that transformers hands through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def positions_of(attention_mask: Tensor | None, ids: Tensor) -> Tensor:
    """Positions counted from each row's first real token, padding at -1: int64 [N, T].

    Args:
        attention_mask: [N, T], 1 for real tokens; None = no padding.
        ids: int [N, T].
    """
    if attention_mask is None:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    real = attention_mask.bool()
    return (real.long().cumsum(-1) - 1).masked_fill(~real, -1)


def block_causal(positions: Tensor, block_length: int) -> Tensor:
    """A token attends to its own block and to those before it; padding to itself alone.

    Args:
        positions: int64 [N, T], -1 = padding; see `positions_of`.
        block_length: tokens per block.

    Returns:
        bool [N, 1, T, T], True where the query (row) may attend to the key.
    """
    block = torch.div(positions, block_length, rounding_mode="floor")
    real = positions >= 0
    allowed = (block[:, None, :] <= block[:, :, None]) & real[:, None, :] & real[:, :, None]
    return _with_self(allowed)[:, None]


def noisy_and_clean(positions: Tensor, noisy_columns: Tensor, block_length: int) -> Tensor:
    """The mask of one pass over [noisy ; clean] (block diffusion, arXiv 2503.09573, section 3).

    A noisy token attends to the noisy tokens of its block and to the clean ones of earlier blocks;
    a clean token to the clean ones of its block and of earlier ones. So every block is predicted
    from itself as it is hidden and from what precedes it as it is.

    Args:
        positions: int64 [N, T] of the clean half, -1 = padding.
        noisy_columns: int64 [S], the columns that the noisy half repeats.
        block_length: tokens per block.

    Returns:
        bool [N, 1, S + T, S + T].
    """
    block = torch.div(positions, block_length, rounding_mode="floor")
    block = torch.cat([block[:, noisy_columns], block], dim=1)
    real = torch.cat([positions[:, noisy_columns], positions], dim=1) >= 0
    noisy = torch.zeros_like(block[0], dtype=torch.bool)
    noisy[: len(noisy_columns)] = True
    query, key = block[:, :, None], block[:, None, :]
    from_noisy = torch.where(noisy[None, None, :], key == query, key < query)
    from_clean = ~noisy[None, None, :] & (key <= query)
    allowed = torch.where(noisy[None, :, None], from_noisy, from_clean)
    return _with_self(allowed & real[:, None, :] & real[:, :, None])[:, None]


def as_understood(allowed: Tensor, implementation: str, dtype: torch.dtype) -> Any:
    """The mask in the form that an attention implementation takes.

    Args:
        allowed: bool [N, 1, Q, K].
        implementation: transformers' name of it.
        dtype: that the network computes in.

    Raises:
        ValueError: if the implementation takes no mask of this kind.
    """
    if implementation == "sdpa":
        return allowed
    if implementation == "eager":
        # An additive mask; the most negative number instead of -inf keeps the softmax finite.
        lowest = torch.finfo(dtype).min
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, lowest)
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        rows, _, queries, keys = allowed.shape

        def may_attend(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return allowed[row, 0, query, key]

        return create_block_mask(may_attend, rows, None, queries, keys, device=allowed.device)
    raise ValueError(
        f"model.attention={implementation} has no block-causal attention: choose sdpa or eager"
    )


def _with_self(allowed: Tensor) -> Tensor:
    """No row without a key: a softmax over nothing is not a number."""
    return allowed | torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
