"""The entropy of the distribution that each token of a rollout was revealed from."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.sampling.orders import entropies
from unmask.sampling.sampler import Reveal


class Entropies:
    """An `on_reveal` of the sampler.

    Attributes:
        values: float32 [B, L] in nats, at temperature 1 over all tokens; 0 where none was revealed.
    """

    def __init__(self, batch: int, length: int, device: torch.device) -> None:
        self.values: Tensor = torch.zeros(batch, length, device=device)

    def __call__(self, reveal: Reveal) -> None:
        """Look at one denoising step."""
        rows, spots = reveal.revealed.nonzero(as_tuple=True)
        logits = reveal.logits(reveal.index[rows, spots])
        places = reveal.flight.rows[rows], reveal.window[rows, spots]
        self.values[places] = entropies(logits.log_softmax(-1))
