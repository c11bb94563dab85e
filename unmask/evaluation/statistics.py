"""Rates with 95 % intervals, pass@k, majority votes and the paired test of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

# 97.5 % quantile of the normal distribution.
Z_95 = 1.959963984540054


def wilson(successes: float, count: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson, JASA 1927).

    Args:
        successes: number of successes.
        count: number of trials, at least 1.

    Returns:
        Lower and upper bound in [0, 1].
    """
    rate, z2 = successes / count, Z_95**2
    centre = rate + z2 / (2 * count)
    half = Z_95 * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count * count))
    scale = 1 + z2 / count
    # Rounding must not put the bounds of no and of all successes inside (0, 1).
    low = (centre - half) / scale if successes > 0 else 0.0
    high = (centre + half) / scale if successes < count else 1.0
    return low, high


def rate_interval(rates: Sequence[float], samples: int = 1) -> tuple[float, float, float]:
    """Mean over problems with its 95 % interval; problems are the independent units.

    The interval is Wilson's at the effective number of trials m (1 - m) / Var[mean], the design
    effect of samples that share a problem (Korn and Graubard, Survey Methodology 1998). With one
    sample per problem that is Wilson's own.

    Args:
        rates: one value in [0, 1] per problem, at least one.
        samples: answers behind each value, which bound the effective number.

    Returns:
        Mean, lower and upper bound.
    """
    count = len(rates)
    mean = math.fsum(rates) / count
    variance = math.fsum((rate - mean) ** 2 for rate in rates) / count / count
    # Without any spread nothing tells how much a problem's answers hang together: count each once.
    trials = min(count * samples, mean * (1 - mean) / variance) if variance > 1e-15 else count
    return mean, *wilson(mean * trials, trials)


def pass_at_k(count: int, correct: int, k: int) -> float:
    """Probability that at least one of k answers is right, 1 - C(n - c, k) / C(n, k).

    The unbiased estimate from n answers of which c are right (Codex, arXiv 2107.03374).

    Raises:
        ValueError: if k is below 1 or above n.
    """
    if not 1 <= k <= count:
        raise ValueError(f"k={k} with {count} answers per problem: choose k from 1 to {count}")
    return 1.0 - math.comb(count - correct, k) / math.comb(count, k)


def majority(answers: Sequence[str | None], solved: Sequence[float]) -> float:
    """Whether the most frequent answer is right; of equally frequent ones, the fraction.

    Args:
        answers: normalised, None = none was given, which has no vote.
        solved: 1.0 or 0.0 for each.
    """
    votes: dict[str, list[float]] = {}
    for answer, right in zip(answers, solved, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(right)
    if not votes:
        return 0.0
    most = max(map(len, votes.values()))
    winners = [math.fsum(rights) / most for rights in votes.values() if len(rights) == most]
    return math.fsum(winners) / len(winners)


def majority_at_k(answers: Sequence[str | None], solved: Sequence[float], k: int) -> float:
    """Mean of `majority` over the disjoint groups of k answers, an unbiased estimate.

    Raises:
        ValueError: if there are fewer than k answers.
    """
    groups = range(0, len(answers) - k + 1, k)
    if not groups:
        raise ValueError(f"k={k} with {len(answers)} answers: choose at most {len(answers)}")
    votes = [majority(answers[start : start + k], solved[start : start + k]) for start in groups]
    return math.fsum(votes) / len(votes)


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p-value of the paired test (McNemar, Psychometrika 1947).

    Under equal accuracy each problem that only one model solves is a fair coin.

    Args:
        won: problems that only the second model solves.
        lost: problems that only the first model solves.
    """
    count = won + lost
    tail = sum(math.comb(count, value) for value in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**count)


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean difference over problems and its 95 % normal interval, within [-1, 1].

    Args:
        differences: second minus first rate of each problem, at least one.
    """
    count = len(differences)
    mean = math.fsum(differences) / count
    spread = math.fsum((value - mean) ** 2 for value in differences) / max(1, count - 1)
    half = Z_95 * math.sqrt(spread / count)
    return mean, max(-1.0, mean - half), min(1.0, mean + half)
