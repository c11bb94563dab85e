"""What every objective is held to: exact gradients, streamed or not, and independence of the batch.

A new objective is covered as soon as it is in `OBJECTIVES`, with its defaults and its paper's
estimator, and on the views of every other estimator that its `check` does not refuse. `VARIANTS`,
`ON_POLICY` and `SCORE_FUNCTION` are where it adds settings to try or declares what does not apply.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, get_args

import pytest
import torch
from table_model import MASK, RandomConditionals, one_view_at_a_time, random_completions

from unmask.advantages import leave_one_out
from unmask.estimators import ESTIMATORS, DrawContext
from unmask.likelihood import sequence_estimate
from unmask.maskings import Maskings
from unmask.models.denoiser import Denoiser
from unmask.models.settings import TinyArchitecture
from unmask.models.tiny import build_network, build_tokenizer
from unmask.objectives import OBJECTIVES, Divergence, Objective, ObjectiveInputs, Totals
from unmask.objectives.base import Reduction
from unmask.objectives.maximum_likelihood import MaximumLikelihood
from unmask.training.policy_gradient import Completions, streamed_backward

CANVAS, GROUP_SIZE = 4, 3
PROMPT_LENGTHS = [2, 5, 3, 1, 4, 3]
LENGTHS = torch.tensor([4, 2, 3, 1, 4, 4])
TABLE = RandomConditionals(CANVAS)

# Settings to try besides the defaults, by objective.
VARIANTS: dict[str, list[dict[str, object]]] = {
    "espo": [
        {"beta": 0.5, "kl": "k1"},
        {"beta": 0.5, "kl": "k2"},
        {"beta": 0.5, "kl": "k3"},
        {"beta": 0.0, "epsilon": 0.0},
        {"beta": 0.0, "divergence": Divergence("tv", delta=0.02)},
    ],
    "bgpo": [{"epsilon": 0.05}],
    "diffu_grpo": [{"divergence": Divergence("kl", delta=0.02)}],
    "wd1": [{"reduction": "mean"}],
    "spg": [{"variant": "elbo"}, {"variant": "eubo"}],
    "agrpo": [{"beta": 0.5}],
    "gdpo": [{"beta": 0.5}],
    "gdsd": [{"epsilon": 0.9, "beta": 0.5}],
}

# Views that every objective gets besides its paper's, where its `check` does not refuse them.
VIEWS = {
    "coupled": {"name": "elbo", "num_mc": 4, "coupled": True},
    "counts": {"name": "elbo", "num_mc": 3, "coupled": False},
    "one_step": {"name": "one_step", "p_mask_prompt": 0.5},
}
MOST_DRAWS = 4

# Gradients that are compared to 1e-10 must be at least this large for the comparison to say much.
NOTICEABLE = 1e-6


def advantage_weighted(inputs: ObjectiveInputs) -> torch.Tensor:
    estimate = sequence_estimate(inputs.logp, inputs.weight, inputs.views_per_draw)
    return -(inputs.advantages * estimate).sum() / inputs.canvas / inputs.totals.sequences


def maximum_likelihood(inputs: ObjectiveInputs) -> torch.Tensor:
    return advantage_weighted(replace(inputs, advantages=torch.ones_like(inputs.advantages)))


def tokens(share: Callable[[ObjectiveInputs], Any]) -> Callable[[ObjectiveInputs], torch.Tensor]:
    """-sum_i A_i sum over scored tokens of share * logp."""

    def scalar(inputs: ObjectiveInputs) -> torch.Tensor:
        logp = inputs.logp.masked_fill(~inputs.scored, 0.0)
        return -(inputs.advantages[:, None, None] * share(inputs) * logp).sum()

    return scalar


def views_of_token(inputs: ObjectiveInputs) -> torch.Tensor:
    """By how many views of its draw each token is scored."""
    views = inputs.views_per_draw
    return inputs.scored.unflatten(1, (-1, views)).sum(2).repeat_interleave(views, 1)


def share_of_view(inputs: ObjectiveInputs) -> torch.Tensor:
    return 1 / inputs.scored.sum(-1, keepdim=True).clamp(min=1).double()


def views_scoring(inputs: ObjectiveInputs) -> torch.Tensor:
    return inputs.scored.any(-1).sum(1)[:, None, None]


# A scalar with the objective's on-policy gradient (its beta set to 0) where that is not
# mean_i A_i grad(estimate_i) / L; None where no simpler form is known.
ON_POLICY: dict[str, Callable[[ObjectiveInputs], torch.Tensor] | None] = {
    "maximum_likelihood": maximum_likelihood,
    "diffu_grpo": tokens(lambda x: 1 / x.totals.scored_tokens),
    "coupled_grpo": tokens(lambda x: x.weight * views_of_token(x) / x.totals.scored_tokens),
    "unigrpo": tokens(lambda x: share_of_view(x) / views_scoring(x) / x.totals.sequences),
    "wd1": None,
    "spg": None,
    "agrpo": tokens(lambda x: x.weight / x.weight.shape[1] / x.totals.sequences),
    "gdsd": tokens(lambda x: 1 / x.canvas / x.totals.sequences),
    "dmpo": None,
    "tracerl": tokens(lambda x: share_of_view(x) / x.weight.shape[1] / x.totals.sequences),
    "justgrpo": tokens(lambda x: 1 / x.canvas / (x.totals.nonzero_advantages + 1e-5)),
    "astar_po": None,
    "vrpo": None,
}

# Settings whose gradient is by design not the derivative of the reported value.
SCORE_FUNCTION = [("espo", "kl", "k1")]

CLASSES: dict[str, type[Objective]] = {**OBJECTIVES, "maximum_likelihood": MaximumLikelihood}


def objectives():
    for name, kind in CLASSES.items():
        for settings in [{}, *VARIANTS.get(name, [])]:
            label = ",".join(f"{key}={value}" for key, value in settings.items())
            yield pytest.param(name, kind(**settings), id=f"{name}({label})")


def estimator_of(objective, views):
    paper = objective.paper.get("estimator", {"name": "elbo"})
    settings = dict(paper if views == "own" else VIEWS[views])
    kind = ESTIMATORS[settings.pop("name")]
    if settings.get("num_mc"):
        settings["num_mc"] = min(settings["num_mc"], MOST_DRAWS)
    return kind(**settings)


def takes(objective, views):
    try:
        objective.check(estimator_of(objective, views))
    except ValueError:
        return False
    return True


def objectives_with_views(*kinds):
    for case in objectives():
        for views in kinds:
            if views == "own" or takes(case.values[1], views):
                yield pytest.param(*case.values, views, id=f"{case.id}-{views}")


every_objective = pytest.mark.parametrize(("name", "objective"), list(objectives()))
every_combination = pytest.mark.parametrize(
    ("name", "objective", "views"), list(objectives_with_views("own", *VIEWS))
)


@dataclass(frozen=True)
class Batch:
    completions: Completions
    maskings: Maskings
    inputs: ObjectiveInputs

    def rows(self, rows):
        """Some sequences of the batch, with the totals of the whole, their prompts padded anew."""
        part, masks, inputs = self.completions, self.maskings, self.inputs
        width = int(part.prompt_mask[rows].sum(-1).max())
        columns = slice(part.prompt_ids.shape[1] - width, None)
        hidden = masks.prompt_hidden
        names = ("logp", "old_logp", "weight", "advantages", "rewards", "lengths")
        picked = {name: getattr(inputs, name)[rows] for name in names}
        for name in ("ref_logp", "log_ref_ratio", "values"):
            values = getattr(inputs, name)
            picked[name] = None if values is None else values[rows]
        return Batch(
            Completions(
                part.prompt_ids[rows, columns],
                part.prompt_mask[rows, columns],
                part.completion_ids[rows],
            ),
            Maskings(
                masks.hidden[rows],
                masks.weight[rows],
                None if hidden is None else hidden[rows],
                masks.views_per_draw,
            ),
            replace(inputs, **picked),
        )


@cache
def draw(estimator, model, mask_id, first_id):
    """Completions, views of them and log p, which the objectives share."""
    drawn = random_completions(CANVAS, PROMPT_LENGTHS, seed=1)
    completions = Completions(
        drawn.prompt_ids + first_id, drawn.prompt_mask, drawn.completion_ids + first_id
    )
    size = len(PROMPT_LENGTHS)
    generator = torch.Generator().manual_seed(5)
    step_map = torch.stack([torch.randperm(CANVAS, generator=generator) for _ in range(size)])
    maskings = estimator.draw(
        DrawContext(list(range(size)), LENGTHS, completions.prompt_lengths, CANVAS, step_map)
    )
    maskings = replace(maskings, weight=maskings.weight.double())
    with torch.no_grad():
        return completions, maskings, one_view_at_a_time(model, completions, maskings, mask_id)


def group_size(objective):
    return 2 if objective.pairwise else GROUP_SIZE


def make_batch(objective, views, model=TABLE, mask_id=MASK, first_id=0):
    """Six completions in groups; old and reference policies a little way off."""
    estimator = estimator_of(objective, views)
    objective.check(estimator)
    completions, maskings, logp = draw(estimator, model, mask_id, first_id)
    size, shape = len(PROMPT_LENGTHS), logp.shape
    generator = torch.Generator().manual_seed(6)
    old = logp + 0.4 * torch.randn(shape, dtype=torch.float64, generator=generator)
    ref = logp + 0.4 * torch.randn(shape, dtype=torch.float64, generator=generator)
    rewards = torch.rand(size, dtype=torch.float64, generator=generator)
    ratio = torch.randn(size, dtype=torch.float64, generator=generator)
    inputs = ObjectiveInputs(
        logp=logp,
        old_logp=old,
        ref_logp=ref if objective.needs_reference else None,
        weight=maskings.weight,
        views_per_draw=maskings.views_per_draw,
        advantages=2 * leave_one_out(rewards, group_size(objective)),
        rewards=rewards,
        lengths=LENGTHS,
        canvas=CANVAS,
        group_size=group_size(objective),
        totals=Totals(
            sequences=size,
            scored_tokens=int(maskings.scored.sum()),
            lengths=int(LENGTHS.sum()),
            nonzero_advantages=size,
            views=int(maskings.scored.any(-1).sum()),
        ),
        log_ref_ratio=None if objective.rollout_estimator is None else ratio,
        values=ratio if objective.value_samples else None,
    )
    return Batch(completions, maskings, inputs)


def streamed(model, batch, objective, max_tokens, *, on_policy, mask_id=MASK):
    """Loss, logp and the gradient of all parameters, flattened, by the library."""
    model.zero_grad()
    output, logp = streamed_backward(
        model,
        batch.completions,
        batch.maskings,
        objective,
        batch.inputs,
        on_policy=on_policy,
        mask_token_id=mask_id,
        max_tokens=max_tokens,
    )
    return output.loss, logp, flat_gradient(model)


def all_at_once(model, batch, scalar, *, on_policy):
    """The same of a function of the inputs, by ordinary automatic differentiation."""
    model.zero_grad()
    logp = one_view_at_a_time(model, batch.completions, batch.maskings)
    old = logp.detach() if on_policy else batch.inputs.old_logp
    loss = scalar(replace(batch.inputs, logp=logp, old_logp=old))
    loss.backward()
    return loss.detach(), logp.detach(), flat_gradient(model)


def flat_gradient(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).clone()


def derivative(objective, inputs, *, on_policy=False):
    """d loss / d logp [B, M, L]."""
    logp = inputs.logp.detach().clone().requires_grad_()
    old = logp.detach() if on_policy else inputs.old_logp
    loss = objective(replace(inputs, logp=logp, old_logp=old)).loss
    return torch.autograd.grad(loss, logp)[0]


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@every_combination
@pytest.mark.parametrize("on_policy", [True, False])
def test_streamed_gradient_is_the_all_at_once_gradient(name, objective, views, on_policy):
    batch = make_batch(objective, views)
    expected = all_at_once(TABLE, batch, lambda given: objective(given).loss, on_policy=on_policy)
    assert expected[2].abs().max() > NOTICEABLE
    for max_tokens in (1, 20, 50, 100_000):
        actual = streamed(TABLE, batch, objective, max_tokens, on_policy=on_policy)
        for value, wanted in zip(actual, expected, strict=True):
            assert_same(value, wanted)


@every_combination
def test_on_policy_gradient_is_the_advantage_times_that_of_the_estimate(name, objective, views):
    scalar = ON_POLICY.get(name, advantage_weighted)
    if scalar is None:
        return
    if "beta" in {field.name for field in fields(objective)}:
        objective = replace(objective, beta=0.0)
    batch = make_batch(objective, views)
    expected = all_at_once(TABLE, batch, scalar, on_policy=True)[2]
    assert expected.abs().max() > NOTICEABLE
    assert_same(streamed(TABLE, batch, objective, 30, on_policy=True)[2], expected)


@every_objective
def test_gradient_is_the_finite_derivative_of_the_value(name, objective):
    batch = make_batch(objective, "own")
    if any(n == name and getattr(objective, key) == value for n, key, value in SCORE_FUNCTION):
        assert derivative(objective, batch.inputs).isfinite().all()
        return
    scored = batch.maskings.scored

    def loss(values):
        logp = torch.zeros_like(batch.inputs.logp).masked_scatter(scored, values)
        return objective(replace(batch.inputs, logp=logp)).loss

    assert torch.autograd.gradcheck(loss, batch.inputs.logp[scored].requires_grad_())


@pytest.fixture(scope="module")
def denoiser():
    tokenizer = build_tokenizer(list("abcdefgh"))
    shape = TinyArchitecture(
        num_layers=2,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        max_length=64,
        initializer_range=0.4,
    )
    network = build_network(shape, tokenizer, seed=3).double().eval()
    assert network.config.is_causal is False
    return Denoiser(network, mask_token_id=tokenizer.mask_token_id, chunk_size=7)


@pytest.mark.parametrize(
    ("name", "objective", "views"), list(objectives_with_views("own", "one_step"))
)
def test_the_batch_changes_neither_estimate_nor_update(name, objective, views, denoiser):
    """Padding, slices, a group's place and how groups are split over micro-batches."""
    mask_id = denoiser.mask_token_id
    batch = make_batch(objective, views, denoiser, mask_id, first_id=5)

    def run(given, max_tokens):
        return streamed(denoiser, given, objective, max_tokens, on_policy=False, mask_id=mask_id)

    loss, logp, gradient = run(batch, 100_000)
    assert gradient.abs().max() > NOTICEABLE
    assert_same(logp, batch.inputs.logp)  # one unpadded pass per view

    for value, wanted in zip(run(batch, 25), (loss, logp, gradient), strict=True):
        assert_same(value, wanted)

    junk = torch.full((len(PROMPT_LENGTHS), 6), 7)
    padded = replace(
        batch.completions,
        prompt_ids=torch.cat([junk, batch.completions.prompt_ids], 1),
        prompt_mask=torch.cat([torch.zeros_like(junk), batch.completions.prompt_mask], 1),
    )
    for value, wanted in zip(
        run(replace(batch, completions=padded), 60), (loss, logp, gradient), strict=True
    ):
        assert_same(value, wanted)

    size = group_size(objective)
    order = torch.arange(len(PROMPT_LENGTHS)).roll(size)
    moved_loss, moved_logp, moved_gradient = run(batch.rows(order), 100_000)
    assert_same(moved_loss, loss)
    assert_same(moved_logp, logp[order])
    assert_same(moved_gradient, gradient)

    parts = torch.arange(size), torch.arange(size, len(PROMPT_LENGTHS))
    halves = [run(batch.rows(rows), 100_000) for rows in parts]
    assert_same(halves[0][0] + halves[1][0], loss)
    assert_same(torch.cat([halves[0][1], halves[1][1]]), logp)
    assert_same(halves[0][2] + halves[1][2], gradient)


