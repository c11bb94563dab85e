"""Likelihoods: a Denoiser's token log-probabilities, and the sequence estimates made of them."""

import copy
import math

import pytest
import torch
from table_model import (
    MASK,
    VOCABULARY,
    JointTable,
    RandomConditionals,
    enumerated_elbo,
    every_mask,
    order_log_likelihoods,
)

from unmask.likelihood import draw_estimates, estimate_variance, sequence_estimate
from unmask.maskings import Maskings
from unmask.models.denoiser import Denoiser
from unmask.models.settings import TinyArchitecture
from unmask.models.tiny import build_network, build_tokenizer
from unmask.training.policy_gradient import Completions, evaluate_logprobs

TOKENIZER = build_tokenizer(list("abcdefgh"))
SHAPE = TinyArchitecture(
    num_layers=2,
    hidden_size=16,
    intermediate_size=24,
    num_heads=2,
    max_length=32,
    initializer_range=0.5,
)
NUM_TOKENS = len(TOKENIZER)


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def test_an_estimate_sums_views_and_tokens_and_averages_draws():
    logp = float64([[[-1, -2], [-3, -4], [-5, -6], [-7, -8]]])
    weight = float64([[[2, 0], [0, 1], [1, 1], [0, 3]]])
    # Views: -2, -4, -11, -24.
    assert draw_estimates(logp, weight).tolist() == [[-2, -4, -11, -24]]
    assert draw_estimates(logp, weight, 2).tolist() == [[-6, -35]]
    assert sequence_estimate(logp, weight).tolist() == [-41 / 4]
    assert sequence_estimate(logp, weight, 2).tolist() == [-41 / 2]
    assert sequence_estimate(logp, weight, 4).tolist() == [-41]


def test_the_variance_of_an_estimate_is_that_of_its_draws_over_their_number():
    # Two draws of two views: -1 - 2 = -3 and -4 - 3 = -7. Sample variance 8, of the mean 4.
    logp = torch.tensor([[[-0.5], [-2.0], [-4.0], [-1.0]]], dtype=torch.float64)
    weight = torch.tensor([[[2.0], [1.0], [1.0], [3.0]]], dtype=torch.float64)
    assert estimate_variance(logp, weight, views_per_draw=2).tolist() == [4.0]
    # The same numbers as four draws: -1, -2, -4, -3 with sample variance 5 / 3.
    assert estimate_variance(logp, weight).tolist() == pytest.approx([5 / 12])


def test_what_is_not_scored_enters_neither_value_nor_gradient():
    weight = float64([[[2, 0, 0], [0, 1, 0]]])
    logp = float64([[[-1, math.nan, -math.inf], [math.inf, -3, math.nan]]]).requires_grad_()
    estimate = sequence_estimate(logp, weight)
    estimate.sum().backward()
    assert estimate.tolist() == [-5 / 2]
    assert logp.grad.tolist() == [[[1, 0, 0], [0, 0.5, 0]]]


def elbo_over_every_mask(model, prompt, completions):
    """The ELBO [B] of completions [B, L] by the library, with every hidden set as a view."""
    batch, length = completions.shape
    hidden = every_mask(model, prompt, completions[0])[0][1:]
    count = hidden.sum(-1, keepdim=True).double()
    subsets = float64([math.comb(length, int(k)) for k in count]).unsqueeze(-1)
    # P(set) = 1 / (L C(L, k)), weight L / k, times M because an estimate is a mean of M draws.
    weight = hidden * len(hidden) / (length * subsets) * length / count
    maskings = Maskings(hidden.expand(batch, -1, -1), weight.expand(batch, -1, -1))
    prompts = prompt.expand(batch, -1)
    logp = evaluate_logprobs(
        model,
        Completions(prompts, torch.ones_like(prompts), completions),
        maskings,
        mask_token_id=MASK,
        max_tokens=10_000,
    )
    return sequence_estimate(logp, maskings.weight)


