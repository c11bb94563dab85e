"""Draws of the papers' own estimators: noise levels, blocks, trajectories, left to right."""

import math
from collections import Counter
from itertools import pairwise, product

import pytest
import torch
from table_model import (
    JointTable,
    RandomConditionals,
    enumerated_elbo,
    every_mask,
    one_view_at_a_time,
    order_log_likelihoods,
    random_completions,
)

from unmask.estimators import (
    ESTIMATORS,
    Block,
    CoupledTime,
    DrawContext,
    LeftToRight,
    Quadrature,
    SpacedTime,
    Trajectory,
)
from unmask.likelihood import mean_over_views, sequence_estimate, token_estimates, view_means
from unmask.maskings import (
    draw_coupled_time,
    draw_quadrature,
    draw_spaced_time,
    make_generators,
)
from unmask.maskings_trajectory import (
    draw_block,
    draw_left_to_right,
    draw_trajectory,
    last_steps,
)

DOUBLE = {"dtype": torch.float64}

# Nodes and weights of [0, 1] from a table of Gauss-Legendre rules.
NODES = {
    1: [(0.5, 1.0)],
    2: [((1 - 1 / math.sqrt(3)) / 2, 0.5), ((1 + 1 / math.sqrt(3)) / 2, 0.5)],
    3: [
        ((1 - math.sqrt(0.6)) / 2, 5 / 18),
        (0.5, 8 / 18),
        ((1 + math.sqrt(0.6)) / 2, 5 / 18),
    ],
}


def assert_close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def expected_estimate(length, num_mc):
    """The estimate's expectation over what is hidden, and the ELBO, by enumeration."""
    model = RandomConditionals(length, seed=length)
    prompt, completion = torch.tensor([2, 0]), torch.arange(length) % 3
    hidden, logp = every_mask(model, prompt, completion)
    counts = hidden.sum(-1).double()
    maskings = draw_quadrature(make_generators(range(40)), length, num_mc, **DOUBLE)
    total = 0.0
    for draw, (time, mass) in enumerate(NODES[num_mc]):
        weight = maskings.weight[:, draw]
        factor = weight[weight > 0]
        assert_close(factor, torch.full_like(factor, num_mc * mass / time))
        chance = time**counts * (1 - time) ** (length - counts)
        total = total + (chance * factor[0] * logp.sum(-1)).sum() / num_mc
    return total, enumerated_elbo(model, prompt, completion)


@pytest.mark.parametrize(("num_mc", "length"), [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)])
def test_quadrature_is_the_elbo_for_up_to_twice_as_many_tokens_as_nodes(num_mc, length):
    estimate, elbo = expected_estimate(length, num_mc)
    assert_close(estimate, elbo, 1e-10)


@pytest.mark.parametrize(("num_mc", "length"), [(1, 3), (2, 5)])
def test_quadrature_is_biased_beyond(num_mc, length):
    estimate, elbo = expected_estimate(length, num_mc)
    assert abs(estimate - elbo) > 1e-4


@pytest.mark.parametrize("num_mc", [2, 3])
def test_quadrature_hides_each_token_with_the_probability_of_its_node(num_mc):
    hidden = draw_quadrature(make_generators(range(3000)), 4, num_mc).hidden.double()
    for draw, (time, _) in enumerate(NODES[num_mc]):
        deviation = math.sqrt(time * (1 - time) / 3000)
        assert (hidden[:, draw].mean(0) - time).abs().max() < 5 * deviation
        pairs = (hidden[:, draw, 0] * hidden[:, draw, 3]).mean()
        assert abs(pairs - time**2) < 5 / math.sqrt(3000)


def coupled(seeds, length=6, num_mc=2, **options):
    return draw_coupled_time(make_generators(seeds), length, num_mc, **DOUBLE, **options)


