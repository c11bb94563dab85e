"""Advantages against numbers worked out by hand, and what unscored rewards and ties do."""

import math

import pytest
import torch

from unmask.advantages import (
    ADVANTAGES,
    group_mean,
    group_norm,
    leave_one_out,
    maxrl,
    rloo_scaled,
    zero_std_fraction,
)

NAN = math.nan


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


# Two groups of 3: rewards 1, 2, 6 (mean 3, sample variance (4+1+9)/2 = 7) and 0, 0, 3 (mean 1,
# sample variance (1+1+4)/2 = 3). Leave one out: 1 - (2+6)/2 = -3, 2 - 7/2, 6 - 3/2; and
# 0 - 3/2, 0 - 3/2, 3 - 0.
REWARDS = float64(1, 2, 6, 0, 0, 3)
CENTRED = float64(-2, -1, 3, -1, -1, 2)
OTHERS = float64(-3, -1.5, 4.5, -1.5, -1.5, 3)
SAMPLE_STD = float64(7, 7, 7, 3, 3, 3).sqrt()
POPULATION_STD = float64(14 / 3, 14 / 3, 14 / 3, 2, 2, 2).sqrt()


@pytest.mark.parametrize(
    ("advantage", "options", "expected"),
    [
        (leave_one_out, {}, OTHERS),
        (group_mean, {}, CENTRED),
        (group_norm, {}, CENTRED / (SAMPLE_STD + 1e-4)),
        (group_norm, {"eps": 1e-6}, CENTRED / (SAMPLE_STD + 1e-6)),
        (group_norm, {"eps": 0.0, "unbiased": False}, CENTRED / POPULATION_STD),
        (rloo_scaled, {}, OTHERS / (SAMPLE_STD + 1e-4)),
        (rloo_scaled, {"eps": 0.5}, OTHERS / (SAMPLE_STD + 0.5)),
        (maxrl, {}, float64(-2 / 3, -1 / 3, 1, -1, -1, 2)),
    ],
)
def test_advantages_equal_the_hand_computed_ones(advantage, options, expected):
    result = advantage(REWARDS, 3, **options)
    torch.testing.assert_close(result, expected, rtol=1e-14, atol=0)


def test_a_reward_that_is_not_scored_counts_in_no_statistic():
    # Scored: 1, 3 of the first group and 2, 4, 6 of the second.
    rewards = float64(1, NAN, 3, NAN, 2, 4, NAN, 6)
    std = math.sqrt(2)
    expected = {
        "leave_one_out": float64(-2, 0, 2, 0, -3, 0, 0, 3),
        "group_mean": float64(-1, 0, 1, 0, -2, 0, 0, 2),
        "group_norm": float64(
            -1 / (std + 1e-4), 0, 1 / (std + 1e-4), 0, -2 / (2 + 1e-4), 0, 0, 2 / (2 + 1e-4)
        ),
        "rloo_scaled": float64(
            -2 / (std + 1e-4), 0, 2 / (std + 1e-4), 0, -3 / (2 + 1e-4), 0, 0, 3 / (2 + 1e-4)
        ),
        "maxrl": float64(-0.5, 0, 0.5, 0, -0.5, 0, 0, 0.5),
    }
    for name, advantage in ADVANTAGES.items():
        torch.testing.assert_close(advantage(rewards, 4), expected[name], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ADVANTAGES)
def test_equal_rewards_give_exactly_zero(name, dtype):
    # 0.1 * 7 / 7 is not 0.1 in floating point.
    for value in (0.0, 0.1, 1 / 3, 0.7, 1.0):
        for size in range(2, 17):
            equal = torch.full((2 * size,), value, dtype=dtype)
            equal[0] = NAN
            assert not ADVANTAGES[name](equal, size).any()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_lone_or_missing_score_gives_zero(name):
    rewards = float64(5, NAN, NAN, NAN, NAN, NAN)
    assert ADVANTAGES[name](rewards, 3).tolist() == [0] * 6


@pytest.mark.parametrize("name", ADVANTAGES)
def test_groups_do_not_mix(name):
    advantage = ADVANTAGES[name]
    parts = [advantage(REWARDS[:3], 3), advantage(REWARDS[3:], 3)]
    assert torch.equal(advantage(REWARDS, 3), torch.cat(parts))


@pytest.mark.parametrize("name", ["leave_one_out", "group_mean", "group_norm", "rloo_scaled"])
def test_adding_a_constant_to_every_reward_changes_nothing(name):
    advantage = ADVANTAGES[name]
    torch.testing.assert_close(
        advantage(REWARDS - 50, 3), advantage(REWARDS, 3), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e300])
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_size_of_the_rewards_does_not_matter_without_eps(size, unbiased):
    rewards = torch.tensor([1.0, 0.0, 3.0, math.nan], dtype=torch.float64)
    found = group_norm(size * rewards, 4, eps=0.0, unbiased=unbiased)
    torch.testing.assert_close(found, group_norm(rewards, 4, eps=0.0, unbiased=unbiased))
    assert found.isfinite().all()
    assert found.abs().max() > 1


def test_maxrl_weighs_a_hard_prompt_more_and_gives_zero_for_an_unsolved_one():
    # One of four solved: 1 / (1/4) - 1 = 3; three of four: 1 / (3/4) - 1 = 1/3.
    rewards = float64(1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0)
    expected = float64(3, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1, 0, 0, 0, 0)
    torch.testing.assert_close(maxrl(rewards, 4), expected, rtol=1e-14, atol=0)


def test_maxrl_refuses_negative_rewards():
    with pytest.raises(ValueError, match=r"reward of -0\.5: rewards must not be negative"):
        maxrl(float64(1, -0.5), 2)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_group_of_one_is_refused(name):
    with pytest.raises(ValueError, match="group_size=1 is too small"):
        ADVANTAGES[name](float64(1, 2), 1)


@pytest.mark.parametrize("advantage", [*ADVANTAGES.values(), zero_std_fraction])
def test_rewards_that_do_not_split_into_groups_are_refused(advantage):
    with pytest.raises(ValueError, match="5 rewards do not split into groups of 2"):
        advantage(float64(1, 2, 3, 4, 5), 2)


def test_zero_std_fraction_counts_groups_without_a_difference():
    # Equal; different; equal among the scored; one scored; none scored; different beside a NaN.
    rewards = float64(2, 2, 2, 1, 2, 2, 3, NAN, 3, NAN, 1, NAN, NAN, NAN, NAN, 0, NAN, 1)
    assert zero_std_fraction(rewards, 3) == pytest.approx(4 / 6, abs=1e-15)
    assert zero_std_fraction(float64(1, 2), 1) == 1
