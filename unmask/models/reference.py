"""The reference policy: the base model with adapters off, or a frozen copy of the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmask.models.policy import Policy


class Reference:
    """Gives a module that evaluates log-probabilities under the reference policy.

    Under LoRA no weight is copied: the reference is the base with adapters off. On full
    fine-tuning it is a frozen copy, which `sync` replaces by the current policy.

    Args:
        policy: as loaded, before the first update.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.copy: nn.Module | None = None
        if not policy.has_adapters:
            self.copy = copy.deepcopy(policy.denoiser).eval().requires_grad_(False)

    @contextmanager
    def active(self, model: nn.Module) -> Iterator[nn.Module]:
        """The module to call in place of `model`, the (wrapped) policy."""
        if self.copy is not None:
            yield self.copy
        else:
            with self._policy.without_adapters():
                yield model

    @torch.no_grad()
    def sync(self) -> None:
        """Make the frozen copy equal to the current policy; nothing to do under LoRA."""
        if self.copy is not None:
            self.copy.load_state_dict(self._policy.denoiser.state_dict())

    def state(self) -> dict[str, Tensor]:
        """Weights of the frozen copy; empty under LoRA."""
        return {} if self.copy is None else self.copy.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """The reverse of `state`."""
        if self.copy is not None:
            self.copy.load_state_dict(state)