def all_completions(length):
    return torch.cartesian_prod(*[torch.arange(VOCABULARY)] * length).view(-1, length)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_elbo_of_a_joint_table_is_the_exact_log_likelihood(length):
    model, prompt = JointTable(length, seed=length), torch.tensor([1, 0, 2])
    completions = all_completions(length)
    exact = torch.stack([model.log_likelihood(prompt, row) for row in completions])
    torch.testing.assert_close(exact.exp().sum().item(), 1.0, rtol=0, atol=1e-12)
    elbo = elbo_over_every_mask(model, prompt, completions)
    torch.testing.assert_close(elbo, exact, rtol=0, atol=1e-10)
    for row in range(0, len(completions), 7):
        orders = order_log_likelihoods(model, prompt, completions[row])
        assert len(orders) == math.factorial(length)
        torch.testing.assert_close(orders, exact[row].expand_as(orders), rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_elbo_of_inconsistent_conditionals_is_below_the_mean_likelihood_over_orders(length):
    model, prompt = RandomConditionals(length, seed=length), torch.tensor([1, 0, 2])
    completions = all_completions(length)
    elbo = elbo_over_every_mask(model, prompt, completions)
    over_some_order = 0
    for row, completion in enumerate(completions):
        orders = order_log_likelihoods(model, prompt, completion)
        mean_likelihood = orders.logsumexp(0) - math.log(len(orders))
        assert elbo[row] <= mean_likelihood + 1e-12
        assert abs(elbo[row] - enumerated_elbo(model, prompt, completion)) < 1e-10
        over_some_order += int(elbo[row] > orders.min() + 1e-6)
    assert over_some_order > len(completions) / 2, "the ELBO is no bound of every single order"


def tiny_network(dtype=torch.float64):
    return build_network(SHAPE, TOKENIZER, seed=3).to(dtype).eval()


def denoiser(network=None, **options):
    network = tiny_network() if network is None else network
    return Denoiser(network, mask_token_id=TOKENIZER.mask_token_id, **options)


def random_case(rows=3, columns=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(NUM_TOKENS, (rows, columns), generator=generator)
    targets = torch.randint(NUM_TOKENS, (rows, columns), generator=generator)
    scored = torch.rand(rows, columns, generator=generator) < 0.5
    scored[0, 0] = True
    return ids, targets, scored


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
def test_token_logprobs_equal_the_whole_log_softmax_in_value_and_gradient(chunk_size, shift):
    ids, targets, scored = random_case()
    network = tiny_network()
    twin = copy.deepcopy(network)
    logits = twin(input_ids=ids).logits
    if shift:
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    whole = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0][scored]
    values = denoiser(network, chunk_size=chunk_size, shift=shift)(ids, None, targets, scored)
    torch.testing.assert_close(values, whole, rtol=0, atol=1e-12)
    factor = torch.linspace(-1, 2, len(whole), dtype=torch.float64)
    (whole * factor).sum().backward()
    (values * factor).sum().backward()
    for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-12)


def test_the_projection_sees_scored_positions_only_in_chunks_that_no_graph_keeps():
    ids, targets, scored = random_case(4, 12)
    network = tiny_network()
    chunks, saved = [], []
    network.lm_head.register_forward_hook(lambda _, given, __: chunks.append(len(given[0])))

    def keep(tensor):
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values = denoiser(network, chunk_size=5)(ids, None, targets, scored)
    total = int(scored.sum())
    assert max(chunks) == 5
    assert sum(chunks) == total
    logits = [shape for shape in saved if shape[-1:] == (NUM_TOKENS,) and shape[0] != 16]
    assert not logits, "a chunk's logits are kept for the backward pass"
    values.sum().backward()
    assert sum(chunks) == 2 * total


def test_every_position_reads_tokens_on_both_sides():
    ids, targets, _ = random_case(1, 6)
    scored = torch.zeros(1, 6, dtype=torch.bool)
    scored[0, 2] = True
    model = denoiser()
    values = []
    for column in (None, 0, 5):
        changed = ids.clone()
        if column is not None:
            changed[0, column] = (ids[0, column] + 1) % NUM_TOKENS
        values.append(model(changed, None, targets, scored).item())
    assert len({round(value, 6) for value in values}) == 3


def test_padding_changes_no_log_probability():
    ids, targets, scored = random_case(1, 7)
    model = denoiser()
    alone = model(ids, None, targets, scored)
    for padding in (1, 8, 20):
        junk = torch.full((1, padding), 6)
        nothing = torch.zeros(1, padding, dtype=torch.int64)
        padded = model(
            torch.cat([junk, ids], 1),
            torch.cat([nothing, torch.ones_like(ids)], 1),
            torch.cat([junk, targets], 1),
            torch.cat([nothing.bool(), scored], 1),
        )
        torch.testing.assert_close(padded, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("network_dtype", "dtype"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_values_are_at_least_float32(network_dtype, dtype):
    ids, targets, scored = random_case()
    model = denoiser(tiny_network(network_dtype))
    assert model(ids, None, targets, scored).dtype == dtype
    assert model.propose(ids, None, torch.tensor([[1]] * 3)).dtype == dtype


def test_nothing_scored_gives_no_values():
    ids, targets, scored = random_case()
    assert denoiser()(ids, None, targets, torch.zeros_like(scored)).shape == (0,)


@pytest.mark.parametrize("shift", [False, True])
def test_proposals_are_the_logits_without_the_forbidden_tokens(shift):
    ids, _, _ = random_case()
    network = tiny_network()
    model = denoiser(network, shift=shift, forbidden_ids=[0, 5])
    positions = torch.tensor([[0, 4], [8, 1], [3, 3]])
    proposed = model.propose(ids, None, positions)
    with torch.no_grad():
        logits = network(input_ids=ids).logits
    forbidden = [0, TOKENIZER.mask_token_id, 5]
    allowed = [token for token in range(NUM_TOKENS) if token not in forbidden]
    for row in range(3):
        for place, column in enumerate(positions[row].tolist()):
            source = max(column - 1, 0) if shift else column
            torch.testing.assert_close(
                proposed[row, place, allowed], logits[row, source, allowed], rtol=0, atol=1e-12
            )
    assert (proposed[..., forbidden] == -math.inf).all()
    assert not proposed.requires_grad


def test_the_mask_token_is_always_forbidden():
    ids, _, _ = random_case()
    proposed = denoiser().propose(ids, None, torch.zeros(3, 1).long())
    assert (proposed == -math.inf).sum(-1).flatten().tolist() == [1, 1, 1]
    assert (proposed[..., TOKENIZER.mask_token_id] == -math.inf).all()
