"""Sequence-level objectives against numbers worked out by hand, and BGPO's bound."""

import math
from dataclasses import replace

import pytest
import torch
from objective_cases import (
    NAN,
    WEIGHT,
    assert_close,
    case,
    derivative,
    float64,
    gradcheck,
    sequence_case,
)

from unmask.likelihood import draw_estimates, sequence_estimate
from unmask.objectives import BGPO, ESPO, GDPO, GDSD, Divergence, Totals, VRPOOnline

# Differences of the two draws of each completion to the old policy. L = 3.
D = [[0.6, -0.3], [0.9, -0.6]]
ADVANTAGES = (2.0, -1.0)


def test_bgpo_bounds_each_draw_by_taylor_or_jensen():
    inputs = sequence_case(D)
    # d / L: 0.2, -0.1; 0.3, -0.2. A = 2: 2 (1.2 + 0.9) / 2 = 2.1. A = -1: -(e^0.3 + e^-0.2) / 2.
    falling = (math.exp(0.3) + math.exp(-0.2)) / 2
    assert_close(BGPO()(inputs).loss, -(2.1 - falling) / 2)
    slope = float64([[2, 2], [-math.exp(0.3), -math.exp(-0.2)]])
    assert_close(derivative(BGPO(), inputs), -WEIGHT * slope[..., None] / 3 / 2 / 2)


def test_bgpo_of_the_paper_does_not_divide_by_the_canvas():
    objective = BGPO(length_normalised=False)
    inputs = sequence_case(D)
    falling = (math.exp(0.9) + math.exp(-0.6)) / 2
    assert_close(objective(inputs).loss, -(2 * (1.6 + 0.7) / 2 - falling) / 2)
    slope = float64([[2, 2], [-math.exp(0.9), -math.exp(-0.6)]])
    assert_close(derivative(objective, inputs), -WEIGHT * slope[..., None] / 2 / 2)


def test_bgpo_clips_on_request():
    inputs = sequence_case([[0.9, -0.9], [0.9, -0.9]])
    # d = 0.3, -0.3. A = 2: min(2.6, 2.4) and min(1.4, 1.6). A = -1: exp(0.3) and, clipped, 0.8.
    objective = BGPO(epsilon=0.2)
    output = objective(inputs)
    assert_close(output.loss, -((2.4 + 1.4) / 2 - (math.exp(0.3) + 0.8) / 2) / 2)
    assert_close(output.metrics["clip_fraction"].values, [[1, 0], [0, 1]])
    slope = float64([[0, 2], [-math.exp(0.3), 0]])
    assert_close(derivative(objective, inputs), -WEIGHT * slope[..., None] / 12)
    assert "clip_fraction" not in BGPO()(inputs).metrics


def test_bgpo_counts_coupled_views_as_one_draw():
    inputs = sequence_case(D, views_per_draw=2)
    # One draw each: d / L = 0.1 and 0.1.
    assert_close(BGPO()(inputs).loss, -(2 * 1.1 - math.exp(0.1)) / 2)


@pytest.mark.parametrize("length_normalised", [True, False])
def test_bgpo_is_at_most_its_target_and_touches_it_at_zero(length_normalised):
    generator = torch.Generator().manual_seed(0)
    bound = BGPO(length_normalised=length_normalised)
    target = VRPOOnline(length_normalised=length_normalised)
    below_minus_one = 0
    for index in range(1000):
        spread = 0.1 + 6 * index / 1000
        d = spread * torch.randn(2, 2, dtype=torch.float64, generator=generator)
        advantages = torch.randn(2, dtype=torch.float64, generator=generator).tolist()
        inputs = sequence_case(d.tolist(), advantages=advantages)
        value, limit = -bound(inputs).loss, -target(inputs).loss
        assert value.isfinite()
        assert value <= limit + 1e-12
        below_minus_one += int((d / (3 if length_normalised else 1) < -1).any())
        on_policy = replace(inputs, old_logp=inputs.logp.detach())
        assert_close(bound(on_policy).loss, target(on_policy).loss.detach())
        assert_close(derivative(bound, on_policy), derivative(target, on_policy))
    assert below_minus_one > 200


