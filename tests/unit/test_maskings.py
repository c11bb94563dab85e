"""Draws of hidden tokens: their law, their weights, and that a draw depends on its seed alone."""

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from table_model import RandomConditionals, enumerated_elbo, every_mask

from unmask.estimators import ELBO, ESTIMATORS, DrawContext, OneStep, TimeUniform
from unmask.maskings import (
    Maskings,
    derive_seed,
    draw_elbo,
    draw_one_step,
    draw_time_uniform,
    make_generators,
)

COUNT_FORMS = {
    "from one": {},
    "from zero": {"include_zero": True},
    "coupled": {"coupled": True},
}


def elbo_draws(seeds, length, num_mc, **options):
    return draw_elbo(make_generators(seeds), length, num_mc, dtype=torch.float64, **options)


def first_views(maskings):
    """The hidden set of each draw's first view, bool [B, J, L]."""
    return maskings.hidden[:, :: maskings.views_per_draw]


def law_of_hidden_sets(length, lowest):
    """P(hidden set) where the count is uniform from `lowest` to `length`, by hidden set."""
    hidden, _ = every_mask(
        RandomConditionals(length), torch.tensor([0]), torch.zeros(length).long()
    )
    counts = hidden.sum(-1).tolist()
    num_counts = length + 1 - lowest
    return {
        tuple(row): 1 / (num_counts * math.comb(length, count))
        for row, count in zip(hidden.tolist(), counts, strict=True)
        if count >= lowest
    }


def assert_frequencies_fit(observed, law):
    """A chi-square test at about five standard deviations; the seeds are fixed."""
    total = sum(observed.values())
    assert set(observed) <= set(law)
    assert math.isclose(sum(law.values()), 1)
    statistic = sum((observed[key] - total * p) ** 2 / (total * p) for key, p in law.items())
    freedom = len(law) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def rows(hidden):
    return [tuple(row) for row in hidden.tolist()]