def test_coupled_grpo_takes_everything_then_a_set_then_its_complement():
    lengths = torch.arange(40) % 6 + 1
    maskings = coupled(range(40), lengths=lengths)
    assert (maskings.views_per_draw, maskings.num_views) == (3, 6)
    full, first, second = maskings.hidden.view(40, 2, 3, 6).unbind(2)
    assert full.all()
    assert torch.equal(second, ~first)
    inside = torch.arange(6) < lengths[:, None, None]
    assert torch.equal(maskings.scored, maskings.hidden & inside)
    full_weight, first_weight, second_weight = maskings.weight.view(40, 2, 3, 6).unbind(2)
    assert_close(full_weight, inside.double().expand(-1, 2, -1) / 2)
    # 1 / (2 t) and 1 / (2 (1 - t)) with one t in [0.2, 0.8] per draw.
    time = 1 / first_weight.amax(-1) / 2
    both = (first_weight.amax(-1) > 0) & (second_weight.amax(-1) > 0)
    assert both.sum() > 40
    assert_close((1 / second_weight.amax(-1) / 2)[both], (1 - time)[both])
    assert time[both].min() > 0.2
    assert time[both].max() < 0.8
    expected = (first & inside) / time[..., None] / 2
    assert_close(first_weight[both], expected[both])
    # Each token up to the first EOS is scored in exactly two of a draw's three views.
    count = maskings.scored.view(40, 2, 3, 6).sum(2)
    assert torch.equal(count, 2 * inside.expand(-1, 2, -1))


def test_noise_levels_are_uniform_between_their_bounds():
    maskings = coupled(range(4000), length=60, num_mc=1, t_min=0.1, t_max=1.0, full_view=False)
    time = 1 / maskings.weight[:, 0].amax(-1) / 2
    assert maskings.views_per_draw == 2
    assert 0.1 < time.min() < 0.11
    assert 0.99 < time.max() <= 1
    assert abs(time.mean() - 0.55) < 5 * 0.26 / math.sqrt(4000)
    rate = maskings.hidden[:, 0].double().mean(-1)
    assert (rate - time).abs().max() < 6 * 0.5 / math.sqrt(60)
    assert torch.equal(maskings.hidden[:, 1], ~maskings.hidden[:, 0])


def test_nothing_is_left_for_the_complement_at_time_one():
    maskings = coupled([0, 1], t_min=1.0, t_max=1.0, full_view=False)
    assert maskings.hidden[:, ::2].all()
    assert not maskings.hidden[:, 1::2].any()
    assert_close(maskings.weight[:, ::2], torch.full((2, 2, 6), 0.5).double())
    assert not maskings.weight[:, 1::2].any()


def spaced(update, num_updates, seeds=range(30), length=400):
    starts = make_generators([1000 + seed for seed in seeds])
    return draw_spaced_time(
        make_generators([100 * seed + update for seed in seeds]),
        starts,
        length,
        update=update,
        num_updates=num_updates,
        **DOUBLE,
    )


def test_noise_levels_of_a_round_are_evenly_spaced_from_one_start_to_one():
    times = []
    for update in range(4):
        maskings = spaced(update, 4)
        assert maskings.num_views == 1
        assert maskings.prompt_hidden is None
        assert torch.equal(maskings.scored, maskings.hidden)
        time = 1 / maskings.weight[:, 0].amax(-1)
        rate = maskings.hidden[:, 0].double().mean(-1)
        assert (rate - time).abs().max() < 6 * 0.5 / math.sqrt(400)
        times.append(time)
    start = times[0]
    for update, time in enumerate(times):
        assert_close(time, start + (1 - start) * update / 3)
    assert spaced(3, 4).hidden.all()
    assert start.std() > 0.2


def test_a_single_update_takes_the_start_itself_which_is_uniform():
    maskings = spaced(0, 1, seeds=range(3000), length=50)
    shown = maskings.weight[:, 0].amax(-1) > 0
    time = 1 / maskings.weight[shown, 0].amax(-1)
    assert abs(time.mean() - 0.5) < 0.03
    assert time.max() <= 1
    with pytest.raises(ValueError, match="update=2 is none of 2"):
        spaced(2, 2)


BLOCK = {"block_length": 3, "p_mask_context": 0.3}