def test_bgpo_draws_are_worth_the_same_taken_by_themselves():
    inputs = sequence_case(D)
    alone = [
        sequence_case([[D[0][j]], [D[1][j]]], weight=WEIGHT[:, j : j + 1], probability=p)
        for j, p in enumerate(inputs.logp.detach().exp().split(1, dim=1))
    ]
    mean = sum(BGPO()(part).loss for part in alone) / 2
    assert_close(BGPO()(inputs).loss, mean.detach())


def test_vrpo_online_is_the_exponential_of_the_mean_draw():
    inputs = sequence_case(D)
    # Mean d: 0.15 and 0.15.
    assert_close(VRPOOnline()(inputs).loss, -(2 - 1) * math.exp(0.05) / 2)
    paper = VRPOOnline(length_normalised=False)
    assert_close(paper(inputs).loss, -(2 - 1) * math.exp(0.15) / 2)
    slope = float64(ADVANTAGES)[:, None, None] * math.exp(0.05) / 3 / 2 / 2
    assert_close(derivative(VRPOOnline(), inputs), -WEIGHT * slope)
    assert not VRPOOnline.separable


def test_vrpo_online_survives_an_overflow_without_an_advantage():
    inputs = sequence_case([[4000.0, 4000.0], [0.3, 0.3]], advantages=(0.0, -1.0))
    assert VRPOOnline(length_normalised=False)(inputs).loss.isfinite()
    assert derivative(VRPOOnline(length_normalised=False), inputs).isfinite().all()


# Mean differences: 3 log 1.3 and 3 log 0.8, so that the normalised ratios are 1.3 and 0.8; to the
# reference 0.3 and -0.6.
RATIOS = [[3 * math.log(1.3)] * 2, [3 * math.log(0.8)] * 2]
REFERENCE = [[0.6, 0.0], [-0.9, -0.3]]


def test_gdpo_as_released_normalises_the_ratio_and_averages_plainly():
    inputs = sequence_case(RATIOS, REFERENCE)
    # eps 0.5: 2.6 and -0.8; eps 0.2: min(2.6, 2.4), min(-0.8, -0.8).
    assert_close(GDPO()(inputs).loss, -(2.6 - 0.8) / 2)
    assert_close(GDPO(epsilon=0.2)(inputs).loss, -(2.4 - 0.8) / 2)
    slope = float64([2.6, -0.8])[:, None, None] / 3 / 2 / 2
    assert_close(derivative(GDPO(), inputs), -WEIGHT * slope)
    # k3 of 0.3 / 3 and -0.6 / 3.
    kl = (math.exp(-0.1) + 0.1 - 1) + (math.exp(0.2) - 0.2 - 1)
    assert_close(GDPO(beta=0.4)(inputs).loss, -0.9 + 0.4 * kl / 2)


def test_gdpo_of_the_paper_divides_each_term_by_the_completions_length():
    inputs = sequence_case([[math.log(1.3)] * 2, [math.log(0.8)] * 2], REFERENCE)
    objective = GDPO(form="paper")
    assert_close(objective(inputs).loss, -(2.6 / 3 - 0.8 / 2) / 2)
    slope = float64([2.6 / 3, -0.8 / 2])[:, None, None] / 2 / 2
    assert_close(derivative(objective, inputs), -WEIGHT * slope)
    kl = (math.exp(-0.3) + 0.3 - 1) / 3 + (math.exp(0.6) - 0.6 - 1) / 2
    assert_close(GDPO(form="paper", beta=0.4)(inputs).loss, -(2.6 / 3 - 0.4) / 2 + 0.4 * kl / 2)


# One coupled pair each of L = 3: every token is scored in one of the two views.
PAIRS = float64([[[2, 0, 0], [0, 1, 1]], [[1, 0, 1], [0, 2, 0]]])
PAIR_P = float64([[[0.5, NAN, NAN], [NAN, 0.25, 0.5]], [[0.25, NAN, 0.5], [NAN, 0.5, NAN]]])
# log ratios: completion 0: 0.2, 0.1, 0.3; completion 1: -0.3, 0.1 and 0.4.
PAIR_LOG = float64([[[0.2, NAN, NAN], [NAN, 0.1, 0.3]], [[-0.3, NAN, 0.1], [NAN, 0.4, NAN]]])
PAIR_REF_LOG = float64([[[0.4, NAN, NAN], [NAN, 0.2, 0]], [[-0.2, NAN, 0.2], [NAN, 0.6, NAN]]])


