"""ESPO against a batch of 2 sequences, 2 views and 3 tokens worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from unmask.objectives import ESPO, ObjectiveInputs, Totals

NAN = math.nan


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


# One coupled draw of L = 3 each: the ELBO is 2 a + b + c of the tokens it scores.
WEIGHT = float64([[[2, 0, 0], [0, 1, 1]], [[1, 0, 1], [0, 2, 0]]])
# elbo = 2 (-1) - 0.5 - 1.5 = -4 and -0.25 - 0.75 + 2 (-2.5) = -6. NaN stands where nothing reads.
LOGP = float64([[[-1, NAN, NAN], [NAN, -0.5, -1.5]], [[-0.25, NAN, -0.75], [NAN, -2.5, NAN]]])
ELBO = float64([-4, -6])


def inputs(ratios=(1.0, 1.0), advantages=(1.0, -1.0), differences=(0.6, -0.3), rewards=(1.0, 0.0)):
    """Old and reference such that rho_i and d_i = elbo_i - ref_elbo_i are the given ones."""
    old, ref = LOGP.clone(), LOGP.clone()
    for row, places in enumerate([(0, 0), (1, 1)]):  # tokens of weight 2
        old[row, *places] -= 3 * math.log(ratios[row]) / 2
        ref[row, *places] -= differences[row] / 2
    return ObjectiveInputs(
        logp=LOGP.clone().requires_grad_(),
        old_logp=old,
        ref_logp=ref,
        weight=WEIGHT,
        views_per_draw=2,
        advantages=float64(advantages),
        rewards=float64(rewards),
        lengths=torch.tensor([3, 2]),
        canvas=3,
        group_size=2,
        totals=Totals(sequences=2, scored_tokens=6, lengths=5, nonzero_advantages=2),
    )


def gradient_per_elbo(objective, given):
    """d loss / d elbo_i, having checked that d loss / d logp is that times the weight."""
    loss = objective(given).loss
    (gradient,) = torch.autograd.grad(loss, given.logp)
    at_weight_two = torch.stack([gradient[0, 0, 0], gradient[1, 1, 1]]) / 2
    torch.testing.assert_close(
        gradient, at_weight_two[:, None, None] * WEIGHT, rtol=1e-12, atol=1e-16
    )
    return at_weight_two


@pytest.mark.parametrize(
    ("ratios", "advantages", "terms", "slopes", "clipped"),
    [
        # min(1.5 * 2, 1.2 * 2) = 2.4, clipped; min(0.5 (-2), 0.8 (-2)) = -1.6, clipped.
        ((1.5, 0.5), (2.0, -2.0), (2.4, -1.6), (0.0, 0.0), (1, 1)),
        # min(1.5 (-2), 1.2 (-2)) = -3; min(0.5 * 2, 0.8 * 2) = 1: moved the wrong way, not clipped.
        ((1.5, 0.5), (-2.0, 2.0), (-3.0, 1.0), (-3.0, 1.0), (0, 0)),
        # Inside both bounds.
        ((1.1, 0.9), (2.0, -2.0), (2.2, -1.8), (2.2, -1.8), (0, 0)),
        # Advantage 0: nothing moves and nothing is clipped.
        ((1.5, 0.5), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0, 0)),
    ],
)
def test_clipped_surrogate_is_the_hand_computed_one(ratios, advantages, terms, slopes, clipped):
    given = inputs(ratios, advantages)
    objective = ESPO(beta=0.0)
    output = objective(given)
    assert output.loss.item() == pytest.approx(-sum(terms) / 2, rel=1e-13)
    assert output.metrics["clip_fraction"].values.tolist() == list(clipped)
    # d (rho A) / d elbo = rho A / L where not clipped; loss = minus the mean of two.
    expected = -float64(slopes) / 3 / 2
    torch.testing.assert_close(gradient_per_elbo(objective, given), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("settings", "terms", "clipped"),
    [
        ({"epsilon": 0.2, "epsilon_high": 0.6}, (1.5, -0.8), (0, 1)),
        ({"epsilon": 0.2, "epsilon_high": 0.0}, (1.0, -0.8), (1, 1)),
        ({"epsilon": 0.6}, (1.5, -0.5), (0, 0)),
        ({"epsilon": 0.6, "epsilon_high": 0.3}, (1.3, -0.5), (1, 0)),
    ],
)
def test_each_clip_bound_has_its_own_epsilon(settings, terms, clipped):
    output = ESPO(beta=0.0, **settings)(inputs((1.5, 0.5), (1.0, -1.0)))
    assert output.loss.item() == pytest.approx(-sum(terms) / 2, rel=1e-13)
    assert output.metrics["clip_fraction"].values.tolist() == list(clipped)


def test_with_epsilon_zero_the_gradient_flows_at_ratio_one_and_where_it_moved_the_wrong_way():
    objective = ESPO(epsilon=0.0, beta=0.0)
    on_policy = inputs((1.0, 1.0), (2.0, -2.0))
    torch.testing.assert_close(
        gradient_per_elbo(objective, on_policy), float64([-1 / 3, 1 / 3]), rtol=1e-12, atol=0
    )
    right_way = inputs((1.01, 0.99), (2.0, -2.0))
    assert not gradient_per_elbo(objective, right_way).any()
    wrong_way = inputs((0.99, 1.01), (2.0, -2.0))
    torch.testing.assert_close(
        gradient_per_elbo(objective, wrong_way), float64([-0.33, 1.01 / 3]), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("kl", "value", "slopes"),
    [
        # d = (0.6, -0.3). mean d / L = 0.15 / 3; slope (1 + d) / L / 2 = 1.6 / 6, 0.7 / 6.
        ("k1", 0.05, (1.6 / 6, 0.7 / 6)),
        # mean d^2 / (2 L) = (0.36 + 0.09) / 2 / 6 = 0.0375; slope d / L / 2 = 0.1, -0.05.
        ("k2", 0.0375, (0.1, -0.05)),
        # mean (exp(-d) + d - 1) / L = (0.1488116361 + 0.0498588076) / 6 = 0.0331117406;
        # slope (1 - exp(-d)) / L / 2 = 0.4511883639 / 6, -0.3498588076 / 6.
        ("k3", 0.03311174061, (0.07519806065, -0.05830980126)),
    ],
)
def test_kl_terms_are_the_hand_computed_ones(kl, value, slopes):
    given = inputs(advantages=(0.0, 0.0))
    objective = ESPO(beta=10.0, kl=kl)
    output = objective(given)
    assert output.loss.item() == pytest.approx(10 * value, rel=1e-9)
    assert output.metrics["kl"].values.mean().item() == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(
        gradient_per_elbo(objective, given), 10 * float64(slopes), rtol=1e-9, atol=0
    )


def test_surrogate_and_kl_add_up():
    output = ESPO(beta=0.4)(inputs((1.5, 0.9), (2.0, -1.0)))
    # -(2.4 - 0.9) / 2 + 0.4 * 0.0375
    assert output.loss.item() == pytest.approx(-0.735, rel=1e-12)


def test_metrics_and_their_reductions():
    metrics = ESPO(beta=0.1)(inputs((1.5, 0.5))).metrics
    expected = {
        "elbo": ("mean", ELBO / 3),
        "ratio": ("mean", float64([1.5, 0.5])),
        "ratio_min": ("min", float64([1.5, 0.5])),
        "ratio_max": ("max", float64([1.5, 0.5])),
        "log_ratio": ("quantiles", float64([1.5, 0.5]).log()),
        "effective_sample_size": ("effective_sample_size", float64([1.5, 0.5]).log()),
        "clip_fraction": ("mean", float64([1, 0]) + float64([0, 1])),
        "kl": ("mean", float64([0.36, 0.09]) / 6),
    }
    assert set(metrics) == set(expected)
    for name, (reduction, values) in expected.items():
        assert metrics[name].reduction == reduction
        assert not metrics[name].values.requires_grad
        torch.testing.assert_close(metrics[name].values, values, rtol=1e-12, atol=0)


def test_an_unscored_completion_adds_neither_surrogate_nor_kl():
    given = inputs(advantages=(1.0, 0.0), rewards=(1.0, NAN))
    given = replace(given, totals=replace(given.totals, sequences=1))
    output = ESPO(beta=1.0)(given)
    # -1 + 0.6^2 / 2 / 3
    assert output.loss.item() == pytest.approx(-0.94, rel=1e-12)
    assert gradient_per_elbo(ESPO(beta=1.0), given)[1] == 0


def test_the_loss_is_divided_by_the_sequences_of_the_whole_step():
    given = inputs((1.1, 0.9))
    whole = replace(given, totals=replace(given.totals, sequences=8))
    for kl in ("k1", "k2", "k3"):
        objective = ESPO(beta=0.5, kl=kl)
        assert objective(whole).loss.item() == pytest.approx(objective(given).loss.item() / 4)


@pytest.mark.parametrize("kl", ["k2", "k3"])
@pytest.mark.parametrize("ratios", [(1.1, 0.9), (1.5, 0.5), (0.5, 1.5)])
def test_gradient_is_the_derivative_of_the_value(kl, ratios):
    given = inputs(ratios)
    objective = ESPO(beta=0.7, kl=kl)
    scored = WEIGHT > 0

    def loss(values):
        return objective(
            replace(given, logp=torch.zeros_like(WEIGHT).masked_scatter(scored, values))
        ).loss

    assert torch.autograd.gradcheck(loss, given.logp.detach()[scored].requires_grad_())


def test_old_and_reference_log_probabilities_receive_no_gradient():
    given = inputs((1.1, 0.9))
    old, ref = given.old_logp.requires_grad_(), given.ref_logp.requires_grad_()
    ESPO(beta=0.7)(replace(given, old_logp=old, ref_logp=ref)).loss.backward()
    assert old.grad is None
    assert ref.grad is None


def test_without_a_kl_term_no_reference_is_needed():
    given = replace(inputs(), ref_logp=None)
    assert not ESPO(beta=0.0).needs_reference
    assert ESPO(beta=0.0)(given).loss.isfinite()
    assert ESPO().needs_reference
    with pytest.raises(ValueError, match=r"set objective\.beta=0 or give a reference policy"):
        ESPO()(given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -0.1}, r"epsilon=-0\.1 is negative"),
        ({"epsilon_high": -1.0}, r"epsilon_high=-1\.0 is negative"),
        ({"beta": -1e-3}, r"beta=-0\.001 is negative"),
        ({"kl": "k4"}, "kl='k4' is unknown: choose k1, k2 or k3"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ESPO(**settings)
