"""Objectives that weigh likelihoods instead of ratios (wd1, SPG, DMPO), and the upper bound."""

import math
from dataclasses import replace

import pytest
import torch
from objective_cases import (
    NAN,
    PROBABILITY,
    WEIGHT,
    assert_close,
    case,
    derivative,
    float64,
    gradcheck,
)

from unmask.likelihood import eubo
from unmask.objectives import DMPO, SPG, WD1, Totals

LOG2 = math.log(2)
# Views in units of -log 2. Completion 0: 1 + 2 = 3 and 1; completion 1: 2 and 1 + 3 = 4.
SUMS = [(3 + 1) / 2, (2 + 4) / 2]
MEANS = [(1.5 + 1) / 2, (2 + 2) / 2]


def test_wd1_weighs_sums_by_the_difference_of_two_softmaxes():
    inputs = case(advantages=(0.5, -0.5), ref_ratio=None)
    # w+ = softmax(0.5, -0.5) and w- the other way round: w+ - w- = tanh(0.5), -tanh(0.5).
    # loss = sum (w- - w+) S with S = -2 log 2 and -3 log 2.
    assert_close(WD1()(inputs).loss, math.tanh(0.5) * LOG2 * (SUMS[0] - SUMS[1]))
    slope = float64([-math.tanh(0.5), math.tanh(0.5)])[:, None, None] / 2
    assert_close(derivative(WD1(), inputs), (WEIGHT > 0) * slope)


def test_wd1_sharpens_its_weights_by_psi():
    inputs = case(advantages=(0.5, -0.5))
    assert_close(WD1(psi=3.0)(inputs).loss, math.tanh(1.5) * LOG2 * (SUMS[0] - SUMS[1]))


def test_wd1_by_mean_divides_by_the_number_of_tokens():
    inputs = case(advantages=(0.5, -0.5))
    objective = WD1(reduction="mean")
    assert_close(objective(inputs).loss, math.tanh(0.5) * LOG2 * (MEANS[0] - MEANS[1]))
    share = float64([[[1 / 2, 1 / 2, 0], [0, 0, 1]], [[1, 0, 0], [0, 1 / 2, 1 / 2]]]) / 2
    sign = float64([-1, 1])[:, None, None]
    assert_close(derivative(objective, inputs), sign * math.tanh(0.5) * share)


def test_wd1_averages_over_groups():
    inputs = case(advantages=(0.5, -0.5), totals=Totals(6, 18, 15, 6))
    assert_close(WD1()(inputs).loss, math.tanh(0.5) * LOG2 * (SUMS[0] - SUMS[1]) / 3)


def test_wd1_learns_nothing_from_a_group_of_equal_rewards():
    assert not derivative(WD1(), case(advantages=(0.0, 0.0))).any()


def test_wd1_leaves_unscored_completions_out_of_both_softmaxes():
    for row in (0, 1):
        rewards = [1.0, 1.0]
        rewards[row] = NAN
        inputs = case(advantages=(0.0, 0.0), rewards=rewards, totals=Totals(1, 6, 5, 1))
        assert not derivative(WD1(), inputs).any()
    nobody = case(advantages=(0.0, 0.0), rewards=(NAN, NAN))
    for objective in (WD1(), DMPO()):
        assert objective(nobody).loss == 0
        assert not derivative(objective, nobody).any()


