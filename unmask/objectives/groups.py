"""Weights that the completions of one prompt share out among themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def group_softmax(values: Tensor, group_size: int, included: Tensor) -> Tensor:
    """Softmax within every group, over its included members; 0 for the others: float [B].

    Args:
        values: float [B], groups side by side; only read where included.
        group_size: G.
        included: bool [B].
    """
    groups = values.masked_fill(~included, -float("inf")).view(-1, group_size)
    # A group of which nobody is included is 0 / 0.
    return groups.softmax(-1).nan_to_num(nan=0.0).flatten()
