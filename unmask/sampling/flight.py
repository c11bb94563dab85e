"""The sequences that are denoised together, each at its own block and step.

Sequences that are done leave, and waiting ones of about the same length enter, so that neither a
closed sequence nor padding is paid for.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor

from unmask.sampling.settings import Sampler


class Realigned(Protocol):
    """What is kept per sequence outside of here: a `unmask.models.cache.SpanCache`."""

    def realign(self, kept: Tensor, cut: int, num_new: int) -> None:
        """See `SpanCache.realign`."""


class Flight:
    """N sequences in flight and those that wait, the longest first.

    Args:
        prompt_ids: int64 [B, P], padded on the left.
        prompt_mask: [B, P], 1 for real tokens.
        sampler: the settings.
        mask_token_id: the token that stands for "hidden".
        max_tokens: most padded tokens in flight; None = no bound.

    Attributes:
        rows: int64 [N], which of the B sequences.
        ids: int64 [N, W], prompts padded on the left, then the canvas.
        attention: [N, W], or None without padding.
        block: int64 [N], the active block of each.
        offset: int64 [N], finished steps of that block.
        canvas_length: L.
    """

    def __init__(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        sampler: Sampler,
        mask_token_id: int,
        max_tokens: int | None,
    ) -> None:
        self._prompt_ids, self._prompt_mask = prompt_ids, prompt_mask
        self.canvas_length, self._mask_token_id = sampler.gen_length, mask_token_id
        self._max_tokens = max_tokens
        self._lengths = prompt_mask.sum(-1).tolist()
        order = sorted(range(len(prompt_ids)), key=lambda row: self._lengths[row], reverse=True)
        self._waiting = deque(order)
        self._present: list[int] = []
        self.rows = prompt_ids.new_zeros(0)
        self.block, self.offset = self.rows.clone(), self.rows.clone()
        self.ids = prompt_ids.new_zeros(0, 0)
        self.attention: Tensor | None = None

    def __len__(self) -> int:
        """N."""
        return len(self._present)

    @property
    def width(self) -> int:
        """W."""
        return self.ids.shape[1]

    def replace(self, closed: Tensor | None, *companions: Realigned) -> bool:
        """Take out the sequences that are done and let others in; whether any is in flight.

        Args:
            closed: bool [N], the sequences that are done; None where there are none yet.
            companions: caches to keep in step.
        """
        kept = torch.arange(len(self), device=self.rows.device)
        if closed is not None:
            kept = kept[~closed]
            staying = [self._present[row] for row in kept.tolist()]
        else:
            staying = []
        new = self._admit(staying)
        if new or len(staying) < len(self):
            self._rebuild(kept, staying, new, companions)
        return bool(len(self))

    def _admit(self, present: list[int]) -> list[int]:
        """Which waiting sequences enter: as many as fit, none that is an eighth shorter."""
        new: list[int] = []
        width = max((self._lengths[row] for row in present), default=0) + self.canvas_length
        while self._waiting:
            length = self._lengths[self._waiting[0]] + self.canvas_length
            count = len(present) + len(new) + 1
            if count == 1:
                width = length
            elif 8 * length < 7 * width or count * width > (self._max_tokens or count * width):
                break
            new.append(self._waiting.popleft())
        return new

    def _rebuild(
        self, kept: Tensor, staying: list[int], new: list[int], companions: tuple[Realigned, ...]
    ) -> None:
        self._present = staying + new
        entering = torch.tensor(new, dtype=torch.int64, device=self.rows.device)
        longest = max((self._lengths[row] for row in self._present), default=0)
        shortest = min((self._lengths[row] for row in self._present), default=0)
        cut = self.width - longest - self.canvas_length if staying else 0
        for companion in companions:
            companion.realign(kept, cut, len(new))
        start = self._prompt_ids.shape[1] - longest
        blank = entering.new_full((len(new), self.canvas_length), self._mask_token_id)
        arriving = torch.cat([self._prompt_ids[entering, start:], blank], dim=1)
        self.ids = torch.cat([self.ids[kept, cut:], arriving]) if staying else arriving
        self.rows = torch.cat([self.rows[kept], entering])
        nothing = torch.zeros_like(entering)
        self.block = torch.cat([self.block[kept], nothing])
        self.offset = torch.cat([self.offset[kept], nothing])
        self.attention = None
        if shortest < longest:
            mask = self._prompt_mask[self.rows, start:]
            self.attention = torch.cat([mask, mask.new_ones(len(self), self.canvas_length)], dim=1)