@every_objective
@pytest.mark.parametrize("on_policy", [True, False])
def test_derivative_of_a_sequence_reads_no_other_sequence(name, objective, on_policy):
    """Or no other pair."""
    inputs = make_batch(objective, "own").inputs
    before = derivative(objective, inputs, on_policy=on_policy)
    other, alone = inputs.logp.clone(), 2 if objective.pairwise else 1
    other[alone:] -= 0.3
    after = derivative(objective, replace(inputs, logp=other), on_policy=on_policy)
    assert_same(after[:alone], before[:alone])


@every_objective
@pytest.mark.parametrize("on_policy", [True, False])
def test_derivative_of_a_draw_reads_no_other_draw_where_an_objective_is_separable(
    name, objective, on_policy
):
    if not (objective.separable_on_policy if on_policy else objective.separable):
        return
    inputs = make_batch(objective, "own").inputs
    before = derivative(objective, inputs, on_policy=on_policy)
    other = inputs.logp.clone()
    other[:, inputs.views_per_draw :] -= 0.3
    after = derivative(objective, replace(inputs, logp=other), on_policy=on_policy)
    assert_same(after[:, : inputs.views_per_draw], before[:, : inputs.views_per_draw])


@every_objective
def test_only_what_an_objective_declares_is_read(name, objective):
    inputs = make_batch(objective, "own").inputs
    loss, gradient = objective(inputs).loss, derivative(objective, inputs)
    assert loss.dtype == torch.float64
    assert loss.shape == ()
    unscored = inputs.weight == 0
    given = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    given["logp"] = inputs.logp.masked_fill(unscored, torch.nan)
    given["old_logp"] = inputs.old_logp.masked_fill(unscored, torch.nan)
    if not objective.needs_old:
        given["old_logp"] = torch.full_like(inputs.old_logp, torch.nan)
    if objective.needs_reference:
        given["ref_logp"] = inputs.reference().masked_fill(unscored, torch.nan)
    copies = {k: v.clone() for k, v in given.items() if isinstance(v, torch.Tensor)}
    hidden = ObjectiveInputs(**given)
    assert_same(objective(hidden).loss, loss)
    assert_same(derivative(objective, hidden), gradient)
    assert not gradient[unscored].any()
    for key, value in copies.items():
        torch.testing.assert_close(given[key], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "objective"),
    [case for case in objectives() if case.values[0] in OBJECTIVES and not case.values[1].offline],
)
def test_an_unscored_completion_moves_nothing(name, objective):
    inputs = make_batch(objective, "own").inputs
    rewards = inputs.rewards.clone()
    rewards[1] = torch.nan
    inputs = replace(inputs, rewards=rewards, advantages=leave_one_out(rewards, GROUP_SIZE))
    gradient = derivative(objective, inputs, on_policy=True)
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert gradient[0].any()


@every_objective
def test_metrics_are_finite_and_carry_no_graph(name, objective):
    inputs = make_batch(objective, "own").inputs
    output = objective(replace(inputs, logp=inputs.logp.clone().requires_grad_()))
    assert output.metrics
    for metric in output.metrics.values():
        assert metric.reduction in get_args(Reduction)
        assert metric.values.isfinite().all()
        assert not metric.values.requires_grad
