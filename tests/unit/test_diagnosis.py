"""Bias, variance and gradient noise of estimators, against enumeration on tiny tables."""

import math
from dataclasses import replace

import pytest
import torch
from table_model import (
    MASK,
    JointTable,
    RandomConditionals,
    enumerated_elbo,
    every_mask,
    order_log_likelihoods,
    random_completions,
)

from unmask.diagnosis.estimates import (
    CANDIDATES,
    Subject,
    Target,
    elbo_target,
    estimator_moments,
)
from unmask.diagnosis.gradients import gradient_signal
from unmask.diagnosis.run import (
    RECIPE,
    Settings,
    advice,
    candidates,
    diagnose,
    spread_within_groups,
)
from unmask.estimators import ELBO, LeftToRight, OneStep, Quadrature, TimeUniform, Trajectory
from unmask.recipe import load_config

LENGTH = 4


def subject(model=None, length=LENGTH, prompt_lengths=(2, 3), max_tokens=500, seed=0):
    model = RandomConditionals(length, seed=1) if model is None else model
    batch = len(prompt_lengths)
    return Subject(
        model,
        random_completions(length, list(prompt_lengths), seed=2),
        lengths=torch.full((batch,), length),
        step_map=torch.arange(length).flip(0).expand(batch, -1),
        eos=None,
        mask_token_id=MASK,
        max_tokens=max_tokens,
        seed=seed,
    )


def pairs(given):
    rows = zip(given.completions.prompt_ids, given.completions.prompt_mask, strict=True)
    prompts = [ids[mask.bool()] for ids, mask in rows]
    return list(zip(prompts, given.completions.completion_ids, strict=True))


def enumerated(given):
    return torch.stack([enumerated_elbo(given.model, *pair) for pair in pairs(given)]).detach()


def moments(given, name, num_mc, repeats):
    return estimator_moments(given, name, CANDIDATES[name], num_mc, repeats)


def single_draws(given, row):
    """Count, probability and estimate of every random-count draw: k ~ U{1..L}, a set of size k."""
    hidden, logp = every_mask(given.model, *pairs(given)[row])
    hidden, logp = hidden[1:], logp[1:].detach()
    sizes = hidden.sum(-1)
    ways = torch.tensor([math.comb(LENGTH, int(k)) for k in sizes])
    return sizes, 1 / (LENGTH * ways), LENGTH / sizes * logp.sum(-1)


def test_a_short_canvas_is_enumerated():
    given = subject()
    target = elbo_target(given, num_draws=1)
    torch.testing.assert_close(target.value, enumerated(given), rtol=1e-10, atol=0)
    assert target.noise.tolist() == [0, 0]
    assert target.num_draws is None


def test_a_long_canvas_is_estimated_within_its_own_standard_error():
    # On a joint table the ELBO is the log-likelihood.
    given = subject(JointTable(7, seed=3), length=7)
    target = elbo_target(given, num_draws=256)
    exact = torch.stack([given.model.log_likelihood(*pair) for pair in pairs(given)]).detach()
    assert target.num_draws == 256
    assert (target.noise > 0).all()
    assert ((target.value - exact).abs() < 4 * target.noise.sqrt()).all()


def test_the_variance_of_random_counts_is_the_enumerated_one():
    given = subject()
    (one, four) = moments(given, "elbo", [1, 4], repeats=500)
    for row in range(2):
        _, chance, value = single_draws(given, row)
        mean = (chance * value).sum()
        variance = (chance * (value - mean).square()).sum()
        assert one.variance[row].item() == pytest.approx(variance.item(), rel=0.1)
    torch.testing.assert_close(four.variance, one.variance / 4)
    assert (one.views, four.views) == (1, 4)


def test_draws_that_are_made_once_scatter_as_estimates_made_anew():
    given = subject()
    pooled = moments(given, "elbo_coupled", [1, 8], repeats=100)[1]
    anew = torch.stack(
        [
            given.estimates(given.maskings(ELBO(8, True, False), "anew", repeat)).mean(-1)
            for repeat in range(400)
        ]
    )
    torch.testing.assert_close(pooled.variance, anew.var(0), rtol=0.25, atol=0)
    assert pooled.views == 16


def test_mean_field_misses_the_elbo_by_the_enumerated_amount():
    given = subject()
    found = estimator_moments(given, "one_step", OneStep(p_mask_prompt=0.0), [1, 4], repeats=3)
    (row,) = [each.against(elbo_target(given, 1)) for each in found]
    exact = 0.0
    for index, pair in enumerate(pairs(given)):
        _, logp = every_mask(given.model, *pair)
        exact += (logp[-1].sum() - enumerated(given)[index]).item() / 2
    assert row["bias"] == pytest.approx(exact, rel=1e-10)
    assert abs(exact) > 0.05
    assert (row["variance"], row["views"], row["num_mc"]) == (0, 1, 1)
    assert row["bias_se"] == 0


