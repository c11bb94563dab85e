"""Who attends to whom in block-causal networks, as masks that transformers hands through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Before the name of an attention implementation: it runs in strips where a pass says so.
IN_STRIPS = "in_strips_"


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


def as_understood(allowed: Tensor, implementation: str, dtype: torch.dtype) -> Any:
    """The mask in the form that an attention implementation takes.

    Args:
        allowed: bool [N, 1, Q, K].
        implementation: transformers' name of it.
        dtype: that the network computes in.

    Raises:
        ValueError: if the implementation takes no mask of this kind.
    """
    implementation = implementation.removeprefix(IN_STRIPS)
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