def test_block_views_follow_the_rules():
    length, sizes = 9, torch.tensor([4, 2, 0, 7])
    lengths = torch.tensor([9, 5, 3, 1])
    seen = {row: set() for row in range(4)}
    for seed in range(60):
        maskings = draw_block(
            make_generators(range(4 * seed, 4 * seed + 4)),
            lengths,
            length,
            2,
            prompt_lengths=sizes,
            **BLOCK,
            **DOUBLE,
        )
        for row in range(4):
            until = int(lengths[row])
            for view in range(2):
                hidden = maskings.hidden[row, view]
                # Some block has something hidden, and everything behind it or the EOS.
                ends = [(s, min(s + 3, until)) for s in range(0, until, 3)]
                assert any(hidden[s:e].any() and hidden[e:].all() for s, e in ends)
                scored = maskings.scored[row, view]
                assert torch.equal(scored, hidden & (torch.arange(length) < until))
                assert scored.any()
                share = until / scored.sum().double()
                assert_close(maskings.weight[row, view], scored * share)
                seen[row].add(tuple(hidden.tolist()))
            hidden_prompt = maskings.prompt_hidden[row]
            assert not hidden_prompt[:, : 7 - int(sizes[row])].any()
    # One token up to the first EOS: everything is hidden in the only view there is.
    assert seen[3] == {(True,) * 9}
    # Three tokens up to the EOS, all in the first block: any set of them but the empty one.
    some = [chosen for chosen in product([True, False], repeat=3) if any(chosen)]
    assert seen[2] == {(*chosen, *[True] * 6) for chosen in some}


def block_starts(lengths, num_mc=1, seeds=range(3000), **options):
    """Views without anything hidden before the block, so that the block can be read off."""
    settings = {"block_length": 4, "p_mask_context": 0.0, **options}
    return draw_block(make_generators(seeds), lengths, 8, num_mc, **settings, **DOUBLE)


def test_blocks_that_begin_by_the_first_eos_are_equally_likely():
    maskings = block_starts(torch.full((3000,), 5))
    assert maskings.prompt_hidden is None
    # The second block holds one token up to the EOS, and hides nothing of the first.
    second = ~maskings.hidden[:, 0, :4].any(-1)
    assert abs(second.double().mean() - 0.5) < 5 * 0.5 / math.sqrt(3000)
    assert maskings.hidden[second, 0, 4:].all()
    # At length 4 the second block begins after the EOS.
    only = block_starts(torch.full((200,), 4), seeds=range(200))
    assert only.hidden[:, 0, :4].any(-1).all()
    assert only.hidden[:, 0, 4:].all()


def test_views_of_a_completion_take_different_blocks_as_long_as_there_are_any():
    maskings = block_starts(torch.full((100,), 8), num_mc=3, seeds=range(100))
    in_first = maskings.hidden[..., :4].any(-1)
    assert (in_first[:, 0] != in_first[:, 1]).all()
    assert torch.equal(in_first[:, 2], in_first[:, 0])


def test_counts_in_the_block_are_uniform_and_its_positions_too():
    maskings = block_starts(torch.full((4000,), 4), seeds=range(4000))
    block = maskings.hidden[:, 0, :4]
    counts = Counter(block.sum(-1).tolist())
    assert set(counts) == {1, 2, 3, 4}
    assert all(abs(n / 4000 - 0.25) < 5 * 0.44 / math.sqrt(4000) for n in counts.values())
    ones = block[block.sum(-1) == 1].double().mean(0)
    assert (ones - 0.25).abs().max() < 5 * 0.44 / math.sqrt(900)


def test_context_is_hidden_with_its_probability_in_prompt_and_earlier_blocks():
    sizes = torch.full((3000,), 5)
    maskings = draw_block(
        make_generators(range(3000)),
        torch.full((3000,), 8),
        8,
        1,
        block_length=4,
        prompt_lengths=sizes,
        p_mask_context=0.15,
    )
    tolerance = 5 * 0.36 / math.sqrt(3000)
    rates = maskings.prompt_hidden[:, 0].double().mean(0)
    assert (rates - 0.15).abs().max() < tolerance
    second = ~maskings.hidden[:, 0, 4:].all(-1)  # the second block's own views
    rates = maskings.hidden[second, 0, :4].double().mean(0)
    assert (rates - 0.15).abs().max() < 2 * tolerance
    # Those tokens are scored too, unless the block alone is asked for.
    assert maskings.scored[second, 0, :4].any()
    alone = draw_block(
        make_generators(range(3000)),
        torch.full((3000,), 6),
        8,
        1,
        block_length=4,
        prompt_lengths=sizes,
        p_mask_context=0.15,
        score_block_only=True,
    )
    first = alone.scored[:, 0, :4].any(-1)
    assert not alone.scored[first, 0, 4:].any()
    assert alone.hidden[first, 0, 4:].all()
    assert alone.scored[~first, 0, 4:6].any(-1).all()
    assert not alone.scored[..., 6:].any()


