"""PPO's clip, DPPO's divergence mask and the KL estimators, entry by entry."""

import math
from dataclasses import replace

import pytest
import torch
from objective_cases import assert_close, case, derivative, float64, sequence_case

from unmask.objectives import (
    AGRPO,
    ESPO,
    GDPO,
    CoupledGRPO,
    DiffuGRPO,
    Divergence,
    JustGRPO,
    TraceRL,
    UniGRPO,
)
from unmask.objectives.kl import KL
from unmask.objectives.trust_region import surrogate

# p, p_old, A and whether |p - p_old| is above 0.15 in the direction of A.
TV = [
    (0.5, 0.3, 1.0, True),
    (0.5, 0.3, -1.0, False),
    (0.3, 0.5, 1.0, False),
    (0.3, 0.5, -1.0, True),
    (0.5, 0.4, 1.0, False),
    (0.2, 0.02, 2.0, True),
    (0.02, 0.001, 1.0, False),
    (0.5, 0.3, 0.0, False),
]
# Bernoulli KL(p_old || p): 0.3 log 0.6 + 0.7 log 1.4 = 0.0823 and so on, against 0.05.
KL_CASES = [
    (0.5, 0.3, 1.0, True),
    (0.5, 0.3, -1.0, False),
    (0.3, 0.5, -1.0, True),
    (0.45, 0.3, 1.0, False),  # 0.3 log(2/3) + 0.7 log(0.7/0.55) = 0.04717
    (0.001, 0.05, -1.0, True),  # 0.05 log 50 + 0.95 log(0.95/0.999) = 0.1478
    (0.02, 0.001, 1.0, False),  # 0.0163
    (1.0, 0.5, 1.0, True),
    (0.5, 1.0, -1.0, True),
    (1.0, 1.0, 1.0, False),
]


def entries(cases):
    p, old, advantages, wanted = zip(*cases, strict=True)
    return float64(p).log(), float64(old).log(), float64(advantages), list(wanted)


@pytest.mark.parametrize(("kind", "cases"), [("tv", TV), ("kl", KL_CASES)])
def test_a_token_is_dropped_where_it_moved_too_far_the_way_it_should(kind, cases):
    logp, old, advantages, wanted = entries(cases)
    step = surrogate(logp, old, advantages, epsilon=0.0, divergence=Divergence(kind))
    assert step.dropped.tolist() == wanted
    kept = ~torch.tensor(wanted)
    ratio = (logp - old).exp()
    values = (ratio.clamp(max=10.0) * advantages)[kept]
    assert_close(step.values[kept], values)
    assert not step.values[~kept].any()
    assert_close(step.log_ratio.exp(), ratio)


def test_the_threshold_is_a_setting():
    logp, old = float64([0.5, 0.5]).log(), float64([0.45, 0.3]).log()
    advantages = float64([1.0, 1.0])
    for kind, delta, wanted in [
        ("tv", 0.04, [True, True]),
        ("tv", 0.06, [False, True]),
        ("tv", 0.3, [False, False]),
        ("kl", 1e-3, [True, True]),
        ("kl", 0.09, [False, False]),
    ]:
        step = surrogate(
            logp, old, advantages, epsilon=0.0, divergence=Divergence(kind, delta=delta)
        )
        assert step.dropped.tolist() == wanted


def test_the_ratio_is_truncated_and_goes_on_to_weigh_the_gradient():
    # Ratios 20 (from 0.005 to 0.1) and 2: tv 0.095 and 0.005 are below 0.15.
    logp = float64([0.1, 0.01]).log().requires_grad_()
    old, advantages = float64([0.005, 0.005]).log(), float64([1.5, 1.5])
    step = surrogate(logp, old, advantages, epsilon=0.0, divergence=Divergence("tv"))
    assert_close(step.values, [15.0, 3.0])
    (gradient,) = torch.autograd.grad(step.values.sum(), logp)
    assert_close(gradient, [15.0, 3.0])
    low = surrogate(logp, old, advantages, epsilon=0.0, divergence=Divergence("tv", max_ratio=1.5))
    assert_close(low.values, [2.25, 2.25])


