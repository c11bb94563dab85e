"""The reference policy: the policy as it was when the run began, or at the last sync."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmask.models.policy import Policy


class Reference:
    """Gives a module that evaluates log-probabilities under the reference policy.

    On full fine-tuning the reference is a frozen copy of the network. Under LoRA it is the base
    with adapters off; once that is not where the policy came from (adapters that were trained
    before, or a sync), it is the base with a frozen copy of the adapters.

    Args:
        policy: as loaded, before the first update.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.copy: nn.Module | None = None
        self._adapters: dict[str, Tensor] = {}
        if not policy.has_adapters:
            self.copy = copy.deepcopy(policy.denoiser).eval().requires_grad_(False)
        elif policy.trained_adapters:
            self.sync()

    @contextmanager
    def active(self, model: nn.Module) -> Iterator[nn.Module]:
        """The module to call in place of `model`, the (wrapped) policy; for use without a graph."""
        if self.copy is not None:
            yield self.copy
        elif not self._adapters:
            with self._policy.without_adapters():
                yield model
        else:
            current = self._current_adapters()
            self._put(self._adapters)
            try:
                yield model
            finally:
                self._put(current)

    @torch.no_grad()
    def sync(self) -> None:
        """Make the reference equal to the current policy."""
        if self.copy is not None:
            self.copy.load_state_dict(self._policy.denoiser.state_dict())
        else:
            self._adapters = self._current_adapters()

    def state(self) -> dict[str, Tensor]:
        """Weights of the frozen copy; empty where the reference is the base alone."""
        return self._adapters if self.copy is None else self.copy.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """The reverse of `state`."""
        if self.copy is not None:
            self.copy.load_state_dict(state)
        else:
            self._adapters = {
                name: state[name].to(parameter.device)
                for name, parameter in self._trainable().items()
                if state
            }

    def _trainable(self) -> dict[str, nn.Parameter]:
        parameters = self._policy.denoiser.named_parameters()
        return {name: parameter for name, parameter in parameters if parameter.requires_grad}

    def _current_adapters(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._trainable().items()}

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._trainable().items():
            parameter.copy_(values[name])
