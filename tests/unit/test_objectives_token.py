"""Token-level objectives against numbers worked out by hand, see `objective_cases`."""

import math
from dataclasses import replace

import pytest
import torch
from objective_cases import (
    K3_HALF,
    K3_TWO,
    NAN,
    RATIO,
    REF_RATIO,
    WEIGHT,
    assert_close,
    case,
    derivative,
    float64,
    gradcheck,
)
from table_model import RandomConditionals, one_view_at_a_time, random_completions

from unmask.maskings import make_generators
from unmask.maskings_trajectory import draw_trajectory
from unmask.objectives import (
    AGRPO,
    CoupledGRPO,
    DiffuGRPO,
    Divergence,
    JustGRPO,
    ObjectiveInputs,
    Totals,
    TraceRL,
    UniGRPO,
)

# min(rho A, clip(rho, 0.8, 1.2) A). A = 2: 1.5 -> 2.4 (clipped), 0.5 -> 1, 1.1 -> 2.2.
# A = -1: 0.5 -> -0.8 (clipped), 1.5 -> -1.5, 0.9 -> -0.9. Their sum is 2.4.
SURROGATE = float64([[[2.4, 1, 0], [0, 0, 2.2]], [[-0.8, 0, 0], [0, -1.5, -0.9]]])
# Their derivatives by logp: rho A where not clipped.
SLOPE = float64([[[0, 1, 0], [0, 0, 2.2]], [[0, 0, 0], [0, -1.5, -0.9]]])
# k3 to the reference, and its derivative 1 - 1 / r. The k3 of all six tokens sum to exactly 1.
K3 = float64([[[K3_TWO, 0, 0], [0, 0, K3_HALF]], [[0, 0, 0], [0, K3_TWO, K3_HALF]]])
K3_SLOPE = float64([[[0.5, 0, 0], [0, 0, -1]], [[0, 0, 0], [0, 0.5, -1]]])


def k3(ratio):
    return 1 / ratio - 1 + math.log(ratio)


def test_diffu_grpo_sums_over_tokens_and_divides_by_their_number():
    inputs = case()
    # -(2.4 - 0.3 * 1) / 6
    assert_close(DiffuGRPO(epsilon=0.2, beta=0.3)(inputs).loss, -0.35)
    assert_close(
        derivative(DiffuGRPO(epsilon=0.2, beta=0.3), inputs), -(SLOPE - 0.3 * K3_SLOPE) / 6
    )
    # epsilon 0.5: 3 + 1 + 2.2 - 0.5 - 1.5 - 0.9 = 3.3, and the KL at its default weight.
    assert_close(DiffuGRPO()(inputs).loss, -(3.3 - 0.04) / 6)


def test_diffu_grpo_counts_the_tokens_of_the_whole_step():
    inputs = case(totals=Totals(8, 24, 20, 8))
    assert_close(DiffuGRPO(epsilon=0.2, beta=0.3)(inputs).loss, -2.1 / 24)


def test_diffu_grpo_metrics():
    metrics = DiffuGRPO(epsilon=0.2)(case()).metrics
    assert_close(metrics["ratio"].values, [1.5, 0.5, 1.1, 0.5, 1.5, 0.9])
    assert_close(metrics["log_ratio"].values.exp(), [1.5, 0.5, 1.1, 0.5, 1.5, 0.9])
    assert metrics["effective_sample_size"].values.shape == (6,)
    assert metrics["ratio_min"].reduction == "min"
    assert metrics["ratio_max"].reduction == "max"
    assert_close(metrics["clip_fraction"].values, [1, 0, 0, 1, 0, 0])
    assert_close(metrics["kl"].values, [K3_TWO, 0, K3_HALF, 0, K3_TWO, K3_HALF])


def test_each_bound_has_its_own_epsilon():
    # Upper bound 1.6: 1.5 is no longer clipped, 3 instead of 2.4.
    assert_close(DiffuGRPO(epsilon=0.2, epsilon_high=0.6, beta=0)(case()).loss, -3.0 / 6)