def test_dropped_tokens_stay_in_the_denominator():
    # Differences p - p_old of the six tokens: 0.5 - 1/3 = 0.167 (dropped, A = 2), -0.25, 0.045;
    # 0.25 - 0.5 = -0.25 (dropped, A = -1), 0.167, -0.014.
    objective = DiffuGRPO(beta=0.0, divergence=Divergence("tv"))
    output = objective(case())
    assert_close(output.loss, -(0.5 * 2 + 1.1 * 2 - 1.5 - 0.9) / 6)
    assert_close(output.metrics["clip_fraction"].values, [1, 0, 0, 1, 0, 0])
    gradient = derivative(objective, case())
    assert_close(gradient, -float64([[[0, 1, 0], [0, 0, 2.2]], [[0] * 3, [0, -1.5, -0.9]]]) / 6)


@pytest.mark.parametrize(
    "objective", [DiffuGRPO, UniGRPO, AGRPO, TraceRL, JustGRPO, CoupledGRPO, ESPO, GDPO]
)
def test_every_ratio_objective_takes_the_divergence_in_place_of_its_clip(objective):
    inputs = case()
    # So wide that nothing is dropped or truncated: the clip bounds no longer matter.
    wide = Divergence("tv", delta=2.0)
    by_clip = objective(epsilon=1e6)(inputs).loss
    assert_close(objective(epsilon=0.0, divergence=wide)(inputs).loss, by_clip.detach())
    narrow = objective(divergence=Divergence("tv", delta=1e-6))(inputs)
    assert narrow.metrics["clip_fraction"].values.sum() > 0
    assert narrow.loss != by_clip


@pytest.mark.parametrize("objective", [ESPO(beta=0.0), GDPO(), GDPO(form="paper")])
def test_sequence_objectives_measure_the_divergence_of_the_probability_per_token(objective):
    # Estimates in units of -log 2: (2 + 2 + 3) / 2 and (2 + 2 + 12) / 2, over L = 3.
    inputs = sequence_case([[0.6, 0.6], [-1.5, -1.5]])
    p = [math.exp(-(2 + 2 + 3) / 6 * math.log(2)), math.exp(-(2 + 2 + 12) / 6 * math.log(2))]
    moved = [p[0] * (1 - math.exp(-0.2)), p[1] * (math.exp(0.5) - 1)]
    for delta, wanted in [(0.03, [1, 1]), (0.09, [0, 1]), (0.11, [0, 0])]:
        assert wanted == [int(value > delta) for value in moved]
        output = replace(objective, divergence=Divergence("tv", delta=delta))(inputs)
        assert_close(output.metrics["clip_fraction"].values, wanted)


def test_clip_bounds_are_one_sided():
    ratio = float64([0.5, 0.5, 1.5, 1.5, 1.1, 1.5])
    advantages = float64([1, -1, 1, -1, 1, 0])
    step = surrogate(ratio.log(), ratio * 0, advantages, epsilon=0.2, epsilon_high=0.4)
    assert_close(step.values, [0.5, -0.8, 1.4, -1.5, 1.1, 0])
    assert step.dropped.tolist() == [False, True, True, False, False, False]


def test_a_clipped_ratio_that_overflows_gives_no_nan():
    logp = float64([800.0, 800.0, -800.0]).requires_grad_()
    step = surrogate(logp, torch.zeros(3), float64([1, 0, -1]), epsilon=0.2)
    (gradient,) = torch.autograd.grad(step.values.sum(), logp)
    assert_close(step.values, [1.2, 0, -0.8])
    assert_close(gradient, [0, 0, 0])


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        ("k1", 0.3, 1.3),
        ("k2", 0.045, 0.3),
        ("k3", math.exp(-0.3) - 0.7, 1 - math.exp(-0.3)),
    ],
)
def test_kl_estimators(name, value, slope):
    logp, other = float64([-1.0]).requires_grad_(), float64([-1.3]).requires_grad_()
    kl = KL[name](logp, other)
    kl.sum().backward()
    assert_close(kl, [value])
    assert_close(logp.grad, [slope])
    assert other.grad is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "js"}, "kind='js' is unknown: choose tv or kl"),
        ({"delta": 0.0}, r"delta=0\.0 is too small"),
        ({"max_ratio": -1.0}, r"max_ratio=-1\.0 is too small"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Divergence(**settings)
