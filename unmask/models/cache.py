"""Keys and values of whole sequences, of which a pass recomputes a span of columns.

Bidirectional attention has no order of keys, so a span is written over in place: the prefix and
the dual cache of Fast-dLLM (arXiv 2505.22618) differ in their spans alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


@dataclass
class Span:
    """What the next pass computes.

    Attributes:
        rows: int64 [n], rows of the cache, or None for all N.
        first: int64 [n], the first recomputed column of each; None = a whole pass.
        count: recomputed columns of each.
        width: columns of a sequence.
        copies: int64 [n], for columns that several rows have in common: the row of the pass that
            each takes, which attends to itself alone; None = each its own.
    """

    rows: Tensor | None
    first: Tensor | None
    count: int
    width: int
    copies: Tensor | None = None

    @property
    def columns(self) -> Tensor | None:
        """The recomputed columns, int64 [n, count], or None for a whole pass."""
        if self.first is None:
            return None
        return self.first.unsqueeze(-1) + torch.arange(self.count, device=self.first.device)


class SpanCache(Cache):
    """Keys and values [N, heads, T, head size] of every layer.

    Attributes:
        span: what the next pass computes.
        num_rows: N.
    """

    def __init__(self, num_layers: int) -> None:
        self._spans = [_SpanLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._spans))
        self.span: Span | None = None
        self.num_rows = 0

    def copy(self, sources: Tensor, rows: Tensor, count: int) -> None:
        """Give rows the first `count` columns of others, int64 [n] both."""
        for layer in self._spans:
            for states in (layer.keys, layer.values):
                assert states is not None
                states[rows, :, :count] = states[sources, :, :count]

    def realign(self, kept: Tensor, cut: int, num_new: int) -> None:
        """Keep some rows without their first `cut` columns; new rows come behind, still empty.

        Args:
            kept: int64, rows that stay.
            cut: columns that drop out on the left.
            num_new: rows that enter; their first pass must be a whole one.
        """
        self.num_rows = len(kept) + num_new
        for layer in self._spans:
            if layer.keys is not None and len(kept):
                for name in ("keys", "values"):
                    old = getattr(layer, name)[kept, :, cut:]
                    new = old.new_zeros(num_new, *old.shape[1:])
                    setattr(layer, name, torch.cat([old, new]) if num_new else old)
            else:
                layer.keys = layer.values = None


class _SpanLayer(DynamicLayer):
    def __init__(self, cache: SpanCache) -> None:
        super().__init__()
        self._cache = cache

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; all that the pass attends to."""
        span = self._cache.span
        assert span is not None
        return self._store("keys", key_states, span), self._store("values", value_states, span)

    def get_seq_length(self) -> int:
        """Columns of a sequence."""
        return 0 if self._cache.span is None else self._cache.span.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Every query attends to all columns."""
        return self.get_seq_length(), 0

    def _store(self, name: str, states: Tensor, span: Span) -> Tensor:
        stored = getattr(self, name)
        columns = span.columns
        if columns is None and span.rows is None:
            setattr(self, name, states)
            return states
        if stored is None:
            _, heads, _, size = states.shape
            stored = states.new_zeros(self._cache.num_rows, heads, span.width, size)
            setattr(self, name, stored)
        if span.copies is not None:
            stored[span.rows, :, : span.count] = states[span.copies]
            return states
        if columns is None:
            stored[span.rows] = states
            return states
        rows = span.rows
        if rows is None:
            rows = torch.arange(self._cache.num_rows, device=states.device)
        stored[rows.unsqueeze(-1), :, columns] = states.transpose(1, 2)
        return stored if span.rows is None else stored[rows]
