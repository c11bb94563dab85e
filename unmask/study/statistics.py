"""Interquartile means and their stratified bootstrap intervals (Agarwal et al., NeurIPS 2021).

Written for few runs: the interval is a percentile bootstrap over seeds, which for three seeds
cannot be wider than the spread of the three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

REPETITIONS = 20_000
LEVEL = 0.95


def interquartile_mean(scores: ArrayLike) -> Array:
    """Mean of the middle half: floor(n / 4) values are dropped at either end.

    Args:
        scores: [..., n].

    Returns:
        [...]; below four values the plain mean.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def mean(scores: ArrayLike) -> Array:
    """Mean over the last axis."""
    return np.asarray(np.asarray(scores, dtype=np.float64).mean(axis=-1))


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of all runs, resampled within each task.

    Args:
        strata: scores of the runs of each task; tasks may have different numbers of runs.
        statistic: from [repetitions, total runs] to [repetitions].
        repetitions: resamplings.
        seed: of the resampling.

    Raises:
        ValueError: if there is no task, or a task without a run.
    """
    arrays = [np.asarray(scores, dtype=np.float64) for scores in strata]
    if not arrays or any(len(scores) == 0 for scores in arrays):
        raise ValueError("no scores: an interval needs at least one run of each task")
    generator = np.random.default_rng(seed)
    drawn = [
        scores[generator.integers(len(scores), size=(repetitions, len(scores)))]
        for scores in arrays
    ]
    low, high = _percentiles(statistic(np.concatenate(drawn, axis=-1)))
    return float(low), float(high)


def bootstrap_band(
    curves: ArrayLike, *, repetitions: int = 2_000, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Mean curve over seeds and its 95 % pointwise bootstrap band; whole curves are resampled.

    Args:
        curves: [seeds, points].
        repetitions: resamplings.
        seed: of the resampling.

    Returns:
        Mean, lower and upper edge, [points] each.
    """
    values = np.asarray(curves, dtype=np.float64)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(values), size=(repetitions, len(values)))
    low, high = _percentiles(values[chosen].mean(axis=1))
    return values.mean(axis=0), low, high


def _percentiles(samples: Array) -> tuple[Array, Array]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(samples, [tail, 100 - tail], axis=0)
    return low, high