STEP_MAP = torch.tensor([[1, 0, 2, 1, 9, 9], [3, 2, 1, 0, 4, 5]])
LAST = torch.tensor([2, 5])


def test_trajectory_views_are_the_states_before_each_step():
    maskings = draw_trajectory(make_generators([0, 1]), STEP_MAP, LAST, None, **DOUBLE)
    assert maskings.num_views == 6
    for row, last in enumerate(LAST.tolist()):
        for step in range(6):
            if step > last:
                assert not maskings.hidden[row, step].any()
                assert not maskings.weight[row, step].any()
                continue
            assert torch.equal(maskings.hidden[row, step], STEP_MAP[row] >= step)
            assert torch.equal(maskings.scored[row, step], STEP_MAP[row] == step)
    # The mean over six views is the mean over the three steps of completion 0.
    assert maskings.weight[0].unique().tolist() == [0, 2]
    assert maskings.weight[1].unique().tolist() == [0, 1]


def test_the_estimate_of_all_steps_is_independent_of_longer_completions():
    together = draw_trajectory(make_generators([0, 1]), STEP_MAP, LAST, None, **DOUBLE)
    alone = draw_trajectory(make_generators([0]), STEP_MAP[:1], LAST[:1], None, **DOUBLE)
    logp = -torch.rand(2, 6, 6, dtype=torch.float64)
    assert alone.num_views == 3
    assert_close(
        sequence_estimate(logp[:1, :3], alone.weight), sequence_estimate(logp, together.weight)[:1]
    )
    assert_close(
        mean_over_views(view_means(logp, together.scored), together.scored)[:1],
        mean_over_views(view_means(logp[:1, :3], alone.scored), alone.scored),
    )


def steps_of(maskings, step_map):
    """The step of every view, read off what it scores."""
    return [
        [int(step_map[row][scored][0]) for scored in maskings.scored[row]]
        for row in range(len(step_map))
    ]


def test_sampled_steps_are_spread_evenly_over_a_completions_own_steps():
    step_map = torch.arange(7).expand(500, -1)
    last = torch.full((500,), 4)
    maskings = draw_trajectory(make_generators(range(500)), step_map, last, 3, **DOUBLE)
    assert maskings.weight.unique().tolist() == [0, 1]
    steps = steps_of(maskings, step_map)
    for row in steps:
        assert row == [(row[0] + offset) % 5 for offset in (0, 1, 3)]
    for column in zip(*steps, strict=True):
        counts = Counter(column)
        assert set(counts) == {0, 1, 2, 3, 4}
        assert all(abs(n / 500 - 0.2) < 5 * 0.4 / math.sqrt(500) for n in counts.values())


def test_as_many_draws_as_steps_take_each_step_once():
    step_map = torch.arange(7).expand(20, -1)
    maskings = draw_trajectory(make_generators(range(20)), step_map, torch.full((20,), 6), 7)
    assert all(sorted(row) == list(range(7)) for row in steps_of(maskings, step_map))


def test_steps_that_are_not_stratified_are_independent_and_uniform():
    step_map = torch.arange(4).expand(2000, -1)
    last = torch.full((2000,), 1)
    maskings = draw_trajectory(make_generators(range(2000)), step_map, last, 2, stratified=False)
    pairs = Counter(map(tuple, steps_of(maskings, step_map)))
    assert all(abs(n / 2000 - 0.25) < 5 * 0.44 / math.sqrt(2000) for n in pairs.values())
    assert len(pairs) == 4