def test_dmpo_weighs_cross_entropies_by_reward_and_reference():
    prior = float64([0.2, -0.4])
    inputs = case(rewards=(0.04, 0.0), log_ref_ratio=prior, ref_ratio=None)
    # r / alpha = 1 and 0: w+ = softmax(1.2, -0.4), w- = softmax(-0.8, -0.4).
    up, down = 1 / (1 + math.exp(-1.6)), 1 / (1 + math.exp(0.4))
    shift = up - down
    # CE = 1.25 log 2 and 2 log 2, means of the views' means.
    assert_close(DMPO()(inputs).loss, shift * LOG2 * (MEANS[0] - MEANS[1]))
    share = float64([[[1 / 2, 1 / 2, 0], [0, 0, 1]], [[1, 0, 0], [0, 1 / 2, 1 / 2]]]) / 2
    sign = float64([-1, 1])[:, None, None]
    assert_close(derivative(DMPO(), inputs), sign * shift * share)
    # alpha 0.08: w+ = softmax(0.7, -0.4), w- = softmax(-0.3, -0.4).
    shift = 1 / (1 + math.exp(-1.1)) - 1 / (1 + math.exp(-0.1))
    assert_close(DMPO(alpha=0.08)(inputs).loss, shift * LOG2 * (MEANS[0] - MEANS[1]))


def test_dmpo_without_a_ratio_takes_the_reference_for_the_old_policy():
    inputs = case(rewards=(0.04, 0.0))
    given = replace(inputs, log_ref_ratio=float64([0.0, 0.0]))
    assert_close(DMPO()(inputs).loss, DMPO()(given).loss.detach())
    # w+ - w- = sigmoid(1) - sigmoid(-1)
    assert_close(DMPO()(inputs).loss, math.tanh(0.5) * LOG2 * (MEANS[0] - MEANS[1]))


def test_dmpo_reads_differences_of_rewards_only():
    shifted = case(rewards=(1.04, 1.0))
    torch.testing.assert_close(DMPO()(shifted).loss, DMPO()(case(rewards=(0.04, 0.0))).loss)


def test_dmpo_averages_over_groups_and_skips_views_that_hide_nothing():
    weight = WEIGHT.clone()
    weight[1, 0] = 0
    inputs = case(weight=weight, rewards=(0.04, 0.0), totals=Totals(6, 18, 15, 6))
    # Completion 1 has one view left, of mean 2.
    assert_close(DMPO()(inputs).loss, math.tanh(0.5) * LOG2 * (MEANS[0] - 2) / 3)


def test_eubo_is_the_mean_log_of_mean_powers():
    scored = torch.tensor([[[True, True, False], [True, False, False]]])
    p = float64([[[0.5, 0.25, NAN], [0.125, NAN, NAN]]])
    # len 4: t = 2/4 and 1/4. b = 1: token 0: mean of 0.5 / 0.5 and 0.125 / 0.25 = 0.75; token 1:
    # mean of 0.25 / 0.5 and 0 = 0.25.
    value = eubo(p.log(), scored, torch.tensor([4]), 1.0)
    assert_close(value, [(math.log(0.75) + math.log(0.25)) / 2])
    # b = 2: (0.25 / 0.5 + 0.015625 / 0.25) / 2 = 0.28125; 0.0625 / 0.5 / 2 = 0.0625.
    value = eubo(p.log(), scored, torch.tensor([4]), 2.0)
    assert_close(value, [(math.log(0.28125) + math.log(0.0625)) / 2 / 2])


def test_eubo_does_not_count_views_that_score_nothing():
    scored = torch.tensor([[[True, True, False], [True, False, False], [False] * 3]])
    p = float64([[[0.5, 0.25, NAN], [0.125, NAN, NAN], [NAN] * 3]])
    value = eubo(p.log(), scored, torch.tensor([4]), 1.0)
    assert_close(value, [(math.log(0.75) + math.log(0.25)) / 2])


def test_eubo_neither_underflows_nor_gives_gradients_to_what_is_not_scored():
    logp = torch.tensor([[[-300.0, NAN], [-310.0, NAN]]], requires_grad=True)
    scored = torch.tensor([[[True, False], [True, False]]])
    value = eubo(logp, scored, torch.tensor([1]), 1.5)
    value.sum().backward()
    assert value.item() == pytest.approx(-300 - LOG2 / 1.5, rel=1e-6)
    assert logp.grad[0, :, 1].tolist() == [0, 0]
    assert logp.grad.sum().item() == pytest.approx(1.0)


