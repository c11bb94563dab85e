"""Which forward passes a set of maskings asks for, and which of them run together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from unmask.maskings import Maskings


@dataclass(frozen=True)
class Slice:
    """Views that share a forward pass: view `views[i]` of sequence `rows[i]`, int64 [N] each."""

    rows: Tensor
    views: Tensor


@dataclass(frozen=True)
class Passes:
    """The views that must be run: one of those that hide the same tokens, none that score nothing.

    Two views of a sequence may hide the same tokens: two draws of one denoising step, say, or
    views that hide the whole completion.

    Attributes:
        maskings: as given, but a view is scored wherever a view that reads it is, and nowhere if
            it is not run.
        source: int64 [B, M], the view of the same sequence that each view reads.
        scored: bool [B, M, L], what each view itself scores.
    """

    maskings: Maskings
    source: Tensor
    scored: Tensor

    @staticmethod
    def of(maskings: Maskings) -> Passes:
        """Find the views of each sequence that hide the same tokens."""
        hidden = maskings.hidden
        if maskings.prompt_hidden is not None:
            hidden = torch.cat([maskings.prompt_hidden, hidden], dim=-1)
        source = _first_equal(np.packbits(hidden.cpu().numpy(), axis=-1))
        source = source.to(maskings.hidden.device)
        scored = maskings.scored
        readers = torch.zeros_like(maskings.weight)
        readers.scatter_add_(1, _over_tokens(source, scored), scored.to(readers.dtype))
        run = replace(maskings, weight=readers)
        return Passes(run, source, scored)

    @property
    def needed(self) -> Tensor:
        """Bool [B, M], the views to run."""
        return self.maskings.scored.any(-1)

    def spread(self, values: Tensor) -> Tensor:
        """What each view reads [B, M, L] of the values of the views that were run [B, M, L]."""
        return values.gather(1, _over_tokens(self.source, values)).masked_fill(~self.scored, 0.0)

    def collect(self, gradient: Tensor) -> Tensor:
        """Gradient [B, M, L] of the views that are run, from that of the views that read them."""
        read = gradient.masked_fill(~self.scored, 0.0)
        return torch.zeros_like(read).scatter_add(1, _over_tokens(self.source, read), read)


def plan_slices(
    lengths: Tensor, needed: Tensor, views_per_draw: int, max_tokens: int
) -> list[Slice]:
    """Pack views into slices of at most `max_tokens` padded tokens, longest sequences first.

    A sequence's views stay together where they fit, whole draws where not. A slice always holds at
    least one view, also where that is over the budget.

    Args:
        lengths: int [B], prompt plus canvas tokens of each sequence.
        needed: bool [B, M], the views to pack.
        views_per_draw: consecutive views that make one draw.
        max_tokens: budget of a slice.
    """
    wanted = [[view for view, run in enumerate(row) if run] for row in needed.tolist()]
    slices: list[Slice] = []
    rows: list[int] = []
    views: list[int] = []
    width = 0
    for row in lengths.argsort(descending=True, stable=True).tolist():
        length = int(lengths[row])
        for piece in _pieces(wanted[row], views_per_draw, max(max_tokens // length, 1)):
            if rows and (len(rows) + len(piece)) * width > max_tokens:
                slices.append(Slice(torch.tensor(rows), torch.tensor(views)))
                rows, views = [], []
            if not rows:
                width = length
            rows += [row] * len(piece)
            views += piece
    if rows:
        slices.append(Slice(torch.tensor(rows), torch.tensor(views)))
    return slices


def cuts_through(slices: list[Slice], passes: Passes, views_per_unit: int) -> bool:
    """Whether the views that some `views_per_unit` consecutive views read lie in two slices."""
    slice_of = torch.full(passes.source.shape, -1)
    for number, part in enumerate(slices):
        slice_of[part.rows, part.views] = number
    read = slice_of.gather(1, passes.source.cpu())
    read = read.masked_fill(~passes.scored.any(-1).cpu(), -1).unflatten(1, (-1, views_per_unit))
    lowest = read.masked_fill(read < 0, len(slices)).amin(-1)
    return bool((read.amax(-1) > lowest).any())


def _pieces(views: list[int], views_per_draw: int, room: int) -> list[list[int]]:
    """The views of one sequence in pieces of at most `room`, cut between draws if possible."""
    pieces: list[list[int]] = []
    for _, draw in groupby(views, key=lambda view: view // views_per_draw):
        together = list(draw)
        if pieces and len(pieces[-1]) + len(together) <= room:
            pieces[-1] += together
        else:
            pieces += [together[start : start + room] for start in range(0, len(together), room)]
    return pieces


def _first_equal(rows: np.ndarray) -> Tensor:
    """For each of rows [B, M, bytes], the first of the same B with the same bytes: int64 [B, M]."""
    found = []
    for sequence in rows:
        first: dict[bytes, int] = {}
        found.append([first.setdefault(row.tobytes(), view) for view, row in enumerate(sequence)])
    return torch.tensor(found, dtype=torch.int64).view(rows.shape[:2])


def _over_tokens(source: Tensor, like: Tensor) -> Tensor:
    return source.unsqueeze(-1).expand_as(like)