def test_unigrpo_averages_tokens_then_views_then_completions():
    inputs = case()
    # Views: (2.4 + 1) / 2 = 1.7 and 2.2; -0.8 and (-1.5 - 0.9) / 2 = -1.2. Completions: 1.95, -1.
    assert_close(UniGRPO(beta=0)(inputs).loss, -(1.95 - 1) / 2)
    # KL: (k3(2) / 2 + k3(0.5)) / 2 and (0 + (k3(2) + k3(0.5)) / 2) / 2 = 0.125.
    kl = (K3_TWO / 2 + K3_HALF) / 2 + 0.125
    assert_close(UniGRPO(beta=0.3)(inputs).loss, -0.475 + 0.3 * kl / 2)
    share = float64([[[1 / 2, 1 / 2, 0], [0, 0, 1]], [[1, 0, 0], [0, 1 / 2, 1 / 2]]]) / 4
    gradient = derivative(UniGRPO(beta=0.3), inputs)
    assert_close(gradient, -(SLOPE - 0.3 * K3_SLOPE) * share)


def test_unigrpo_leaves_out_views_that_hide_nothing():
    weight = WEIGHT.clone()
    weight[1, 0] = 0
    # Completion 1 has the view of mean -1.2 only.
    assert_close(UniGRPO(beta=0)(case(weight=weight)).loss, -(1.95 - 1.2) / 2)


def test_agrpo_sums_weighted_tokens_and_averages_views():
    inputs = case()
    # Views: 2 * 2.4 + 1 = 5.8 and 3 * 2.2 = 6.6; -0.8 and 2 (-1.5) + 4 (-0.9) = -6.6.
    assert_close(AGRPO()(inputs).loss, -((5.8 + 6.6) / 2 + (-0.8 - 6.6) / 2) / 2)
    assert_close(derivative(AGRPO(), inputs), -WEIGHT * SLOPE / 4)


def test_agrpo_multiplies_its_kl_by_the_ratio():
    inputs = case()
    ratio = RATIO.nan_to_num()
    # 2 * 1.5 k3(2) + 3 * 1.1 k3(0.5) and 2 * 1.5 k3(2) + 4 * 0.9 k3(0.5), over two views each.
    kl = (3 * K3_TWO + 3.3 * K3_HALF + 3 * K3_TWO + 3.6 * K3_HALF) / 2
    assert_close(AGRPO(beta=0.3)(inputs).loss, -1.25 + 0.3 * kl / 2)
    slope = ratio * (K3_SLOPE + K3)
    assert_close(derivative(AGRPO(beta=0.3), inputs), -WEIGHT * (SLOPE - 0.3 * slope) / 4)


def test_tracerl_averages_tokens_of_a_view_then_all_views():
    inputs = case(ref_ratio=None)
    # Views: 1.7, 2.2, -0.8, -1.2.
    assert_close(TraceRL(beta=0)(inputs).loss, -1.9 / 4)
    # The KL is to the old policy, and summed over a view's tokens.
    kl = k3(1.5) + k3(0.5) + k3(1.1) + k3(0.5) + k3(1.5) + k3(0.9)
    assert_close(TraceRL(beta=0.3)(inputs).loss, -1.9 / 4 + 0.3 * kl / 4)
    assert not TraceRL().needs_reference
    share = float64([[[1 / 2, 1 / 2, 0], [0, 0, 1]], [[1, 0, 0], [0, 1 / 2, 1 / 2]]])
    slope = (1 - 1 / RATIO).nan_to_num() * (WEIGHT > 0)
    gradient = derivative(TraceRL(beta=0.3), inputs)
    assert_close(gradient, -(SLOPE * share - 0.3 * slope) / 4)


def test_tracerl_counts_views_that_score_something_or_averages_each_completion_first():
    weight = WEIGHT.clone()
    weight[1, 0] = 0
    inputs = case(weight=weight, totals=Totals(2, 5, 5, 2, views=3))
    assert_close(TraceRL(beta=0)(inputs).loss, -(1.7 + 2.2 - 1.2) / 3)
    assert_close(TraceRL(beta=0, per_sequence=True)(inputs).loss, -((1.7 + 2.2) / 2 - 1.2) / 2)


def test_tracerl_drops_groups_whose_pass_rate_is_out_of_range():
    inputs = case(totals=Totals(4, 12, 10, 4, views=8))
    # Mean reward 0.5: inside [0.2, 0.8], and on the edge of [0.5, 0.5].
    for kept in ((0.2, 0.8), (0.5, 0.5)):
        assert_close(TraceRL(beta=0, pass_rate=kept)(inputs).loss, -1.9 / 8)
    for dropped in ((0.6, 0.8), (0.0, 0.4)):
        output = TraceRL(beta=0.3, pass_rate=dropped)(inputs)
        assert_close(output.loss, 0.0)
        assert not derivative(TraceRL(pass_rate=dropped), inputs).any()
        assert_close(output.metrics["kept_fraction"].values, [0, 0])
    # A completion without a reward does not count in its group's rate of 1.
    unscored = case(rewards=(1.0, NAN), advantages=(1.0, 0.0))
    assert derivative(TraceRL(pass_rate=(0.2, 1.0)), unscored)[0].any()
    assert not derivative(TraceRL(pass_rate=(0.2, 0.8)), unscored).any()


