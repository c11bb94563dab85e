"""Counter-based uniform numbers: a pure function of (sequence seed, step, position).

A sequence's tokens therefore do not depend on its batch mates, its place in the batch, the device
or the number of processes, and no generator state has to be saved.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform(seeds: Tensor, step: int | Tensor, positions: Tensor, stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) by SplitMix64 (Steele et al., OOPSLA 2014), chained over counters.

    Args:
        seeds: int64 [N], one per sequence.
        step: the denoising step, one number or int64 [N].
        positions: int64 [N, K], positions in the completion.
        stream: separates uses that share seed, step and position.

    Returns:
        float32 [N, K], multiples of 2**-24.
    """
    steps = torch.as_tensor(step, dtype=torch.int64, device=seeds.device)
    first = _mix(seeds + torch.tensor(stream + 1, device=seeds.device) * _GOLDEN)
    key = _mix(first + (steps + 1) * _GOLDEN).unsqueeze(-1)
    bits = _mix(key + (positions.to(torch.int64) + 1) * _GOLDEN)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 shifts in torch carry the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
