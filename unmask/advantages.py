"""Rewards of a group of completions of one prompt -> advantages.

Every function takes rewards [B] with the G completions of a prompt side by side, and returns
advantages [B]. A reward of NaN means "not scored": that completion counts in no statistic and
gets advantage 0, as does one that has no scored companion, and a group of equal rewards.
"""

from __future__ import annotations

import torch
from torch import Tensor


def leave_one_out(rewards: Tensor, group_size: int) -> Tensor:
    """A_i = r_i - mean of the other rewards of the group (RLOO, arXiv 2402.14740; ESPO)."""
    groups, scored, count = _split(rewards, group_size, at_least=2)
    others = (groups.sum(1, keepdim=True) - groups) / (count - 1).clamp(min=1)
    return _join(groups - others, groups, scored)


def group_mean(rewards: Tensor, group_size: int) -> Tensor:
    """A_i = r_i - mean of the group (Dr. GRPO, arXiv 2503.20783; d1, wd1, SPG)."""
    groups, scored, count = _split(rewards, group_size, at_least=2)
    return _join(groups - _mean(groups, count), groups, scored)


def group_norm(
    rewards: Tensor, group_size: int, *, eps: float = 1e-4, unbiased: bool = True
) -> Tensor:
    """A_i = (r_i - mean) / (std + eps) (GRPO, arXiv 2402.03300).

    Args:
        rewards: float [B], NaN = not scored.
        group_size: G.
        eps: added to the standard deviation (1e-4 in TRL, 1e-6 in verl and BGPO).
        unbiased: sample standard deviation (divides by G-1), else the population's.
    """
    groups, scored, count = _split(rewards, group_size, at_least=2)
    centred = groups - _mean(groups, count)
    return _join(centred / (_std(centred, scored, count, unbiased) + eps), groups, scored)


def rloo_scaled(rewards: Tensor, group_size: int, *, eps: float = 1e-4) -> Tensor:
    """Leave-one-out divided by (sample std + eps): ESPO's release with `scale_rewards`."""
    groups, scored, count = _split(rewards, group_size, at_least=2)
    centred = groups - _mean(groups, count)
    # r_i - mean of the others = (r_i - mean) * n / (n - 1)
    scaled = centred * count / (count - 1).clamp(min=1)
    return _join(scaled / (_std(centred, scored, count, True) + eps), groups, scored)


def maxrl(rewards: Tensor, group_size: int) -> Tensor:
    """A_i = (r_i - mean) / mean for rewards in [0, 1], 0 where the mean is 0 (arXiv 2602.02710).

    Raises:
        ValueError: if a reward is below 0.
    """
    groups, scored, count = _split(rewards, group_size, at_least=2)
    if (groups < 0).any():
        raise ValueError(
            f"maxrl got a reward of {groups.min().item():g}: rewards must not be negative; "
            "shift them or choose another advantage"
        )
    mean = _mean(groups, count)
    return _join((groups - mean) / mean.masked_fill(mean == 0, 1.0), groups, scored)


ADVANTAGES = {
    "leave_one_out": leave_one_out,
    "group_mean": group_mean,
    "group_norm": group_norm,
    "rloo_scaled": rloo_scaled,
    "maxrl": maxrl,
}


def zero_std_fraction(rewards: Tensor, group_size: int) -> float:
    """Fraction of groups whose scored rewards are all equal, so that nothing is learnt from them.

    Args:
        rewards: float [B], NaN = not scored.
        group_size: G.
    """
    groups, scored, _ = _split(rewards, group_size, at_least=1)
    return (~_differ(groups, scored)).double().mean().item()


def _split(rewards: Tensor, group_size: int, at_least: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards [N, G] with 0 for unscored ones, scored [N, G], and the count scored [N, 1]."""
    if group_size < at_least:
        raise ValueError(
            f"group_size={group_size} is too small: this advantage compares the completions of "
            f"one prompt, so sample at least {at_least} (num_generations)"
        )
    if rewards.numel() % group_size:
        raise ValueError(
            f"{rewards.numel()} rewards do not split into groups of {group_size}: "
            "give a multiple of group_size"
        )
    groups = rewards.reshape(-1, group_size)
    scored = ~groups.isnan()
    return groups.nan_to_num(0.0), scored, scored.sum(1, keepdim=True)


def _mean(groups: Tensor, count: Tensor) -> Tensor:
    return groups.sum(1, keepdim=True) / count.clamp(min=1)


def _std(centred: Tensor, scored: Tensor, count: Tensor, unbiased: bool) -> Tensor:
    # Scaled, so that the squares of huge and of tiny rewards neither overflow nor vanish.
    scale = (centred * scored).abs().amax(1, keepdim=True)
    scale = scale.masked_fill(scale == 0, 1.0)
    squares = ((centred / scale).square() * scored).sum(1, keepdim=True)
    return scale * (squares / (count - int(unbiased)).clamp(min=1)).sqrt()


def _differ(groups: Tensor, scored: Tensor) -> Tensor:
    """Bool [N, 1], whether the scored rewards of a group are not all equal."""
    highest = groups.masked_fill(~scored, -torch.inf).amax(1, keepdim=True)
    lowest = groups.masked_fill(~scored, torch.inf).amin(1, keepdim=True)
    return highest > lowest


def _join(values: Tensor, groups: Tensor, scored: Tensor) -> Tensor:
    # The mean of equal rewards need not equal them in floating point, so their 0 is set.
    return values.masked_fill(~(scored & _differ(groups, scored)), 0.0).flatten()
