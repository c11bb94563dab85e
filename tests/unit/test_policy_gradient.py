"""The streamed gradient: how views are packed, how many passes are made, what is alive at once."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from table_model import (
    MASK,
    JointTable,
    RandomConditionals,
    one_view_at_a_time,
    random_completions,
)
from torch import nn

from unmask.maskings import Maskings, draw_elbo, draw_one_step, make_generators
from unmask.objectives import ESPO, SPG, ObjectiveInputs, Totals
from unmask.objectives.maximum_likelihood import MaximumLikelihood
from unmask.training.packing import Slice, plan_slices
from unmask.training.policy_gradient import (
    Engine,
    evaluate_logprobs,
    streamed_backward,
    view_logprobs,
)

CANVAS = 4
PROMPT_LENGTHS = [3, 1, 6, 3]
NON_SEPARABLE, SEPARABLE = SPG(), MaximumLikelihood()


class Counted(nn.Module):
    """A model that notes whether each of its passes builds a graph, and on how many views."""

    def __init__(self, model):
        super().__init__()
        self.model, self.passes = model, []

    def forward(self, ids, attention_mask, targets, scored):
        self.passes.append((torch.is_grad_enabled(), len(ids)))
        return self.model(ids, attention_mask, targets, scored)


class Metered(nn.Module):
    """A model that measures how much of what its passes saved for backward is alive at once."""

    def __init__(self, model):
        super().__init__()
        self.model, self.alive, self.peak = model, 0, 0

    def forward(self, ids, attention_mask, targets, scored):
        meter = self

        class Held:
            def __init__(self, tensor):
                self.tensor = tensor
                meter.alive += tensor.numel()
                meter.peak = max(meter.peak, meter.alive)

            def __del__(self):
                meter.alive -= self.tensor.numel()

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            return self.model(ids, attention_mask, targets, scored)


class Recorder(nn.Module):
    """A model that keeps what it is given and returns 1, 2, 3, ... for the scored tokens."""

    def forward(self, *arguments):
        self.given = arguments
        return torch.arange(1.0, 1 + int(arguments[3].sum()))


def maskings_of(num_mc, *, coupled=False):
    return draw_elbo(
        make_generators(range(4)), CANVAS, num_mc, coupled=coupled, dtype=torch.float64
    )


def distinct_maskings(num_views, *, coupled=False):
    """Views of which no two hide the same tokens; with `coupled`, each next to its complement."""
    subsets = [[bool(number >> place & 1) for place in range(CANVAS)] for number in range(1, 15)]
    if coupled:
        subsets = [part for half in subsets[:7] for part in (half, [not bit for bit in half])]
    hidden = torch.tensor(subsets[:num_views]).expand(4, -1, -1)
    return Maskings(hidden, hidden.double(), views_per_draw=1 + coupled)


def passes_of(maskings):
    """For each sequence, the different sets of hidden tokens that score something."""
    return [
        {tuple(view) for view, scores in zip(row, weight, strict=True) if any(scores)}
        for row, weight in zip(maskings.hidden.tolist(), maskings.weight.tolist(), strict=True)
    ]


def inputs_of(maskings, old_logp=None, advantages=None):
    batch = len(maskings.weight)
    rewards = torch.linspace(-1, 1, batch, dtype=torch.float64)
    return ObjectiveInputs(
        logp=torch.zeros_like(maskings.weight),
        old_logp=torch.zeros_like(maskings.weight) if old_logp is None else old_logp,
        ref_logp=None,
        weight=maskings.weight,
        views_per_draw=maskings.views_per_draw,
        advantages=rewards if advantages is None else advantages,
        rewards=rewards,
        lengths=torch.full((batch,), CANVAS),
        canvas=CANVAS,
        group_size=2,
        totals=Totals(batch, 1, 1, 1),
    )


def backward(
    model,
    maskings,
    objective,
    max_tokens,
    *,
    on_policy=True,
    old_logp=None,
    advantages=None,
    **options,
):
    return streamed_backward(
        model,
        random_completions(CANVAS, PROMPT_LENGTHS),
        maskings,
        objective,
        inputs_of(maskings, old_logp, advantages),
        on_policy=on_policy,
        mask_token_id=MASK,
        max_tokens=max_tokens,
        **options,
    )


def pairs(part):
    return list(zip(part.rows.tolist(), part.views.tolist(), strict=True))


def all_of(num_views, rows=2):
    return torch.ones(rows, num_views, dtype=torch.bool)


def test_slices_of_a_small_batch_are_as_worked_out_by_hand():
    lengths = torch.tensor([4, 6])
    # 2 views of 6 tokens fill 12; with 24 the shorter sequence's views fit too, padded to 6.
    assert [pairs(s) for s in plan_slices(lengths, all_of(2), 1, 12)] == [
        [(1, 0), (1, 1)],
        [(0, 0), (0, 1)],
    ]
    assert [pairs(s) for s in plan_slices(lengths, all_of(2), 1, 24)] == [
        [(1, 0), (1, 1), (0, 0), (0, 1)]
    ]
    assert len(plan_slices(lengths, all_of(2), 1, 23)) == 2
    # Room for 3 views of 6, but draws of 2 are not cut where one fits.
    assert [pairs(s) for s in plan_slices(torch.tensor([6]), all_of(4, rows=1), 2, 18)] == [
        [(0, 0), (0, 1)],
        [(0, 2), (0, 3)],
    ]
    # No draw of 2 fits: single views, also over the budget.
    assert [pairs(s) for s in plan_slices(torch.tensor([6]), all_of(2, rows=1), 2, 5)] == [
        [(0, 0)],
        [(0, 1)],
    ]


@pytest.mark.parametrize("max_tokens", [1, 7, 16, 33, 64, 200, 10_000])
@pytest.mark.parametrize(("num_views", "views_per_draw"), [(1, 1), (5, 1), (8, 2), (6, 3)])
def test_slices_hold_every_view_once_within_the_budget(num_views, views_per_draw, max_tokens):
    lengths = torch.tensor([9, 16, 5, 12, 16, 7])
    slices = plan_slices(lengths, all_of(num_views, rows=6), views_per_draw, max_tokens)
    seen = [pair for part in slices for pair in pairs(part)]
    assert sorted(seen) == [(row, view) for row in range(6) for view in range(num_views)]
    for part in slices:
        width = int(lengths[part.rows].max())
        assert len(part.rows) == 1 or len(part.rows) * width <= max_tokens
    place = {pair: index for index, part in enumerate(slices) for pair in pairs(part)}
    for row, length in enumerate(lengths.tolist()):
        for unit in (views_per_draw, num_views):
            if unit * length <= max_tokens:
                for first in range(0, num_views, unit):
                    assert len({place[row, first + offset] for offset in range(unit)}) == 1


def test_a_pass_gets_masked_ids_true_targets_and_no_needless_padding():
    completions = random_completions(CANVAS, PROMPT_LENGTHS, extra_padding=2)
    maskings = maskings_of(2)
    model = Recorder()
    part = Slice(torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0]))
    values = view_logprobs(model, completions, maskings, part, MASK)
    ids, attention, targets, scored = model.given
    assert ids.shape == (3, 3 + CANVAS)
    assert attention[:, :3].tolist() == [[1, 1, 1], [0, 0, 1], [1, 1, 1]]
    assert attention[:, 3:].all()
    for index, (row, view) in enumerate(pairs(part)):
        hidden = maskings.hidden[row, view]
        completion = completions.completion_ids[row]
        assert torch.equal(ids[index, :3], completions.prompt_ids[row, -3:])
        assert torch.equal(ids[index, 3:], completion.masked_fill(hidden, MASK))
        assert torch.equal(targets[index, 3:], completion)
        assert not scored[index, :3].any()
        assert torch.equal(scored[index, 3:], hidden)
    expected = torch.zeros(3, CANVAS)
    expected[scored[:, 3:]] = torch.arange(1.0, 1 + int(scored.sum()))
    assert torch.equal(values, expected)


def test_prompts_of_one_length_need_no_attention_mask():
    model = Recorder()
    part = Slice(torch.tensor([0, 3]), torch.tensor([0, 0]))
    completions = random_completions(CANVAS, PROMPT_LENGTHS)
    view_logprobs(model, completions, maskings_of(1), part, MASK)
    assert model.given[1] is None
    assert model.given[0].shape == (2, 3 + CANVAS)


@pytest.mark.parametrize("extra_padding", [0, 3])
def test_hidden_prompt_tokens_stay_on_their_tokens_whatever_the_padding(extra_padding):
    completions = random_completions(CANVAS, PROMPT_LENGTHS, extra_padding=extra_padding)
    maskings = draw_one_step(
        make_generators([3, 4, 5, 6]),
        torch.full((4,), CANVAS),
        CANVAS,
        prompt_lengths=torch.tensor(PROMPT_LENGTHS),
        p_mask_prompt=0.5,
    )
    model = Recorder()
    for row, size in enumerate(PROMPT_LENGTHS):
        view_logprobs(
            model, completions, maskings, Slice(torch.tensor([row]), torch.zeros(1).long()), MASK
        )
        hidden = maskings.prompt_hidden[row, 0, 6 - size :]
        expected = completions.prompt_ids[row, 6 + extra_padding - size :].masked_fill(hidden, MASK)
        assert torch.equal(model.given[0][0, :size], expected)
    marks = maskings.prompt_hidden.sum()
    assert 0 < marks < sum(PROMPT_LENGTHS)


@pytest.mark.parametrize("max_tokens", [1, 20, 50, 10_000])
@pytest.mark.parametrize("kind", [RandomConditionals, JointTable])
def test_evaluation_does_not_depend_on_the_slices_and_builds_no_graph(kind, max_tokens):
    model = Counted(kind(CANVAS))
    maskings = maskings_of(4, coupled=True)
    completions = random_completions(CANVAS, PROMPT_LENGTHS)
    logp = evaluate_logprobs(
        model, completions, maskings, mask_token_id=MASK, max_tokens=max_tokens
    )
    assert not any(graph for graph, _ in model.passes)
    assert sum(views for _, views in model.passes) == sum(map(len, passes_of(maskings))) < 4 * 8
    expected = one_view_at_a_time(model, completions, maskings).detach()
    torch.testing.assert_close(logp, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("objective", "coupled", "max_tokens", "without_graph", "with_graph"),
    [
        # Everything in one slice: one ordinary pass.
        (NON_SEPARABLE, False, 10_000, 0, 1),
        (SEPARABLE, True, 10_000, 0, 1),
        # Lengths 10, 7, 7, 5: a sequence's 8 views fit into 80 tokens, two sequences' do not.
        (NON_SEPARABLE, False, 80, 0, 4),
        # A sequence is cut: every view is evaluated first, unless draws are independent.
        (NON_SEPARABLE, False, 1, 32, 32),
        (SEPARABLE, False, 1, 0, 32),
        (NON_SEPARABLE, True, 20, 14, 14),
        (SEPARABLE, True, 20, 0, 14),
        # A draw is cut too.
        (SEPARABLE, True, 1, 32, 32),
    ],
)
def test_number_of_passes(objective, coupled, max_tokens, without_graph, with_graph):
    model = Counted(RandomConditionals(CANVAS))
    backward(model, distinct_maskings(8, coupled=coupled), objective, max_tokens)
    graphs = [graph for graph, _ in model.passes]
    assert graphs == [False] * without_graph + [True] * with_graph
    views = sum(views for graph, views in model.passes if graph)
    assert views == 4 * 8


def test_an_objective_that_is_separable_on_policy_needs_no_first_pass_there():
    model, maskings = Counted(RandomConditionals(CANVAS)), distinct_maskings(8)
    completions = random_completions(CANVAS, PROMPT_LENGTHS)
    old = one_view_at_a_time(model.model, completions, maskings).detach()
    for on_policy, without_graph in ((True, 0), (False, 32)):
        model.passes.clear()
        backward(model, maskings, ESPO(beta=0.0), 1, on_policy=on_policy, old_logp=old)
        assert [graph for graph, _ in model.passes] == [False] * without_graph + [True] * 32


@pytest.mark.parametrize("max_tokens", [1, 20, 10_000])
@pytest.mark.parametrize("objective", [NON_SEPARABLE, SEPARABLE])
def test_views_that_hide_the_same_tokens_are_one_pass_with_the_same_gradient(objective, max_tokens):
    drawn = distinct_maskings(4)
    # Views 0, 2 and 4 are one, scored in part by each; 5 scores nothing; 1 and 6 are one.
    order = torch.tensor([0, 1, 0, 2, 0, 3, 1])
    weight = torch.rand(4, 7, CANVAS, generator=torch.Generator().manual_seed(0)).double()
    weight = weight.masked_fill(~drawn.hidden[:, order] | (weight < 0.3), 0.0)
    weight[:, 5] = 0
    maskings = Maskings(drawn.hidden[:, order], weight)
    model = Counted(RandomConditionals(CANVAS))
    output, logp = backward(model, maskings, objective, max_tokens)
    plain = RandomConditionals(CANVAS)
    completions = random_completions(CANVAS, PROMPT_LENGTHS)
    expected = one_view_at_a_time(plain, completions, maskings)
    loss = objective(replace(inputs_of(maskings), logp=expected, old_logp=expected.detach())).loss
    loss.backward()
    torch.testing.assert_close(logp, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(output.loss, loss.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.model.table.grad, plain.table.grad, rtol=0, atol=1e-12)
    assert sum(views for graph, views in model.passes if graph) == sum(
        map(len, passes_of(maskings))
    )


def test_hidden_prompt_tokens_tell_views_apart():
    hidden = torch.ones(4, 3, CANVAS, dtype=torch.bool)
    prompt_hidden = torch.zeros(4, 3, max(PROMPT_LENGTHS), dtype=torch.bool)
    prompt_hidden[:, 1, -1] = True
    maskings = Maskings(hidden, hidden.double(), prompt_hidden)
    model = Counted(RandomConditionals(CANVAS))
    _, logp = backward(model, maskings, NON_SEPARABLE, 10_000)
    assert model.passes == [(True, 8)]
    assert torch.equal(logp[:, 0], logp[:, 2])
    assert (logp[:, 0] != logp[:, 1]).any()


def test_what_has_no_gradient_is_not_run_again():
    """Sequences 0 and 3 have an advantage; the others' groups are decided."""
    model, plain = Counted(RandomConditionals(CANVAS)), RandomConditionals(CANVAS)
    maskings = distinct_maskings(8)
    advantages = torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=torch.float64)
    for network, max_tokens in ((model, 20), (plain, 10_000)):
        backward(network, maskings, NON_SEPARABLE, max_tokens, advantages=advantages)
    with_graph = sum(views for graph, views in model.passes if graph)
    assert (with_graph, sum(views for _, views in model.passes)) == (2 * 8, 6 * 8)
    torch.testing.assert_close(model.model.table.grad, plain.table.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("objective", [NON_SEPARABLE, SEPARABLE])
@pytest.mark.parametrize("kind", [RandomConditionals, JointTable])
def test_one_slice_is_alive_at_a_time_however_many_views(kind, objective):
    def peak(num_mc, max_tokens):
        model = Metered(kind(CANVAS))
        backward(model, distinct_maskings(num_mc), objective, max_tokens)
        assert model.alive == 0
        return model.peak

    single = max(
        peak_of_one_view(kind, distinct_maskings(8), row, view)
        for row in range(4)
        for view in range(8)
    )
    assert peak(8, max_tokens=1) == single
    assert peak(8, max_tokens=10_000) > 10 * single


def peak_of_one_view(kind, maskings, row, view):
    model = Metered(kind(CANVAS))
    part = Slice(torch.tensor([row]), torch.tensor([view]))
    view_logprobs(model, random_completions(CANVAS, PROMPT_LENGTHS), maskings, part, MASK)
    return model.peak


@pytest.mark.parametrize("max_tokens", [1, 30, 10_000])
def test_output_is_the_objective_of_all_views_without_a_graph(max_tokens):
    model, maskings = RandomConditionals(CANVAS), maskings_of(3)
    completions = random_completions(CANVAS, PROMPT_LENGTHS)
    logp = one_view_at_a_time(model, completions, maskings).detach()
    old = logp - 0.3
    kept = old.clone()
    output, streamed = backward(
        model, maskings, NON_SEPARABLE, max_tokens, on_policy=False, old_logp=old
    )
    expected = NON_SEPARABLE(replace(inputs_of(maskings, old), logp=logp))
    torch.testing.assert_close(streamed, logp, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-12)
    for name, metric in expected.metrics.items():
        torch.testing.assert_close(output.metrics[name].values, metric.values, rtol=0, atol=1e-12)
    assert not output.loss.requires_grad
    assert not streamed.requires_grad
    assert torch.equal(old, kept), "old_logp was written to"


@pytest.mark.parametrize("max_tokens", [1, 10_000])
def test_on_policy_the_given_old_log_probabilities_are_not_read(max_tokens):
    maskings = maskings_of(3)
    nothing = torch.full_like(maskings.weight, torch.nan)
    model = RandomConditionals(CANVAS)
    output, _ = backward(model, maskings, ESPO(beta=0.0), max_tokens, old_logp=nothing)
    assert output.metrics["ratio"].values.tolist() == [1.0] * 4
    assert model.table.grad.isfinite().all()


def test_gradients_are_added_to_those_already_there():
    model, maskings = RandomConditionals(CANVAS), maskings_of(3)
    backward(model, maskings, NON_SEPARABLE, 30)
    once = model.table.grad.clone()
    backward(model, maskings, NON_SEPARABLE, 30)
    assert once.abs().max() > 1e-3
    torch.testing.assert_close(model.table.grad, 2 * once, rtol=0, atol=1e-14)


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_keep_the_dtype_of_the_model(dtype, max_tokens, on_policy):
    model = RandomConditionals(CANVAS).to(dtype)
    drawn = maskings_of(3)
    maskings = replace(drawn, weight=drawn.weight.float())
    completions = random_completions(CANVAS, PROMPT_LENGTHS)
    _, logp = backward(model, maskings, NON_SEPARABLE, max_tokens, on_policy=on_policy)
    evaluated = evaluate_logprobs(
        model, completions, maskings, mask_token_id=MASK, max_tokens=max_tokens
    )
    assert logp.dtype == evaluated.dtype == dtype
    expected = one_view_at_a_time(model, completions, maskings).detach()
    torch.testing.assert_close(
        evaluated, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-13
    )


@pytest.mark.parametrize("objective", [NON_SEPARABLE, SEPARABLE])
@pytest.mark.parametrize("max_tokens", [1, 80, 10_000])
def test_a_rank_with_fewer_slices_makes_as_many_passes_without_changing_its_gradient(
    objective, max_tokens
):
    maskings = maskings_of(8)
    alone = Counted(RandomConditionals(CANVAS))
    backward(alone, maskings, objective, max_tokens)
    model = Counted(RandomConditionals(CANVAS))
    # Another rank has 5 slices more, and needs a first pass exactly where this one does.
    engine = Engine(agree_on_slices=lambda count: count + 5 if count > 1 else count)
    backward(model, maskings, objective, max_tokens, engine=engine)
    several = max_tokens < 10_000
    passes = [sum(graph == kind for graph, _ in alone.passes) for kind in (False, True)]
    expected = [count + 5 * (count > 1 and several) for count in passes]
    assert [sum(graph == kind for graph, _ in model.passes) for kind in (False, True)] == expected
    torch.testing.assert_close(model.model.table.grad, alone.model.table.grad, rtol=0, atol=1e-12)


def test_a_first_pass_that_only_another_rank_needs_is_made_and_changes_nothing():
    maskings = maskings_of(8)
    alone = RandomConditionals(CANVAS)
    backward(alone, maskings, NON_SEPARABLE, 10_000)
    model = Counted(RandomConditionals(CANVAS))
    backward(model, maskings, NON_SEPARABLE, 10_000, engine=Engine(agree_on_slices=lambda _: 2))
    assert [graph for graph, _ in model.passes] == [False, False, True, True]
    torch.testing.assert_close(model.model.table.grad, alone.table.grad, rtol=0, atol=1e-12)


def test_gradients_are_exchanged_with_the_last_slice_only_and_scaled():
    events = []

    @contextmanager
    def no_sync():
        events.append("enter")
        yield
        events.append("leave")

    def run_backward(loss):
        events.append("backward")
        loss.backward()

    maskings = maskings_of(8)
    model, plain = RandomConditionals(CANVAS), RandomConditionals(CANVAS)
    engine = Engine(backward=run_backward, no_sync=no_sync, scale=3.0)
    backward(model, maskings, NON_SEPARABLE, 80, engine=engine)
    assert events == ["enter", "backward", "leave"] * 3 + ["backward"]
    backward(plain, maskings, NON_SEPARABLE, 80)
    torch.testing.assert_close(model.table.grad, 3 * plain.table.grad, rtol=0, atol=1e-12)


def test_an_objective_without_a_gradient_leaves_zeros():
    class Constant(ESPO):
        def __call__(self, inputs):
            return super().__call__(replace(inputs, logp=inputs.logp.detach()))

    model = RandomConditionals(CANVAS)
    for max_tokens in (1, 10_000):
        backward(model, maskings_of(3), Constant(beta=0.0), max_tokens)
        assert not model.table.grad.any()


def test_sequences_without_a_scored_token_are_harmless():
    drawn = maskings_of(2)
    weight = drawn.weight.clone()
    weight[1] = 0
    maskings = Maskings(drawn.hidden, weight)
    model = RandomConditionals(CANVAS)
    for max_tokens in (1, 10_000):
        output, logp = backward(model, maskings, NON_SEPARABLE, max_tokens)
        assert output.loss.isfinite()
        assert not logp[1].any()
        assert model.table.grad.isfinite().all()