def test_the_error_holds_variance_and_bias_and_not_the_noise_of_the_bias():
    target = Target(torch.tensor([1.0, 2.0]).double(), torch.zeros(2).double(), None)
    given = subject()
    (found,) = estimator_moments(given, "x", OneStep(p_mask_prompt=0.0), [1], repeats=2)
    values = {
        "mean": torch.tensor([4.0, 7.0]).double(),
        "variance": torch.tensor([1.0, 3.0]).double(),
        "noise": torch.tensor([0.5, 1.5]).double(),
    }
    row = type(found)(**{**vars(found), **values}).against(target)
    # Biases 3 and 5; squared 9 and 25, less noise 0.5 and 1.5: 16 on average.
    assert row["bias"] == 4
    assert row["bias_se"] == pytest.approx(math.sqrt(2) / 2)
    assert row["variance"] == 2
    assert row["rmse"] == pytest.approx(math.sqrt(2 + 16))


@pytest.mark.parametrize(
    "name",
    ["elbo", "elbo_stratified", "elbo_coupled", "elbo_coupled_stratified", "time_uniform",
     "time_uniform_stratified"],
)  # fmt: skip
def test_estimators_of_the_elbo_have_no_bias_beyond_noise(name):
    given = subject()
    target = elbo_target(given, 1)
    for found in moments(given, name, [1, 5], repeats=150):
        row = found.against(target)
        assert abs(row["bias"]) < 4 * row["bias_se"], row
        assert row["bias_se"] < 0.4


def test_stratified_counts_are_drawn_anew_for_every_number_of_draws():
    # With as many draws as counts every count comes once: only the variance within counts is left.
    given = subject()
    (found,) = moments(given, "elbo_stratified", [LENGTH], repeats=600)
    for row in range(2):
        sizes, _, value = single_draws(given, row)
        within = sum(value[sizes == k].var(correction=0).item() for k in range(1, LENGTH + 1))
        assert found.variance[row].item() == pytest.approx(within / LENGTH**2, rel=0.15)


def test_quadrature_is_biased_beyond_twice_its_nodes():
    # Three equally likely completions of one repeated token: only where all four are hidden does
    # a token cost anything, log 3. The ELBO is -log 3.
    model = JointTable(LENGTH)
    same = (model.sequences == model.sequences[:, :1]).all(-1)
    model.table.data = torch.where(same, 0.0, -50.0).double().expand_as(model.table).clone()
    given = replace(subject(model), completions=repeated_tokens())
    target = elbo_target(given, 1)
    assert target.value.tolist() == pytest.approx([-math.log(3)] * 2)
    one, two = (
        each.against(target)
        for each in estimator_moments(given, "quadrature", Quadrature(), [1, 2], repeats=800)
    )
    # One node hides each token with probability 1/2 and weighs it 2: -2 * 4 log 3 / 2^4.
    assert abs(one["bias"] - math.log(3) / 2) < 3 * one["bias_se"]
    assert one["bias"] > 6 * one["bias_se"]
    assert abs(two["bias"]) < 3 * two["bias_se"]


def repeated_tokens():
    completions = random_completions(LENGTH, [2, 3], seed=2)
    return replace(completions, completion_ids=torch.tensor([[1] * LENGTH, [2] * LENGTH]))


def test_left_to_right_is_one_order_and_has_no_variance():
    given = subject()
    (found,) = estimator_moments(given, "ltr", LeftToRight(), [1, 2], repeats=8)
    exact = [order_log_likelihoods(given.model, *pair)[0].item() for pair in pairs(given)]
    assert found.mean.tolist() == pytest.approx(exact, rel=1e-10)
    assert found.variance.tolist() == [0, 0]
    assert (found.views, found.num_mc) == (LENGTH, 1)


def test_a_trajectory_counts_all_its_steps():
    # The step map runs from right to left, so the trajectory is the last of all orders.
    given = subject()
    (found,) = estimator_moments(given, "t", Trajectory(until="first_eos"), [LENGTH], repeats=3)
    exact = [order_log_likelihoods(given.model, *pair)[-1].item() for pair in pairs(given)]
    assert found.mean.tolist() == pytest.approx(exact, rel=1e-6)
    assert found.variance.tolist() == pytest.approx([0, 0], abs=1e-10)


def test_one_seed_gives_the_same_numbers_and_another_gives_others():
    def values(seed, max_tokens=500):
        found = moments(subject(seed=seed, max_tokens=max_tokens), "elbo", [1, 2], repeats=5)
        return torch.stack([torch.stack([each.mean, each.variance]) for each in found])

    assert torch.equal(values(3), values(3))
    torch.testing.assert_close(values(3, max_tokens=1), values(3), rtol=1e-12, atol=0)
    assert not torch.equal(values(3), values(4))


# --- the gradient -------------------------------------------------------------------------------

ADVANTAGES = torch.tensor([2.0, -1.0])