def pair_case(**settings):
    return case(
        weight=PAIRS,
        probability=PAIR_P,
        ratio=PAIR_LOG.exp(),
        ref_ratio=PAIR_REF_LOG.exp(),
        views_per_draw=2,
        **settings,
    )


def test_gdsd_regresses_half_of_every_tokens_log_ratio():
    inputs = pair_case()
    # d: (0.2 + 0.1 + 0.3) / 2 = 0.3 and (-0.3 + 0.1 + 0.4) / 2 = 0.1, over L = 3; psi A: 0.2, -0.1.
    objective = GDSD(epsilon=0.9, psi=0.1, beta=0.0)
    assert_close(objective(inputs).loss, ((0.1 - 0.2) ** 2 + (0.1 / 3 + 0.1) ** 2) / 2)
    slope = float64([-0.1, 0.4 / 3])[:, None, None] * 2 / 3 / 2 / 2
    assert_close(derivative(objective, inputs), (PAIRS > 0) * slope)
    # dref: 0.3 and 0.3; mean of 0.09 / 6.
    with_reference = replace(objective, beta=0.7)
    gained = with_reference(inputs).loss - objective(inputs).loss
    assert_close(gained, 0.7 * 0.09 / 6)


def test_gdsd_tlc_counts_tokens_by_their_weight():
    inputs = pair_case()
    # d: 0.4 + 0.1 + 0.3 = 0.8 and -0.3 + 0.1 + 0.8 = 0.6, over L = 3.
    objective = GDSD(variant="gdsd_tlc", epsilon=0.9, psi=0.1, beta=0.0)
    # log(1.9) = 0.6418...: the first is clamped.
    first = math.log(1.9) / 3 - 0.2
    assert_close(objective(inputs).loss, (first**2 + (0.2 + 0.1) ** 2) / 2)
    slope = float64([0.0, 0.3])[:, None, None] * 2 / 3 / 2
    assert_close(derivative(objective, inputs), PAIRS * slope)
    # dref: 0.8 + 0.2 = 1 and -0.2 + 0.2 + 1.2 = 1.2; mean of 1 / 6 and 1.44 / 6.
    gained = replace(objective, beta=0.7)(inputs).loss - objective(inputs).loss
    assert_close(gained, 0.7 * 2.44 / 6 / 2)


def test_gdsd_clamps_the_difference_before_dividing_it():
    inputs = pair_case()
    # Both d are above log(1.0004) = 3.9992e-4, and the reference term is all that is learnt from.
    output = GDSD(psi=0.1)(inputs)
    top = math.log(1.0004) / 3
    assert_close(output.loss, ((top - 0.2) ** 2 + (top + 0.1) ** 2) / 2 + 1e-3 * 0.015)
    assert_close(output.metrics["clip_fraction"].values, [[1], [1]])
    below = pair_case(advantages=(0.0, 0.0))
    below = replace(below, old_logp=below.logp.detach() + 1)
    low = math.log(1 - 4e-4) / 3
    assert_close(GDSD(beta=0)(below).loss, low**2)


def test_gdsd_sums_over_pairs_and_averages_the_reference_term():
    inputs = pair_case()
    twice = replace(
        inputs,
        **{
            name: getattr(inputs, name).detach().repeat(1, 2, 1)
            for name in ("logp", "old_logp", "ref_logp", "weight")
        },
    )
    objective = GDSD(epsilon=0.9, psi=0.1, beta=0.0)
    assert_close(objective(twice).loss, 2 * objective(inputs).loss.detach())
    reference = [
        GDSD(epsilon=0.9, beta=0.7)(given).loss - GDSD(epsilon=0.9, beta=0.0)(given).loss
        for given in (twice, inputs)
    ]
    assert_close(reference[0], reference[1].detach())


