"""The sampler's random numbers: SplitMix64 over (seed, stream, step, position), nothing else."""

import pytest
import torch

from unmask.sampling.noise import uniform

GOLDEN, BITS = 0x9E3779B97F4A7C15, 2**64


def mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) in unbounded integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % BITS
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % BITS
    return value ^ (value >> 31)


def number(seed: int, step: int, position: int, stream: int = 0) -> float:
    state = mix((seed + (stream + 1) * GOLDEN) % BITS)
    state = mix((state + (step + 1) * GOLDEN) % BITS)
    state = mix((state + (position + 1) * GOLDEN) % BITS)
    return (state >> 40) / 2**24


def grid(seeds: list[int], step: int, positions: list[int], stream: int = 0) -> torch.Tensor:
    rows = torch.tensor([positions] * len(seeds))
    return uniform(torch.tensor(seeds), step, rows, stream)


def test_the_restatement_is_splitmix64() -> None:
    # The published generator's first outputs for the seed 1234567.
    outputs = [mix((1234567 + i * GOLDEN) % BITS) for i in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("step", [0, 1, 511])
def test_numbers_are_splitmix64_of_their_counters(step: int, stream: int) -> None:
    seeds = [0, 1, 42, 2**62 + 12345, 2**63 - 1]
    positions = [0, 1, 2, 255, 4095]
    expected = [[number(seed, step, p, stream) for p in positions] for seed in seeds]
    assert grid(seeds, step, positions, stream).tolist() == expected


def test_numbers_stay_what_they_were() -> None:
    values = grid([0, 42], 3, [0, 7]) * 2**24
    assert values.tolist() == [[13476833, 6590039], [2261236, 1946172]]


def test_numbers_lie_in_the_half_open_unit_interval() -> None:
    values = grid(list(range(400)), 0, list(range(1000)))
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() <= 1 - 2.0**-24
    assert torch.equal(values * 2**24, (values * 2**24).round())


def test_numbers_are_uniform() -> None:
    values = grid(list(range(400)), 5, list(range(1000))).double()
    # Standard errors of mean and of the counts of 16 bins for 400,000 uniform numbers.
    assert abs(values.mean() - 0.5) < 4 * 0.2887 / 400_000**0.5
    counts = torch.histc(values, bins=16, min=0, max=1)
    statistic = ((counts - 25_000) ** 2 / 25_000).sum().item()
    assert statistic < 15 + 4 * (2 * 15) ** 0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (((0,), 0, 0), ((1,), 0, 0)),  # neighbouring seeds
        (((7,), 0, 0), ((7,), 1, 0)),  # neighbouring steps
        (((7,), 0, 0), ((7,), 0, 1)),  # token and order noise
        (((7,), 1, 0), ((7,), 0, 1)),  # a step must not be taken for a stream
    ],
)
def test_streams_are_uncorrelated(first: tuple, second: tuple) -> None:
    positions = list(range(20_000))
    a, b = (
        grid(list(seeds), step, positions, stream).double().flatten() - 0.5
        for seeds, step, stream in (first, second)
    )
    correlation = (a * b).mean() / (a.std() * b.std())
    assert abs(correlation) < 4 / 20_000**0.5


def test_neighbouring_positions_are_uncorrelated() -> None:
    values = grid([3], 0, list(range(20_001))).double().flatten() - 0.5
    correlation = (values[1:] * values[:-1]).mean() / values.var()
    assert abs(correlation) < 4 / 20_000**0.5


def test_a_row_depends_neither_on_its_batch_nor_on_the_other_positions() -> None:
    seeds, positions = [5, 9, 13], [2, 3, 11]
    together = grid(seeds, 4, positions)
    for row, seed in enumerate(seeds):
        for column, position in enumerate(positions):
            assert grid([seed], 4, [position]).item() == together[row, column]


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    grid([1, 2], 0, [0, 1])
    assert torch.equal(torch.get_rng_state(), before)
