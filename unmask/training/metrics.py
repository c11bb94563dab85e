"""Metrics of an optimizer step, reduced over micro-batches and ranks as each one declares."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from unmask.objectives.base import Metric

# In percent.
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def reduce_metrics(metrics: Mapping[str, Metric], accelerator: Accelerator) -> dict[str, float]:
    """Each metric's value over all ranks, NaN for the mean of nothing.

    "quantiles" gives several: NAME_q0, NAME_q5, and so on up to NAME_q100. Every rank must hold
    the same names.

    Args:
        metrics: this rank's values.
        accelerator: exchanges them.
    """
    result = {}
    for name, metric in metrics.items():
        values = metric.values.detach().double().flatten()
        if metric.reduction in ("mean", "sum"):
            pair = torch.stack([values.sum(), values.new_tensor(float(values.numel()))])
            total, count = accelerator.reduce(pair, reduction="sum").tolist()
            mean = total / count if count else math.nan
            result[name] = mean if metric.reduction == "mean" else total
        elif metric.reduction == "quantiles":
            found = _quantiles(values, accelerator)
            result |= {f"{name}_q{q}": value for q, value in zip(QUANTILES, found, strict=True)}
        elif metric.reduction == "effective_sample_size":
            result[name] = _effective_sample_size(values, accelerator)
        else:
            # An empty rank must not win.
            bound = torch.inf if metric.reduction == "min" else -torch.inf
            padded = torch.cat([values, values.new_full((1,), bound)])
            local = padded.amin() if metric.reduction == "min" else padded.amax()
            gathered = accelerator.gather(local.unsqueeze(0))
            best = gathered.amin() if metric.reduction == "min" else gathered.amax()
            result[name] = best.item()
    return result


def _quantiles(values: Tensor, accelerator: Accelerator) -> list[float]:
    """Quantiles of the entries of all ranks, interpolated between neighbours; NaN of nothing."""
    # Ranks hold different numbers of entries; what fills them up is sorted behind everything.
    count = accelerator.reduce(values.new_tensor([float(values.numel())]), reduction="sum").item()
    filled = accelerator.pad_across_processes(values, pad_index=math.nan)
    ordered = accelerator.gather(filled).sort().values
    if not count:
        return [math.nan] * len(QUANTILES)
    places = torch.tensor(QUANTILES, dtype=values.dtype, device=values.device) * (count - 1) / 100
    below, above = ordered[places.floor().long()], ordered[places.ceil().long()]
    return below.lerp(above, places.frac()).tolist()


def _effective_sample_size(log_weights: Tensor, accelerator: Accelerator) -> float:
    """(sum w)^2 / (n sum w^2) over the entries of all ranks, in logarithms; NaN of nothing."""
    sums = [log_weights.logsumexp(0), (2 * log_weights).logsumexp(0)]
    mine = torch.stack([*sums, log_weights.new_tensor(float(log_weights.numel()))])
    total, squares, counts = accelerator.gather(mine.unsqueeze(0)).unbind(1)
    if not counts.sum():
        return math.nan
    return ((2 * total.logsumexp(0) - squares.logsumexp(0)).exp() / counts.sum()).item()