def test_gdsd_on_policy_pulls_towards_the_advantage():
    # d = 0: the residual is -psi A, the gradient -2 psi A (1/2) / L / 2.
    gradient = derivative(GDSD(psi=10.0, beta=0.0), pair_case(), on_policy=True)
    slope = -20 * float64(ADVANTAGES)[:, None, None] / 2 / 3 / 2
    assert_close(gradient, (PAIRS > 0) * slope)


OBJECTIVES = {
    "bgpo": BGPO(),
    "bgpo clipped": BGPO(epsilon=0.25),
    "bgpo paper": BGPO(length_normalised=False),
    "vrpo_online": VRPOOnline(),
    "vrpo_online paper": VRPOOnline(length_normalised=False),
    "gdpo": GDPO(beta=0.4),
    "gdpo paper": GDPO(form="paper", beta=0.4, epsilon=2.0),
    "gdsd": GDSD(epsilon=0.9, beta=0.4),
    "gdsd_tlc": GDSD(variant="gdsd_tlc", epsilon=0.9, beta=0.4),
    "espo by divergence": ESPO(beta=0.0, divergence=Divergence("kl")),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_the_derivative_of_the_value(name):
    assert gradcheck(OBJECTIVES[name], sequence_case(D, REFERENCE))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_unscored_completion_adds_nothing(name):
    objective, counts = OBJECTIVES[name], Totals(1, 6, 5, 1)
    given = sequence_case(D, REFERENCE, advantages=(2.0, 0.0), rewards=(1.0, NAN), totals=counts)
    other = replace(given, old_logp=given.old_logp.clone(), ref_logp=given.ref_logp.clone())
    other.old_logp[1] -= 0.1
    other.ref_logp[1] -= 0.1
    assert_close(objective(given).loss, objective(other).loss.detach())
    assert not derivative(objective, given)[1].any()


@pytest.mark.parametrize(
    ("objective", "denominator"),
    [
        (ESPO(beta=0.0), 3),
        (BGPO(), 3),
        (VRPOOnline(), 3),
        (GDPO(), 3),
        (BGPO(length_normalised=False), 1),
        (VRPOOnline(length_normalised=False), 1),
        (GDPO(form="paper"), None),
    ],
)
@pytest.mark.parametrize("views_per_draw", [1, 2])
def test_on_policy_gradient_is_the_advantage_times_that_of_the_estimate(
    objective, denominator, views_per_draw
):
    inputs = sequence_case(D, views_per_draw=views_per_draw)
    logp = inputs.logp.detach().clone().requires_grad_()
    estimate = sequence_estimate(logp, inputs.weight, views_per_draw)
    share = inputs.lengths if denominator is None else denominator
    (expected,) = torch.autograd.grad(-(inputs.advantages * estimate / share).sum() / 2, logp)
    assert_close(derivative(objective, inputs, on_policy=True), expected)


def test_the_loss_is_divided_by_the_sequences_of_the_whole_step():
    for objective in OBJECTIVES.values():
        given = sequence_case(D, REFERENCE)
        whole = replace(given, totals=Totals(8, 24, 20, 8))
        assert_close(objective(whole).loss, objective(given).loss.detach() / 4)


def test_metrics_tell_how_far_the_policy_has_moved():
    inputs = sequence_case(D)
    metrics = BGPO()(inputs).metrics
    assert_close(metrics["log_ratio"].values.mean(1), [0.05, 0.05])
    assert_close(metrics["log_ratio"].values.max(), 0.3)
    assert_close(metrics["log_ratio"].values.min(), -0.2)
    assert_close(metrics["ratio_max"].values.max(), math.exp(0.3))
    for name in ("log_ratio", "effective_sample_size"):
        assert metrics[name].reduction == name.replace("log_ratio", "quantiles")
        assert not metrics[name].values.requires_grad
    # Per completion where the ratio is one of the mean draw.
    assert_close(VRPOOnline()(inputs).metrics["log_ratio"].values, [0.05, 0.05])
    assert_close(GDPO()(inputs).metrics["log_ratio"].values, [0.05, 0.05])
    elbo = draw_estimates(inputs.logp, WEIGHT).mean(1) / 3
    for objective in (BGPO(), VRPOOnline(), GDPO(), GDSD(beta=0.0)):
        assert_close(objective(inputs).metrics["elbo"].values, elbo.detach())