def test_eubo_of_every_mask_is_above_the_elbo():
    # Jensen: log of a mean is at least the mean of logs, for b = 1 and the same scored tokens.
    generator = torch.Generator().manual_seed(0)
    logp = -3 * torch.rand(50, 6, 4, dtype=torch.float64, generator=generator)
    scored = torch.ones(50, 6, 4, dtype=torch.bool)
    upper = eubo(logp, scored, torch.full((50,), 4), 1.0)
    assert (upper > logp.mean((1, 2))).all()
    assert (eubo(logp, scored, torch.full((50,), 4), 1.5) > upper).all()


# Completion 0 (A = 2, len 3) takes its ELBO -1.25 log 2. Completion 1 (A = -1, len 2) has views of
# 1 and of 2 tokens, so t = 1/2 and 1; b = 1.5, and each token is scored in one of two views:
# token 0: (0.25^1.5 / 0.5 + 0) / 2 = 0.125; token 1: 0.5^1.5 / 2; token 2: 0.125^1.5 / 2.
UPPER = (3 + (1.5 + 1) + (4.5 + 1)) / 3 / 1.5
LOWER = MEANS[1]


@pytest.mark.parametrize(
    ("settings", "falling"),
    [
        ({}, (UPPER + LOWER) / 2),
        ({"omega": 0.25}, 0.25 * UPPER + 0.75 * LOWER),
        ({"variant": "eubo"}, UPPER),
        ({"variant": "elbo"}, LOWER),
        ({"variant": "zero"}, 0.0),
        ({"variant": "eubo", "power": 1.0}, (2 + 2 + 4) / 3),
    ],
)
def test_spg_takes_the_bound_that_fits_the_advantage(settings, falling):
    # -(2 * 3 (-1.25 log 2) - 1 * 2 (-falling log 2)) / 5
    loss = SPG(**settings)(case(ref_ratio=None)).loss
    assert_close(loss, (7.5 - 2 * falling) * LOG2 / 5)


def test_spg_takes_the_lower_bound_at_and_above_zero():
    inputs = case(advantages=(1.0, 0.0))
    for variant in ("elbo", "eubo", "mix", "zero"):
        share = float64([[[1 / 2, 1 / 2, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]]) / 2
        assert_close(derivative(SPG(variant=variant), inputs), -3 / 5 * share)


def test_spg_zero_learns_nothing_from_what_should_fall():
    gradient = derivative(SPG(variant="zero"), case())
    assert gradient[0].any()
    assert not gradient[1].any()


def test_spg_divides_by_the_lengths_of_the_whole_step():
    whole = case(totals=Totals(4, 12, 20, 4))
    assert_close(SPG()(whole).loss, SPG()(case()).loss.detach() / 4)


def test_spg_reports_both_bounds():
    metrics = SPG()(case()).metrics
    assert_close(metrics["elbo"].values, [-MEANS[0] * LOG2, -MEANS[1] * LOG2])
    assert_close(metrics["eubo"].values[1], -UPPER * LOG2)
    assert "eubo" not in SPG(variant="elbo")(case()).metrics


OBJECTIVES = {
    "wd1": WD1(psi=2.0),
    "wd1 mean": WD1(reduction="mean"),
    "dmpo": DMPO(alpha=0.5),
    **{f"spg {name}": SPG(variant=name) for name in ("elbo", "eubo", "mix", "zero")},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_the_derivative_of_the_value(name):
    assert gradcheck(OBJECTIVES[name], case())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_only_select_tokens(name):
    objective = OBJECTIVES[name]
    assert_close(objective(case(weight=3 * WEIGHT)).loss, objective(case()).loss.detach())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_old_policy_is_read(name):
    objective = OBJECTIVES[name]
    assert not objective.needs_old
    assert not objective.needs_reference
    blind = replace(case(), old_logp=torch.full_like(PROBABILITY, NAN), ref_logp=None)
    assert_close(objective(blind).loss, objective(case()).loss.detach())
