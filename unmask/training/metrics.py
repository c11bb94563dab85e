"""Metrics of an optimizer step, reduced over micro-batches and ranks as each one declares."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator

from unmask.objectives.base import Metric


def reduce_metrics(metrics: Mapping[str, Metric], accelerator: Accelerator) -> dict[str, float]:
    """Each metric's value over all ranks, NaN for the mean of nothing.

    Every rank must hold the same names.

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
        else:
            # An empty rank must not win.
            bound = torch.inf if metric.reduction == "min" else -torch.inf
            padded = torch.cat([values, values.new_full((1,), bound)])
            local = padded.amin() if metric.reduction == "min" else padded.amax()
            gathered = accelerator.gather(local.unsqueeze(0))
            best = gathered.amin() if metric.reduction == "min" else gathered.amax()
            result[name] = best.item()
    return result