@pytest.mark.parametrize("form", COUNT_FORMS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_expectation_over_all_count_draws_is_the_enumerated_elbo(form, length):
    options = COUNT_FORMS[form]
    model = RandomConditionals(length, seed=length)
    prompt, completion = torch.tensor([2, 0]), torch.arange(length) % 3
    hidden, logp = every_mask(model, prompt, completion)
    logp_of = dict(zip(rows(hidden), logp, strict=True))
    maskings = elbo_draws(range(600), length, 2, **options)
    views = maskings.views_per_draw
    value_of = {}
    for draw_hidden, draw_weight in zip(
        maskings.hidden.view(-1, views, length).tolist(),
        maskings.weight.view(-1, views, length),
        strict=True,
    ):
        sets = [tuple(view) for view in draw_hidden]
        value = sum((w * logp_of[s]).sum() for s, w in zip(sets, draw_weight, strict=True))
        assert torch.equal(value_of.setdefault(sets[0], value), value)
    law = law_of_hidden_sets(length, lowest=0 if options else 1)
    assert set(value_of) == set(law)
    expectation = sum(p * value_of[key] for key, p in law.items())
    torch.testing.assert_close(
        expectation, enumerated_elbo(model, prompt, completion), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("form", COUNT_FORMS)
def test_hidden_sets_of_every_draw_follow_the_law(form, stratified):
    length, num_mc, options = 3, 4, COUNT_FORMS[form]
    maskings = elbo_draws(range(4000), length, num_mc, stratified=stratified, **options)
    law = law_of_hidden_sets(length, lowest=0 if options else 1)
    for draw in range(num_mc):
        assert_frequencies_fit(Counter(rows(first_views(maskings)[:, draw])), law)


def test_draws_that_are_not_stratified_are_independent():
    sets = first_views(elbo_draws(range(6000), 2, 2, stratified=False))
    law = law_of_hidden_sets(2, lowest=1)
    pairs = {(a, b): p * q for a, p in law.items() for b, q in law.items()}
    observed = Counter((tuple(a), tuple(b)) for a, b in sets.tolist())
    assert_frequencies_fit(observed, pairs)


def test_positions_of_stratified_draws_are_independent():
    # L = 3 and two draws of counts 1..3: offset 3 // 2 = 1, so counts (1, 2) from start 0.
    sets = first_views(elbo_draws(range(9000), 3, 2))
    chosen = [(tuple(a), tuple(b)) for a, b in sets.tolist() if (sum(a), sum(b)) == (1, 2)]
    ones = [s for s in law_of_hidden_sets(3, lowest=1) if sum(s) == 1]
    twos = [s for s in law_of_hidden_sets(3, lowest=1) if sum(s) == 2]
    assert len(chosen) > 2500
    assert_frequencies_fit(Counter(chosen), {(a, b): 1 / 9 for a in ones for b in twos})


@pytest.mark.parametrize("form", COUNT_FORMS)
@pytest.mark.parametrize("length", range(1, 9))
def test_stratified_counts_have_exactly_uniform_marginals_over_all_starts(form, length):
    options = COUNT_FORMS[form]
    lowest = 0 if options else 1
    every_count = list(range(lowest, length + 1))
    size = len(every_count)
    for num_mc in range(1, 10):
        counts = first_views(elbo_draws(range(150), length, num_mc, **options)).sum(-1).tolist()
        by_start = {row[0] - lowest: row for row in counts}
        assert all(by_start[row[0] - lowest] == row for row in counts)
        assert sorted(by_start) == list(range(size))
        for draw in range(num_mc):
            assert sorted(row[draw] for row in by_start.values()) == every_count
        # u + floor(j n / J), with the floor taken of an exact fraction.
        for start, row in by_start.items():
            offsets = [math.floor(Fraction(j * size, num_mc)) for j in range(num_mc)]
            assert row == [(start + offset) % size + lowest for offset in offsets]


def test_stratified_starts_are_uniform():
    counts = first_views(elbo_draws(range(4000), 5, 3)).sum(-1)[:, 0].tolist()
    assert_frequencies_fit(Counter(counts), dict.fromkeys(range(1, 6), 0.2))


def test_weights_of_the_three_count_forms_are_as_computed_by_hand():
    # L = 4. From one: L / k. From zero: (L + 1) / k. Coupled: halves of 5 / k and 5 / (4 - k).
    expected = {
        "from one": {1: 4, 2: 2, 3: 4 / 3, 4: 1},
        "from zero": {0: 0, 1: 5, 2: 5 / 2, 3: 5 / 3, 4: 5 / 4},
        "coupled": {0: 0, 1: 5 / 2, 2: 5 / 4, 3: 5 / 6, 4: 5 / 8},
    }
    for form, by_count in expected.items():
        maskings = elbo_draws(range(60), 4, 3, **COUNT_FORMS[form])
        count = maskings.hidden.sum(-1, keepdim=True)
        weight = torch.tensor([by_count.get(k, 0) for k in range(5)], dtype=torch.float64)[count]
        torch.testing.assert_close(maskings.weight, weight * maskings.hidden, rtol=1e-15, atol=0)
        assert torch.equal(maskings.scored, maskings.hidden)


def test_coupled_draws_are_consecutive_complements_that_score_every_token_once():
    maskings = elbo_draws(range(50), 5, 3, coupled=True)
    assert (maskings.views_per_draw, maskings.num_views, maskings.num_draws) == (2, 6, 3)
    first, second = maskings.hidden.view(50, 3, 2, 5).unbind(2)
    assert torch.equal(second, ~first)
    assert torch.equal(maskings.scored.view(50, 3, 2, 5).sum(2), torch.ones(50, 3, 5).long())


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_integral_over_time_is_the_enumerated_elbo(length):
    # Integral of t^k (1-t)^(L-k) / t over (0, 1] = (k-1)! (L-k)! / L! for k >= 1.
    model = RandomConditionals(length, seed=length)
    prompt, completion = torch.tensor([1]), torch.arange(length) % 3
    hidden, logp = every_mask(model, prompt, completion)
    factor = [
        math.factorial(k - 1) * math.factorial(length - k) / math.factorial(length) if k else 0.0
        for k in hidden.sum(-1).tolist()
    ]
    expectation = (torch.tensor(factor, dtype=torch.float64) * logp.sum(-1)).sum()
    torch.testing.assert_close(
        expectation, enumerated_elbo(model, prompt, completion), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("stratified", [False, True])
def test_time_uniform_draws_follow_the_law_of_time_and_hidden_set(stratified):
    length, num_mc = 3, 2
    maskings = draw_time_uniform(
        make_generators(range(6000)), length, num_mc, stratified=stratified, dtype=torch.float64
    )
    counts = maskings.hidden.sum(-1)
    time = 1 / maskings.weight.amax(-1)
    assert torch.equal(maskings.scored, maskings.hidden)
    torch.testing.assert_close(
        maskings.weight, maskings.hidden / time.clamp(max=1)[..., None], rtol=1e-15, atol=0
    )
    law = {  # P(set of k) = k! (L-k)! / (L+1)!, which is a uniform count from 0
        key: 1 / (4 * math.comb(3, sum(key))) for key in law_of_hidden_sets(length, lowest=0)
    }
    for draw in range(num_mc):
        assert_frequencies_fit(Counter(rows(maskings.hidden[:, draw])), law)
        for count in (1, 2, 3):
            times = time[:, draw][counts[:, draw] == count]
            # t given k hidden is Beta(k + 1, L - k + 1).
            mean = (count + 1) / 5
            deviation = math.sqrt(mean * (1 - mean) / 6)
            assert times.max() <= 1
            assert abs(times.mean() - mean) < 5 * deviation / math.sqrt(len(times))
            assert abs(times.std() / deviation - 1) < 0.1


def test_time_has_no_floor():
    # Two of a sequence's 2000 evenly spaced times are below 1e-3, where 1000 positions often show.
    maskings = draw_time_uniform(make_generators(range(4)), 1000, 2000, stratified=True)
    assert 1000 < maskings.weight.max() < math.inf


def test_stratified_times_are_evenly_spaced_from_one_start():
    maskings = draw_time_uniform(
        make_generators(range(40)), 200, 4, stratified=True, dtype=torch.float64
    )
    time = 1 / maskings.weight.amax(-1)
    shown = maskings.scored.any(-1).all(-1)
    assert shown.sum() > 30
    gaps = (time[shown, :1] - time[shown]) % 1
    expected = (torch.arange(4, dtype=torch.float64) / 4).expand_as(gaps)
    torch.testing.assert_close(gaps, expected, rtol=0, atol=1e-12)


DRAWS = {
    "elbo": lambda seeds: draw_elbo(make_generators(seeds), 6, 3),
    "coupled": lambda seeds: draw_elbo(make_generators(seeds), 6, 3, coupled=True),
    "unstratified": lambda seeds: draw_elbo(make_generators(seeds), 6, 3, stratified=False),
    "time": lambda seeds: draw_time_uniform(make_generators(seeds), 6, 3),
    "stratified time": lambda s: draw_time_uniform(make_generators(s), 6, 3, stratified=True),
    "one step": lambda seeds: draw_one_step(
        make_generators(seeds),
        torch.tensor([4] * len(seeds)),
        6,
        prompt_lengths=torch.tensor([5] * len(seeds)),
        p_mask_prompt=0.5,
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_depends_on_its_own_seed_alone(name):
    draw = DRAWS[name]
    seeds = [11, 7, 23, 7]
    torch.manual_seed(1)
    together = draw(seeds)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    for row, seed in enumerate(seeds):
        alone = draw([seed])
        assert torch.equal(alone.hidden[0], together.hidden[row])
        assert torch.equal(alone.weight[0], together.weight[row])
        if together.prompt_hidden is not None:
            assert torch.equal(alone.prompt_hidden[0], together.prompt_hidden[row])
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was advanced"


def test_different_seeds_give_different_draws():
    for name, draw in DRAWS.items():
        maskings = draw(range(10))
        values = maskings.prompt_hidden if name == "one step" else maskings.weight
        assert len({str(row.tolist()) for row in values}) > 5, name


def test_one_step_hides_everything_and_scores_up_to_the_first_eos():
    maskings = draw_one_step(make_generators([0, 1]), torch.tensor([2, 4]), 4)
    assert maskings.hidden.all()
    assert maskings.weight.tolist() == [[[1, 1, 0, 0]], [[1, 1, 1, 1]]]
    assert maskings.prompt_hidden is None


def test_hidden_prompt_tokens_end_with_the_prompt_whatever_the_padding():
    sizes = [3, 9, 5, 0]
    together = draw_one_step(
        make_generators(range(4)),
        torch.ones(4).long(),
        2,
        prompt_lengths=torch.tensor(sizes),
        p_mask_prompt=0.5,
    ).prompt_hidden
    assert together.shape == (4, 1, 9)
    for row, size in enumerate(sizes):
        alone = draw_one_step(
            make_generators([row]),
            torch.ones(1).long(),
            2,
            prompt_lengths=torch.tensor([size]),
            p_mask_prompt=0.5,
        ).prompt_hidden
        assert torch.equal(together[row, 0, 9 - size :], alone[0, 0])
        assert not together[row, 0, : 9 - size].any()


@pytest.mark.parametrize("probability", [0.15, 0.6, 1.0])
def test_prompt_tokens_are_hidden_with_the_given_probability(probability):
    hidden = draw_one_step(
        make_generators(range(400)),
        torch.ones(400).long(),
        1,
        prompt_lengths=torch.full((400,), 20),
        p_mask_prompt=probability,
    ).prompt_hidden
    deviation = math.sqrt(probability * (1 - probability) / 8000)
    assert abs(hidden.double().mean() - probability) <= 5 * deviation
    per_place = hidden.double().mean(0)[0]
    assert (per_place - probability).abs().max() <= 5 * deviation * math.sqrt(20)


def test_no_prompt_token_is_hidden_at_probability_zero():
    maskings = draw_one_step(
        make_generators([0]),
        torch.tensor([1]),
        2,
        prompt_lengths=torch.tensor([4]),
        p_mask_prompt=0,
    )
    assert maskings.prompt_hidden is None


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed("masking", 42, 0, 0) == 7_061_377_799_797_141_540
    assert derive_seed("rollout", 42, 3, 17) == 6_034_375_908_702_244_319


def test_seeds_are_distinct_and_fit_a_generator():
    seeds = {
        derive_seed("masking", a, b, c) for a in range(20) for b in range(20) for c in range(20)
    }
    assert len(seeds) == 8000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    # A CPU generator reads only the lower 32 bits.
    assert len({seed % 2**32 for seed in seeds}) == 8000
    close = [("a", 1, 23), ("a", 12, 3), ("a", 123), ("a", "1", 23), ("a1", 23), (1, "a", 23)]
    assert len({derive_seed(*parts) for parts in close}) == len(close)


@pytest.mark.parametrize(
    ("hidden", "weight", "prompt", "views", "message"),
    [
        ((2, 3, 4), (2, 3, 5), None, 1, r"weight \[2, 3, 5\]"),
        ((2, 4), (2, 4), None, 1, r"both must be \[B, M, L\]"),
        ((2, 3, 4), (2, 3, 4), None, 2, "3 views cannot be split into draws of 2"),
        ((2, 3, 4), (2, 3, 4), None, 0, "3 views cannot be split into draws of 0"),
        ((2, 3, 4), (2, 3, 4), (2, 2, 7), 1, r"prompt_hidden \[2, 2, 7\]"),
        ((2, 3, 4), (2, 3, 4), (2, 3), 1, r"it must be \[B, M, P\]"),
    ],
)
def test_maskings_that_do_not_fit_together_are_refused(hidden, weight, prompt, views, message):
    marks = None if prompt is None else torch.zeros(prompt, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        Maskings(torch.zeros(hidden, dtype=torch.bool), torch.zeros(weight), marks, views)


def test_settings_out_of_range_are_refused():
    generators, one = make_generators([0]), torch.tensor([1])
    with pytest.raises(ValueError, match="length=0 is too small"):
        draw_elbo(generators, 0, 1)
    with pytest.raises(ValueError, match="num_mc=0 is too small"):
        draw_elbo(generators, 3, 0)
    with pytest.raises(ValueError, match="num_mc=-1 is too small"):
        draw_time_uniform(generators, 3, -1)
    with pytest.raises(ValueError, match=r"p_mask_prompt=1\.5 is no probability"):
        draw_one_step(generators, one, 3, p_mask_prompt=1.5)
    with pytest.raises(ValueError, match="num_mc=0 is too small"):
        ELBO(num_mc=0)
    with pytest.raises(ValueError, match="num_mc=0 is too small"):
        TimeUniform(num_mc=0)
    with pytest.raises(ValueError, match=r"p_mask_prompt=-0\.1 is no probability"):
        OneStep(p_mask_prompt=-0.1)


def test_estimators_by_name_draw_what_their_functions_draw():
    seeds, lengths, prompts = [3, 5], torch.tensor([2, 4]), torch.tensor([6, 3])
    context = DrawContext(seeds, lengths, prompts, 4, torch.zeros(2, 4).long())
    expected = {
        "elbo": draw_elbo(make_generators(seeds), 4, 3, coupled=False, stratified=False),
        "time_uniform": draw_time_uniform(make_generators(seeds), 4, 5, stratified=True),
        "one_step": draw_one_step(
            make_generators(seeds), lengths, 4, prompt_lengths=prompts, p_mask_prompt=0.4
        ),
    }
    settings = {
        "elbo": {"num_mc": 3, "coupled": False, "stratified": False},
        "time_uniform": {"num_mc": 5, "stratified": True},
        "one_step": {"p_mask_prompt": 0.4},
    }
    for name, wanted in expected.items():
        drawn = ESTIMATORS[name](**settings[name]).draw(context)
        assert torch.equal(drawn.hidden, wanted.hidden)
        assert torch.equal(drawn.weight, wanted.weight)
        if name == "one_step":
            assert torch.equal(drawn.prompt_hidden, wanted.prompt_hidden)