def test_justgrpo_divides_by_canvas_and_completions_that_teach_something():
    inputs = case(totals=Totals(2, 6, 5, 1))
    assert_close(JustGRPO()(inputs).loss, -2.4 / (3 * 1.00001))
    assert_close(derivative(JustGRPO(), inputs), -SLOPE / (3 * 1.00001))


# One draw of two views; a token's value is the weighted sum of its two log-probabilities.
PAIR_WEIGHT = float64([[[0.5, 0.5, 0], [1, 0, 0]], [[0, 0.5, 0], [2, 0, 0]]])
PAIR_PROBABILITY = float64(
    [[[0.25, 0.25, NAN], [0.5, NAN, NAN]], [[NAN, 0.25, NAN], [0.5, NAN, NAN]]]
)
# value ratios: completion 0: 4^0.5 * 0.75 = 1.5 and 0.25^0.5 = 0.5; completion 1: 0.81^0.5 = 0.9
# (token 1) and 0.7^2 = 0.49 (token 0).
PAIR_RATIO = float64([[[4, 0.25, NAN], [0.75, NAN, NAN]], [[NAN, 0.81, NAN], [0.7, NAN, NAN]]])
# To the reference: 1 * 2 = 2 and 0.25^0.5 = 0.5; 1 and (2^0.5)^2 = 2.
PAIR_REF = float64([[[1, 0.25, NAN], [2, NAN, NAN]], [[NAN, 1, NAN], [math.sqrt(2), NAN, NAN]]])


def pair_case(**settings):
    return case(
        weight=PAIR_WEIGHT,
        probability=PAIR_PROBABILITY,
        ratio=PAIR_RATIO,
        ref_ratio=PAIR_REF,
        views_per_draw=2,
        **settings,
    )


def test_coupled_grpo_takes_ratio_and_kl_of_the_value_of_a_token():
    inputs = pair_case()
    objective = CoupledGRPO(epsilon=0.2, beta=0.3)
    # A = 2: 1.5 -> 2.4 (clipped), 0.5 -> 1. A = -1: 0.9 -> -0.9, 0.49 -> -0.8 (clipped). Token 0
    # of completion 0 is scored in two views and counts twice, in the sum and among the 5 scored.
    kl = 2 * K3_TWO + K3_HALF + 0 + K3_TWO
    assert_close(objective(inputs).loss, -(2 * 2.4 + 1 - 0.9 - 0.8 - 0.3 * kl) / 5)
    # d value / d logp is the weight; k3 has slope 1 - 1/r: 0.5, -1, 0, 0.5.
    by_value = float64([[2 * -0.3 * 0.5, 1 + 0.3, 0], [-0.3 * 0.5, -0.9, 0]])
    assert_close(derivative(objective, inputs), -by_value[:, None] * PAIR_WEIGHT / 5)


def test_coupled_grpo_metrics_have_one_entry_per_token():
    metrics = CoupledGRPO(epsilon=0.2)(pair_case()).metrics
    assert_close(metrics["ratio"].values, [1.5, 0.5, 0.49, 0.9])
    assert_close(metrics["clip_fraction"].values, [1, 0, 1, 0])
    assert_close(metrics["kl"].values, [K3_TWO, K3_HALF, K3_TWO, 0])


def test_weights_only_select_tokens_but_in_agrpo_and_coupled_grpo():
    doubled = case(weight=2 * WEIGHT)
    for objective in (DiffuGRPO(), UniGRPO(), TraceRL(), JustGRPO()):
        assert_close(objective(doubled).loss, objective(case()).loss.detach())
    assert_close(AGRPO()(doubled).loss, -2.5)
    pairs = replace(pair_case(), weight=2 * PAIR_WEIGHT)
    assert CoupledGRPO()(pairs).loss != CoupledGRPO()(pair_case()).loss


