"""A*-PO and VRPO against values worked out by hand."""

import math

import pytest
import torch
from objective_cases import NAN, assert_close, case, derivative, float64, gradcheck, sequence_case

from unmask.objectives import VRPO, AStarPO

# Differences of two draws of two completions to the reference; L is 3.
AWAY = [[3.0, -6.0], [1.5, 0.0]]


def values_case(**settings):
    settings = {"rewards": (1.0, 0.25), "values": float64([0.5, 0.75]), **settings}
    return sequence_case([[0.0, 0.0], [0.0, 0.0]], AWAY, **settings)


def test_astar_po_multiplies_the_residuals_of_two_halves():
    # beta d / L - (r - V*): 0.3 / 3 - 0.5 and -0.6 / 3 - 0.5; 0.15 / 3 + 0.5 and 0 + 0.5
    loss = AStarPO(beta=0.1)(values_case()).loss
    assert_close(loss, float64((-0.4 * -0.7 + 0.55 * 0.5) / 2))


def test_astar_po_gives_each_half_the_others_residual():
    gradient = derivative(AStarPO(beta=0.1), values_case())
    # d loss / d est_i1 = beta / L R_i2 / 2 sequences; tokens of view 0 of completion 0 weigh 2, 1.
    assert_close(gradient[0, 0, :2], float64([2.0, 1.0]) * 0.1 / 3 * -0.7 / 2)
    assert_close(gradient[0, 1, 2], 3 * 0.1 / 3 * -0.4 / 2)
    assert gradcheck(AStarPO(beta=0.1), values_case())


def test_astar_po_splits_more_draws_into_even_and_odd_ones():
    weight = torch.ones(1, 4, 1, dtype=torch.float64)
    inputs = sequence_case(
        [[0.0] * 4],
        [[1.0, 10.0, 3.0, 30.0]],
        weight=weight,
        probability=torch.full((1, 4, 1), 0.5, dtype=torch.float64),
        rewards=(0.0,),
        advantages=(0.0,),
        lengths=(1,),
        values=float64([0.0]),
    )
    assert_close(AStarPO(beta=1.0)(inputs).loss, float64(2.0 * 20.0))


@pytest.mark.parametrize("where", ["rewards", "values"])
def test_astar_po_leaves_out_what_was_not_scored(where):
    settings = {"rewards": (1.0, NAN)} if where == "rewards" else {"values": float64([0.5, NAN])}
    inputs = values_case(**settings)
    assert_close(AStarPO(beta=0.1)(inputs).loss, float64(-0.4 * -0.7 / 2))
    gradient = derivative(AStarPO(beta=0.1), inputs)
    assert not gradient[1].any()
    assert gradient[0].any()


def test_the_optimal_value_is_the_soft_maximum_of_the_references_rewards():
    rewards = float64([[1.0, 0.0, NAN], [0.5, 0.5, 0.5], [NAN, NAN, NAN]])
    value = AStarPO(value_beta=0.5).value(rewards)
    assert_close(value[:2], [0.5 * math.log((math.exp(2) + 1) / 2), 0.5])
    assert value[2].isnan()
    assert_close(AStarPO(value_beta=1e-3).value(float64([[3.0, 1.0]])), [3 - 1e-3 * math.log(2)])


def preference_case(rewards=(1.0, 0.0)):
    # Estimates differ from the reference's by -1.5 and 0.75: the means over two draws.
    return sequence_case([[0.0, 0.0], [0.0, 0.0]], AWAY, rewards=rewards)


def test_vrpo_is_the_logistic_loss_of_the_difference_to_the_reference():
    margin = 0.5 * (-1.5 - 0.75)
    output = VRPO(beta=0.5)(preference_case())
    assert_close(output.loss, float64(math.log(1 + math.exp(-margin))))
    assert_close(output.metrics["margin"].values, [margin])
    assert output.metrics["preferred"].values.tolist() == [0.0]
    swapped = VRPO(beta=0.5)(preference_case(rewards=(0.0, 1.0)))
    assert_close(swapped.loss, float64(math.log(1 + math.exp(margin))))


def test_vrpo_pulls_the_pair_apart_by_how_wrong_it_is():
    gradient = derivative(VRPO(beta=0.5), preference_case())
    push = 0.5 / (1 + math.exp(0.5 * -2.25)) / 2  # beta sigmoid(-margin) / 2 draws
    assert_close(gradient[0, 0, :2], float64([2.0, 1.0]) * -push)
    assert_close(gradient[1, 0, 0], push)
    assert gradcheck(VRPO(beta=0.5), preference_case())


def test_vrpo_starts_at_log_two_with_half_the_slope():
    start = case(ratio=torch.ones(2, 2, 3).double(), ref_ratio=torch.ones(2, 2, 3).double())
    assert_close(VRPO(beta=1.0)(start).loss, float64(math.log(2)))
    assert_close(derivative(VRPO(beta=1.0), start)[0, 1, 2], -3 / 2 / 2)


def test_vrpo_stays_finite_however_wrong_it_is():
    for sign in (1, -1):
        far = sequence_case([[0.0, 0.0]] * 2, [[sign * 300.0] * 2, [0.0] * 2], rewards=(1.0, 0.0))
        output = VRPO(beta=100.0)(far)
        assert output.loss.isfinite()
        assert derivative(VRPO(beta=100.0), far).isfinite().all()
