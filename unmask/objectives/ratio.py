"""What every objective with a policy ratio reports of it, whatever its entries are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmask.objectives.base import Metric

if TYPE_CHECKING:
    from torch import Tensor


def ratio_metrics(log_ratio: Tensor, clipped: Tensor | None = None) -> dict[str, Metric]:
    """The ratio, how it is spread, how many samples it is worth, and how much of it is cut off.

    The effective sample size (sum w)^2 / (n sum w^2), w the ratio, is in (0, 1]: 1 where all
    entries weigh the same, 1 / n where a single one has all the weight (Kish 1965).

    Args:
        log_ratio: float, any shape: an entry per completion, draw or token, as the objective's
            ratio has.
        clipped: bool, the same shape, True where no gradient flows because the policy has moved
            far enough; None where the objective has no such bound.
    """
    log_ratio = log_ratio.detach()
    ratio = log_ratio.exp()
    metrics = {
        "ratio": Metric(ratio),
        "ratio_min": Metric(ratio, "min"),
        "ratio_max": Metric(ratio, "max"),
        "log_ratio": Metric(log_ratio, "quantiles"),
        "effective_sample_size": Metric(log_ratio, "effective_sample_size"),
    }
    if clipped is not None:
        metrics["clip_fraction"] = Metric(clipped.double())
    return metrics