OBJECTIVES = {
    "diffu_grpo": DiffuGRPO(epsilon=0.2, beta=0.3),
    "unigrpo": UniGRPO(beta=0.3),
    "agrpo": AGRPO(beta=0.3),
    "tracerl": TraceRL(beta=0.3),
    "tracerl per sequence": TraceRL(beta=0.3, per_sequence=True, pass_rate=(0.2, 0.8)),
    "justgrpo": JustGRPO(),
    "tv": DiffuGRPO(divergence=Divergence("tv")),
    "kl": AGRPO(divergence=Divergence("kl")),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_the_derivative_of_the_value(name):
    assert gradcheck(OBJECTIVES[name], case())


def test_gradient_of_coupled_grpo_is_the_derivative_of_the_value():
    assert gradcheck(CoupledGRPO(epsilon=0.2, beta=0.3), pair_case())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_unscored_completion_adds_nothing(name):
    scored = case(advantages=(2.0, 0.0), rewards=(1.0, NAN))
    given = case(
        weight=WEIGHT.clone().index_fill_(0, torch.tensor([1]), 0.0),
        advantages=(2.0, 0.0),
        rewards=(1.0, NAN),
        totals=scored.totals,
    )
    assert_close(OBJECTIVES[name](scored).loss, OBJECTIVES[name](given).loss.detach())
    assert not derivative(OBJECTIVES[name], scored)[1].any()


def test_an_unscored_completion_adds_nothing_to_coupled_grpo():
    given = pair_case(advantages=(2.0, 0.0), rewards=(1.0, NAN))
    objective = CoupledGRPO(epsilon=0.2, beta=0.3)
    assert_close(objective(given).loss, -(2 * 2.4 + 1 - 0.3 * (2 * K3_TWO + K3_HALF)) / 5)
    assert not derivative(objective, given)[1].any()


def test_agrpo_over_all_steps_has_the_gradient_of_the_mean_over_steps():
    """1 / T_i of the gradient of the exact log-likelihood of the trajectory."""
    length, sizes = 4, [2, 3]
    model = RandomConditionals(length, seed=2)
    completions = random_completions(length, sizes, seed=3)
    step_map = torch.tensor([[1, 0, 2, 1], [1, 0, 0, 1]])
    advantages = float64([0.7, -1.3])
    trajectory = []
    for row, size in enumerate(sizes):
        prompt = completions.prompt_ids[row, -size:]
        completion, total = completions.completion_ids[row], 0.0
        for step in range(int(step_map[row].max()) + 1):
            noisy = completion.masked_fill(step_map[row] >= step, 3)
            scored = torch.cat([torch.zeros(size, dtype=torch.bool), step_map[row] == step])
            total = (
                total
                + model(
                    torch.cat([prompt, noisy])[None],
                    None,
                    torch.cat([prompt, completion])[None],
                    scored[None],
                ).sum()
            )
        trajectory.append(total)
    wanted = -(advantages * torch.stack(trajectory) / float64([3, 2])).mean()
    (expected,) = torch.autograd.grad(wanted, model.table)
    assert expected.abs().max() > 1e-2
    last = torch.tensor([2, 1])
    draws = [
        draw_trajectory(make_generators([0, 1]), step_map, last, None, dtype=torch.float64),
        # Six stratified draws of three steps and of two take each step two and three times.
        draw_trajectory(make_generators([0, 1]), step_map, last, 6, dtype=torch.float64),
    ]
    for maskings in draws:
        logp = one_view_at_a_time(model, completions, maskings)
        inputs = ObjectiveInputs(
            logp=logp,
            old_logp=logp.detach(),
            ref_logp=None,
            weight=maskings.weight,
            views_per_draw=1,
            advantages=advantages,
            rewards=advantages,
            lengths=torch.tensor([4, 4]),
            canvas=length,
            group_size=2,
            totals=Totals(2, 8, 8, 2),
        )
        (gradient,) = torch.autograd.grad(AGRPO()(inputs).loss, model.table)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_ratios_that_overflow_where_nothing_flows_leave_the_gradient_finite():
    # exp(800) is infinite: clipped at A > 0, irrelevant at A = 0.
    ratio = RATIO.clone()
    inputs = case(ratio=ratio, ref_ratio=REF_RATIO, advantages=(2.0, 0.0))
    old = inputs.old_logp - 800
    for objective in (DiffuGRPO(beta=0), UniGRPO(beta=0), AGRPO(), JustGRPO()):
        given = replace(inputs, old_logp=old)
        assert objective(given).loss.isfinite()
        assert derivative(objective, given).isfinite().all()