def direct_gradients(given, estimator, repeats):
    """d/d table of -mean_i A_i estimate_i / L for every redraw, one row each."""
    rows = []
    for repeat in range(repeats):
        maskings = given.maskings(estimator, "g", "gradient", repeat)
        total = 0
        for row, (prompt, completion) in enumerate(pairs(given)):
            hidden, logp = every_mask(given.model, prompt, completion)
            where = [(hidden == view).all(-1).nonzero().item() for view in maskings.hidden[row]]
            value = (maskings.weight[row] * logp[where]).sum() / maskings.num_draws
            total = total - ADVANTAGES[row] * value / LENGTH / 2
        rows.append(torch.autograd.grad(total, given.model.table)[0].flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("max_tokens", [10, 500])
@pytest.mark.parametrize("estimator", [ELBO(2, True, True), TimeUniform(3)])
def test_signal_and_noise_are_those_of_all_gradients_at_once(estimator, max_tokens):
    given, repeats = subject(max_tokens=max_tokens), 5
    found = gradient_signal(given, "g", estimator, ADVANTAGES, 2, repeats)
    rows = direct_gradients(given, estimator, repeats)
    noise = rows.var(0).sum().item()
    signal = rows.mean(0).square().sum().item() - noise / repeats
    assert found.noise == pytest.approx(noise, rel=1e-6)
    assert found.signal == pytest.approx(max(0, signal), rel=1e-6)


def test_more_draws_raise_the_signal_to_noise_ratio():
    ratios = [
        gradient_signal(subject(), "g", ELBO(count, True, False), ADVANTAGES, 2, 100).ratio
        for count in (1, 4, 16)
    ]
    assert ratios[1] == pytest.approx(4 * ratios[0], rel=0.4)
    assert ratios[2] == pytest.approx(16 * ratios[0], rel=0.4)


def test_without_advantages_there_is_neither_signal_nor_noise():
    found = gradient_signal(subject(), "g", ELBO(1), torch.zeros(2), 2, 3)
    assert (found.signal, found.noise, found.ratio) == (0, 0, None)


# --- settings and advice ------------------------------------------------------------------------


def row(num_mc, std, name="elbo"):
    return {"estimator": name, "num_mc": num_mc, "views": num_mc, "std": std}


def test_the_advice_is_the_smallest_number_of_draws_below_the_rule():
    rows = [row(8, 0.2), row(1, 0.9), row(4, 0.49), row(2, 0.5), row(1, 0.1, "other")]
    said = advice(rows, "elbo", spread=1.0, share=0.5)
    assert said.startswith("num_mc=4 (4 forward passes)")
    assert "0.5 x the spread" in said


def test_the_advice_says_when_nothing_is_enough():
    said = advice([row(1, 0.9), row(2, 0.7)], "elbo", spread=1.0, share=0.5)
    assert said.startswith("No measured num_mc is enough: at num_mc=2")


def test_the_spread_is_taken_within_prompts():
    target = Target(torch.tensor([1.0, 3.0, 11.0, 15.0]).double(), torch.zeros(4).double(), None)
    # Sample variances 2 and 8.
    assert spread_within_groups(target, 2) == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize(
    ("overrides", "own"),
    [
        (["estimator.num_mc=7"], "elbo_coupled_stratified"),
        (["estimator.coupled=false"], "elbo_stratified"),
        (["estimator={name: quadrature, num_mc: 3}"], "quadrature"),
        (["estimator={name: one_step, p_mask_prompt: 0.5}"], RECIPE),
    ],
)
def test_the_recipes_estimator_is_always_measured(tmp_path, overrides, own):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("command: train\n")
    config = load_config([str(recipe), *overrides], "train")
    name, chosen = candidates(config, ["elbo"])
    assert name == own
    assert set(chosen) == {"elbo", own}
    assert set(candidates(config, [])[1]) == {*CANDIDATES, own}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompts": 0}, "--prompts 0 is too small"),
        ({"repeats": 1}, "--repeats 1 is too small: give at least 2"),
        ({"target_draws": 0}, "--target-draws 0"),
        ({"share": 0.0}, "--share 0.0"),
        ({"share": math.nan}, "--share nan"),
        ({"share": math.inf}, "--share inf is no share: give a finite number above 0"),
        ({"num_mc": "1,two"}, "--num-mc '1,two'"),
        ({"num_mc": "0,1"}, "--num-mc '0,1'"),
        ({"num_mc": ""}, "--num-mc ''"),
        ({"estimators": "elbo,elbow"}, "--estimators 'elbow' is unknown: choose elbo,"),
    ],
)
def test_wrong_settings_are_refused_with_the_option_that_is_wrong(given, words):
    with pytest.raises(ValueError, match=r"^--") as caught:
        Settings.parse(**{"num_mc": "1", "estimators": "", **given})
    assert words in str(caught.value)


def test_a_group_of_one_has_no_spread_to_compare_with():
    settings = ["objective.name=astar_po", "training.num_generations=1"]
    config = load_config(["sudoku-tiny", *settings, "model.path=/nowhere"], "train")
    with pytest.raises(ValueError, match=r"^training.num_generations=1: .* set at least 2$"):
        diagnose(config, Settings())