def test_shrinking_takes_consecutive_steps_as_one_and_never_scores_what_was_not_revealed():
    step_map = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 8]])
    # Four steps as one; 6 is the last that counts, 8 stands for tokens that were never revealed.
    maskings = draw_trajectory(
        make_generators([0]), step_map, torch.tensor([6]), None, shrink=4, **DOUBLE
    )
    assert maskings.hidden[0].int().tolist() == [[1] * 10, [0] * 4 + [1] * 6]
    assert maskings.weight[0].tolist() == [[1] * 4 + [0] * 6, [0] * 4 + [1] * 3 + [0] * 3]
    # Where steps do not divide evenly, the merged step holds the sentinel's.
    maskings = draw_trajectory(
        make_generators([0]), torch.tensor([[0, 1, 2, 3]]), torch.tensor([2]), None, shrink=2
    )
    assert maskings.scored[0].int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("steps", "eos", "length", "text", "first_eos"),
    [
        # Text ends at step 2, its EOS is revealed at 3, tails at 4; 9 = never revealed.
        ([0, 2, 3, 4, 9], [0, 0, 1, 1, 1], 3, 2, 3),
        # An EOS that was revealed before the text ends counts in neither.
        ([0, 5, 1, 6, 9], [0, 0, 1, 1, 1], 3, 5, 5),
        # Another token behind the first EOS is text as AGRPO has it.
        ([0, 1, 2, 7, 9], [0, 0, 1, 0, 1], 3, 7, 2),
        # Nothing but EOS: the step of the first one.
        ([3, 0, 1, 2, 9], [1, 1, 1, 1, 1], 1, 3, 3),
        # No EOS at all, and an EOS that fills the last place.
        ([0, 1, 2, 3, 4], [0, 0, 0, 0, 0], 5, 4, 4),
        ([0, 1, 2, 3, 4], [0, 0, 0, 0, 1], 5, 3, 4),
    ],
)
def test_the_last_step_is_that_of_the_text_or_of_the_first_eos(steps, eos, length, text, first_eos):
    step_map, lengths = torch.tensor([steps]), torch.tensor([length])
    marks = torch.tensor([eos]).bool()
    assert last_steps(step_map, lengths, marks).tolist() == [text]
    assert last_steps(step_map, lengths, marks, until_eos=True).tolist() == [first_eos]
    # Without the EOS marks the lengths alone decide.
    assert last_steps(step_map, lengths).tolist() == [first_eos]
    context = DrawContext([0], lengths, lengths, 5, step_map, eos=marks)
    for until, last in (("text", text), ("first_eos", first_eos)):
        drawn = Trajectory(num_mc=None, until=until).draw(context)
        assert drawn.num_views == last + 1


def test_left_to_right_views_sum_to_the_autoregressive_log_likelihood():
    length, sizes = 4, [3, 1]
    completions = random_completions(length, sizes, seed=1)
    maskings = draw_left_to_right(2, length, **DOUBLE)
    assert maskings.hidden[0].int().tolist() == [
        [1, 1, 1, 1],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 0, 1],
    ]
    assert torch.equal(maskings.scored[1], torch.eye(4).bool())
    for row, size in enumerate(sizes):
        prompt, completion = completions.prompt_ids[row, -size:], completions.completion_ids[row]
        table, conditionals = JointTable(length, seed=5), RandomConditionals(length, seed=5)
        exact = sequence_estimate(one_view_at_a_time(table, completions, maskings), maskings.weight)
        assert_close(exact[row], table.log_likelihood(prompt, completion), 1e-10)
        # The first of all orders is the one of reading.
        reading = sequence_estimate(
            one_view_at_a_time(conditionals, completions, maskings), maskings.weight
        )
        wanted = order_log_likelihoods(conditionals, prompt, completion)[0]
        assert_close(reading[row], wanted, 1e-10)


CONTEXT_LENGTHS = torch.tensor([5, 2, 6, 1])
CONTEXT_PROMPTS = torch.tensor([3, 7, 0, 4])
CONTEXT_STEPS = torch.tensor(
    [[0, 3, 1, 2, 4, 5], [1, 0, 2, 9, 9, 9], [5, 4, 3, 2, 1, 0], [0] + [9] * 5]
)
NEW = {
    "quadrature": Quadrature(),
    "coupled_time": CoupledTime(num_mc=2),
    "spaced_time": SpacedTime(),
    "block": Block(block_length=2, p_mask_context=0.5),
    "trajectory": Trajectory(num_mc=3),
    "trajectory unstratified": Trajectory(num_mc=3, stratified=False, until="first_eos"),
    "left_to_right": LeftToRight(),
}


def context(rows, seeds):
    return DrawContext(
        [seeds[row] for row in rows],
        CONTEXT_LENGTHS[rows],
        CONTEXT_PROMPTS[rows],
        6,
        CONTEXT_STEPS[rows],
        round_seeds=[7 * seeds[row] for row in rows],
        update=1,
        num_updates=3,
    )


