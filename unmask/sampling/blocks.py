"""Where the blocks of each completion lie, and how its steps are shared out among them.

In a block-causal network blocks are counted from the first token of the prompt. A sampled block
must not reach over two of the network's: its tokens in the second would be drawn while the first is
still hidden. So a prompt that ends inside a block is followed by a shorter first block, which
completes it, and the canvas ends with what that one lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.sampling.rules import tokens_per_step
from unmask.sampling.settings import Sampler


class Blocks:
    """The blocks of B completions.

    Args:
        sampler: the settings.
        surplus: int64 [B], prompt tokens that lie in the same block as the first completion token.

    Attributes:
        count: int64 [B], blocks of each completion.

    Raises:
        ValueError: if two parts of a block would have to share one step.
    """

    def __init__(self, sampler: Sampler, surplus: Tensor) -> None:
        self._size, self._length = sampler.block_length, sampler.gen_length
        self._per_block = sampler.steps // sampler.num_blocks
        self._surplus = surplus
        self.count = sampler.num_blocks + (surplus > 0).long()
        if bool((surplus > 0).any()):
            sampler.require_two_steps()
        # Of the first, an inner and the last block, by the surplus.
        whole = tokens_per_step(self._size, self._per_block)
        self._first_steps = torch.full_like(surplus, self._per_block)
        self._schedule = surplus.new_zeros(len(surplus), 3, self._per_block)
        self._schedule[:] = surplus.new_tensor(whole)
        for value in surplus.unique().tolist():
            if value:
                rows = surplus == value
                first = self._size - value
                # In proportion to the tokens, at least one for either part.
                share = (2 * self._per_block * first + self._size) // (2 * self._size)
                share = min(max(share, 1), self._per_block - 1)
                self._first_steps[rows] = share
                for kind, length, steps in (
                    (0, first, share),
                    (2, value, self._per_block - share),
                ):
                    counts = tokens_per_step(length, steps) + [0] * (self._per_block - steps)
                    self._schedule[rows, kind] = surplus.new_tensor(counts)

    def window(self, rows: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """`block_length` columns of the completion that hold a block, and which of them it is.

        Args:
            rows: int64 [N], which of the B completions.
            block: int64 [N], which block of each.

        Returns:
            int64 and bool, [N, block length] each.
        """
        first, end = self.begin(rows, block), self._begin(rows, block + 1)
        start = first.clamp(max=self._length - self._size)
        columns = start.unsqueeze(-1) + torch.arange(self._size, device=rows.device)
        return columns, (columns >= first.unsqueeze(-1)) & (columns < end.unsqueeze(-1))

    def begin(self, rows: Tensor, block: Tensor) -> Tensor:
        """The first column of blocks, int64 [N]."""
        return self._begin(rows, block).clamp(min=0)

    def step(self, rows: Tensor, block: Tensor, offset: Tensor) -> Tensor:
        """The number of a denoising step of the whole completion, from that in its block."""
        before = self._first_steps[rows] + (block - 1) * self._per_block
        return before.masked_fill(block == 0, 0) + offset

    def scheduled(self, rows: Tensor, block: Tensor, offset: Tensor) -> Tensor:
        """Tokens that the schedule reveals at a step of a block, int64 [N]."""
        kind = (block > 0).long() + (block == self.count[rows] - 1) * (block > 0)
        return self._schedule[rows, kind, offset]

    def _begin(self, rows: Tensor, block: Tensor) -> Tensor:
        return block * self._size - self._surplus[rows]
