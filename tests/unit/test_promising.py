"""Likelihoods over the reference policy's promising tokens only."""

import pytest
import torch
from table_model import random_completions
from tiny_policies import tiny_policy

from unmask.config import TrainConfig
from unmask.maskings import Maskings, draw_elbo, make_generators
from unmask.models.settings import Promising
from unmask.recipe import ConfigError, validate
from unmask.training.policy_gradient import evaluate_logprobs, with_candidates

CANVAS, PROMPTS = 6, [3, 5, 2]


@pytest.fixture(scope="module")
def denoiser():
    return tiny_policy("123456789").denoiser.double()


def logits_of(denoiser, ids, scored):
    with torch.no_grad():
        return denoiser.causal_lm(input_ids=ids).logits[scored]


def inputs():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 12, (4, 7), generator=generator)
    scored = torch.rand(4, 7, generator=generator) < 0.5
    targets = torch.randint(3, 12, (4, 7), generator=generator)
    return ids.masked_fill(scored, 2), targets, scored


@pytest.mark.parametrize("chunk_size", [3, 2048])
def test_the_softmax_runs_over_the_candidates_and_the_target(denoiser, chunk_size):
    ids, targets, scored = inputs()
    logits, wanted = logits_of(denoiser, ids, scored), targets[scored]
    candidates = torch.tensor([[3, 4, 5, -1]]).expand(len(wanted), -1)
    expected = []
    for row, target in zip(logits, wanted.tolist(), strict=True):
        among = sorted({3, 4, 5, target})
        expected.append(row[among].log_softmax(-1)[among.index(target)])
    denoiser.chunk_size = chunk_size
    found = denoiser(ids, None, targets, scored, candidates)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in denoiser.parameters())


def test_promising_tokens_are_the_fewest_most_probable_ones_that_hold_the_mass(denoiser):
    ids, targets, scored = inputs()
    probs = logits_of(denoiser, ids, scored).softmax(-1)
    for top_k, top_p in ((3, 1.0), (8, 0.4), (1000, 1.0)):
        found = denoiser(ids, None, targets, scored, None, Promising(top_k, top_p))
        for row, tokens in zip(probs, found.tolist(), strict=True):
            order = row.argsort(descending=True)
            best = row[order][:top_k]
            mass = best.cumsum(-1) / best.sum()
            count = min(1 + int((mass < top_p).sum()), len(best))
            assert [token for token in tokens if token >= 0] == order[:count].tolist()


def test_every_view_gets_the_tokens_of_its_own_pass_whatever_the_slices(denoiser):
    completions = random_completions(CANVAS, PROMPTS)
    drawn = draw_elbo(make_generators(range(3)), CANVAS, 4, dtype=torch.float64)
    twice = Maskings(drawn.hidden.repeat(1, 2, 1), drawn.weight.repeat(1, 2, 1))
    options = {"mask_token_id": 2, "max_tokens": 25}
    with_tokens = with_candidates(denoiser, completions, twice, Promising(4), **options)
    tokens = with_tokens.candidates
    assert tokens.shape == (*twice.weight.shape, 4)
    assert torch.equal(tokens[:, : drawn.num_views], tokens[:, drawn.num_views :])
    assert (tokens[twice.scored] >= 0).all()
    whole = with_candidates(
        denoiser, completions, twice, Promising(4), mask_token_id=2, max_tokens=10_000
    )
    assert torch.equal(whole.candidates, tokens)
    few = evaluate_logprobs(denoiser, completions, with_tokens, **options)
    every = evaluate_logprobs(denoiser, completions, twice, **options)
    assert (few[twice.scored] >= every[twice.scored]).all()
    assert (few > every + 1e-3).any()
    everything = with_candidates(denoiser, completions, twice, Promising(1000), **options)
    torch.testing.assert_close(
        evaluate_logprobs(denoiser, completions, everything, **options), every, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"promising": {"top_k": 0}}, "top_k=0"),
        ({"promising": {"top_p": 0.0}}, "top_p=0.0 is no mass"),
        ({"promising": {"k": 3}}, "promising.k is an unknown key"),
        ({"promising": {}, "objective": {"name": "dmpo"}}, "over all tokens; set it to null"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(TrainConfig, settings)