@pytest.mark.parametrize("name", NEW)
def test_a_draw_depends_on_its_own_completion_alone(name):
    estimator, seeds = NEW[name], [11, 7, 23, 3]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    together = estimator.draw(context([0, 1, 2, 3], seeds))
    assert torch.equal(state, torch.get_rng_state()), "the global generator was advanced"
    assert together.weight.dtype == torch.float32
    for row, size in enumerate(CONTEXT_PROMPTS.tolist()):
        alone = estimator.draw(context([row], seeds))
        assert torch.equal(alone.hidden[0], together.hidden[row])
        assert torch.equal(alone.weight[0], together.weight[row])
        assert (alone.prompt_hidden is None) == (together.prompt_hidden is None)
        if alone.prompt_hidden is not None:
            width = together.prompt_hidden.shape[-1]
            assert torch.equal(
                together.prompt_hidden[row, :, width - size :], alone.prompt_hidden[0]
            )
            assert not together.prompt_hidden[row, :, : width - size].any()


@pytest.mark.parametrize("name", [name for name in NEW if name != "left_to_right"])
def test_different_seeds_give_different_draws(name):
    drawn = {
        str(NEW[name].draw(context([2], [0, 0, seed, 0])).hidden.tolist()) for seed in range(30)
    }
    assert len(drawn) > 2


def test_every_update_moves_the_noise_level_but_not_its_start():
    def time(update, seed=0):
        given = DrawContext(
            [100 * update + seed],
            torch.tensor([300]),
            torch.tensor([1]),
            300,
            torch.zeros(1, 300).long(),
            round_seeds=[seed],
            update=update,
            num_updates=5,
        )
        return 1 / SpacedTime().draw(given).weight.max().item()

    times = [time(update) for update in range(5)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([gaps[0]] * 4, rel=1e-4)
    assert times[-1] == 1
    assert time(0, seed=1) != times[0]


def test_estimators_are_registered_by_name():
    for name, estimator in NEW.items():
        assert ESTIMATORS[name.split()[0]] is type(estimator)


def test_coupled_time_scores_the_whole_canvas_on_request():
    given = context([1], [0, 5, 0, 0])
    assert not CoupledTime().draw(given).scored[..., 2:].any()
    everything = CoupledTime(until_eos=False).draw(given)
    assert torch.equal(everything.scored, everything.hidden)


def test_shares_of_tokens_add_up_to_the_estimate_of_their_draw():
    logp = torch.tensor([[[-1.0, -2.0], [-3.0, math.nan], [-5.0, -6.0], [-7.0, -8.0]]])
    weight = torch.tensor([[[2.0, 0.5], [1.0, 0.0], [0.0, 1.0], [1.0, 3.0]]])
    assert token_estimates(logp, weight, 2).tolist() == [[[-5, -1], [-7, -30]]]
    assert token_estimates(logp, weight)[0, 1].tolist() == [-3, 0]


def test_means_leave_out_what_is_not_scored():
    values = torch.tensor([[[1.0, 3.0, math.nan], [5.0, math.nan, math.nan], [math.nan] * 3]])
    scored = torch.tensor([[[True, True, False], [True, False, False], [False] * 3]])
    means = view_means(values, scored)
    assert means.tolist() == [[2, 5, 0]]
    assert mean_over_views(means, scored).tolist() == [3.5]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda g: draw_quadrature(g, 3, 0), "num_mc=0 is too small"),
        (lambda g: draw_coupled_time(g, 0, 1), "length=0 is too small"),
        (lambda g: draw_coupled_time(g, 3, 1, t_min=0.9), "t_min=0.9, t_max=0.8 are no range"),
        (lambda g: draw_spaced_time(g, g, 0), "length=0 is too small"),
        (lambda g: draw_block(g, LAST[:1], 3, 0, block_length=1), "num_mc=0 is too small"),
        (lambda g: draw_block(g, LAST[:1], 3, 1, block_length=0), "block_length=0 is too small"),
        (
            lambda g: draw_block(g, LAST[:1], 3, 1, block_length=1, p_mask_context=-1.0),
            "p_mask_context=-1.0 is no probability",
        ),
        (lambda g: draw_trajectory(g, STEP_MAP[:1], LAST[:1], 0), "num_mc=0 is too small"),
        (lambda g: draw_trajectory(g, STEP_MAP[:1], LAST[:1], 1, shrink=0), "shrink=0 is too"),
    ],
)
def test_settings_out_of_range_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(make_generators([0]))
