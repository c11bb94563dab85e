"""What a round does about a sampler that is not the policy: measure it, and weigh its samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unmask.config import MismatchConfig
from unmask.sampling.mismatch import Probe, effective_sample_size, log_weights
from unmask.sampling.sampler import Proposer, Samples
from unmask.sampling.settings import Sampler


class Mismatch:
    """Watches one round of sampling.

    Args:
        settings: what to do.
        sampler: of the round.
        seeds: of the completions.
    """

    def __init__(self, settings: MismatchConfig, sampler: Sampler, seeds: Sequence[int]) -> None:
        self._settings, self._sampler = settings, sampler
        wanted = sampler.approximate and settings.states > 0
        self.probe = Probe(settings.states, torch.tensor(seeds)) if wanted else None
        self._log_weights: Tensor | None = None

    def weights(
        self,
        proposer: Proposer,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        samples: Samples,
        max_tokens: int,
    ) -> Tensor | None:
        """min(w, truncate) of every completion, float32 [B], or None where none are wanted.

        Truncation is that of Ionides (J. Comp. Graph. Stat. 2008).

        Args:
            proposer: the model that wrote the samples.
            prompt_ids: int64 [B, P].
            prompt_mask: [B, P].
            samples: of any device.
            max_tokens: padded tokens of one pass.
        """
        by = self._settings.weights
        if by == "none":
            return None
        device = prompt_ids.device
        there = {name: value.to(device) for name, value in samples.tensors.items()}
        self._log_weights = log_weights(
            proposer,
            prompt_ids,
            prompt_mask,
            replace(samples, **there),  # type: ignore[arg-type]
            self._sampler,
            by=by,
            max_tokens=max_tokens,
        )
        return self._log_weights.clamp(max=math.log(self._settings.truncate)).exp()

    def measure(
        self, proposer: Proposer, prompt_ids: Tensor, prompt_mask: Tensor, max_tokens: int
    ) -> dict[str, list[float]]:
        """Values per probed token, and `log_weight` per completion, for `summarise_mismatch`."""
        found: dict[str, Tensor] = {}
        if self.probe is not None:
            found = self.probe.measure(proposer, prompt_ids, prompt_mask, self._sampler, max_tokens)
        if self._log_weights is not None:
            found["log_weight"] = self._log_weights
            found["truncated"] = self._log_weights > math.log(self._settings.truncate)
        return {name: values.tolist() for name, values in found.items()}


def summarise_mismatch(ranks: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """Metrics of a round from what `Mismatch.measure` found on every rank.

    Returns:
        `mismatch/kl_step` and `kl_token`, means in nats per token; `ess_step` and `ess_token`, the
        effective sample size of the probed tokens' weights; `weight_ess` and `weight_truncated`
        of the completions, the latter a fraction.
    """
    values: dict[str, Tensor] = {}
    for name in {name for rank in ranks for name in rank}:
        joined = [value for rank in ranks for value in rank.get(name, [])]
        values[name] = torch.tensor(joined, dtype=torch.float64)
    means = {"kl_step": "kl_step", "kl_token": "kl_token", "weight_truncated": "truncated"}
    sizes = {
        "ess_step": "log_ratio_step",
        "ess_token": "log_ratio_token",
        "weight_ess": "log_weight",
    }
    found = {key: values[name].mean().item() for key, name in means.items() if name in values}
    found |= {
        key: effective_sample_size(values[name]) for key, name in sizes.items() if name in values
    }
    return {f"mismatch/{key}": value for key, value in sorted(found.items())}
