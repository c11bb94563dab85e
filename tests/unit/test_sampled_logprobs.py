"""Log-probabilities as the sampler takes tokens: its temperature, its candidates (AGRPO)."""

from dataclasses import replace

import pytest
import torch
from tiny_policies import tiny_policy

from unmask.config import TrainConfig
from unmask.maskings import make_generators
from unmask.maskings_trajectory import draw_trajectory
from unmask.models.settings import Promising
from unmask.recipe import ConfigError, validate
from unmask.sampling.candidates import restrict
from unmask.sampling.sampler import sample
from unmask.sampling.settings import Sampler
from unmask.training.policy_gradient import Completions, evaluate_logprobs, with_candidates

CANVAS = 6
SETTINGS = [(0.6, 0, 1.0), (1.0, 3, 1.0), (0.7, 4, 0.8), (1.5, 5, 0.6)]


def rolled_out(policy, sampler):
    prompts, mask = policy.pad_prompts([[3, 4], [5, 6, 7], [8]] * 4)
    samples = sample(policy.denoiser, prompts, mask, torch.arange(len(prompts)), sampler)
    return Completions(prompts, mask, samples.completion_ids), samples


def taken_with(policy, completions, step_map, sampler):
    """log of the probability with which the sampler took each token, one state at a time."""
    prompt, ids = completions.prompt_ids, completions.completion_ids
    attention = torch.cat([completions.prompt_mask, torch.ones_like(ids)], dim=1)
    columns = (prompt.shape[1] + torch.arange(CANVAS)).expand(len(ids), -1)
    found = torch.zeros(ids.shape, dtype=torch.float64)
    for step in range(sampler.steps):
        shown = ids.masked_fill(step_map >= step, policy.family.mask_token_id)
        logits = policy.denoiser.propose(torch.cat([prompt, shown], 1), attention, columns)
        logp = restrict(logits / sampler.temperature, sampler.top_k, sampler.top_p).log_softmax(-1)
        found = torch.where(step_map == step, logp.gather(-1, ids[..., None])[..., 0], found)
    return found


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_a_trajectory_is_as_likely_as_the_sampler_made_it(temperature, top_k, top_p):
    policy = tiny_policy()
    sampler = Sampler(
        gen_length=CANVAS,
        block_length=CANVAS,
        steps=3,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        select_first=True,
    )
    completions, samples = rolled_out(policy, sampler)
    policy.denoiser.double()
    generators = make_generators(range(len(samples.step_map)))
    last = torch.full((len(samples.step_map),), sampler.steps - 1)
    maskings = draw_trajectory(generators, samples.step_map, last, None, dtype=torch.float64)
    options = {"mask_token_id": policy.family.mask_token_id, "max_tokens": 40}
    policy.denoiser.sampled_at = temperature
    if top_k:
        maskings = with_candidates(
            policy.denoiser, completions, maskings, Promising(top_k, top_p), **options
        )
    found = evaluate_logprobs(policy.denoiser, completions, maskings, **options).sum(1)
    expected = taken_with(policy, completions, samples.step_map, sampler)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    policy.denoiser.sampled_at = None
    plain = evaluate_logprobs(
        policy.denoiser, completions, replace(maskings, candidates=None), **options
    )
    assert (plain.sum(1) - expected).abs().max() > 1e-2


def test_what_the_sampler_never_places_has_no_probability():
    policy = tiny_policy()
    policy.denoiser.double().sampled_at = 1.0
    mask_id = policy.family.mask_token_id
    ids = torch.full((1, 4), mask_id)
    scored = torch.tensor([[False, False, True, True]])
    every = [
        policy.denoiser(ids, None, torch.full_like(ids, token), scored)
        for token in range(policy.config.vocab_size)
    ]
    logp = torch.stack(every)
    assert logp[mask_id].eq(-torch.inf).all()
    torch.testing.assert_close(
        logp.exp().sum(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": {"temperature": 0}}, "set a temperature above 0"),
        ({"sampler": {"top_p": 0.9}}, "limit the list by sampler.top_k"),
        ({"promising": {"top_k": 8}}, "set it to null"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(TrainConfig, {"objective": {"name": "agrpo"}, **settings})


def test_the_papers_sampling_is_accepted():
    config = validate(
        TrainConfig,
        {
            "objective": {"name": "agrpo"},
            "sampler": {"temperature": 0.6, "top_k": 150, "top_p": 0.99},
        },
    )
    assert config.sampled_candidates == Promising(150, 0.99)
    assert validate(TrainConfig, {"sampler": {"top_k": 150}}).sampled_candidates is None
