"""Prefix and dual caches: against a restatement on a growing cache, and their invariances."""

from typing import Any

import oracle
import pytest
import torch
from tiny_policies import tiny_policy
from torch import Tensor

from unmask.sampling.sampler import Samples, sample
from unmask.sampling.settings import Sampler

PROMPTS = [[5, 6, 7], [8, 9, 10, 11], [6], [12, 12, 5, 9, 8], [13, 7], [5], [9, 9, 9]]


def run(policy: Any, prompts: list[list[int]], seeds: list[int], sampler: Sampler) -> Samples:
    ids, mask = policy.pad_prompts(prompts)
    eos = policy.family.eos_ids
    return sample(policy.denoiser, ids, mask, torch.tensor(seeds), sampler, eos_ids=eos)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_greedy_tokens_are_those_of_a_cache_that_grows(cache: Any, shift: bool) -> None:
    policy = tiny_policy(seed=5, shift=shift)
    settings = {"gen_length": 16, "block_length": 4, "steps": 8}
    sampler = Sampler(**settings, temperature=0.0, cache=cache, early_stop=False)
    samples = run(policy, PROMPTS, list(range(len(PROMPTS))), sampler)
    exact = run(policy, PROMPTS, list(range(len(PROMPTS))), Sampler(**settings, temperature=0.0))
    assert not torch.equal(samples.completion_ids, exact.completion_ids)
    for row, prompt in enumerate(PROMPTS):
        expected = oracle.greedy_cached(
            policy.denoiser.network,
            torch.tensor([prompt]),
            cache=cache,
            mask_id=policy.family.mask_token_id,
            shift=shift,
            **settings,
        )
        assert samples.completion_ids[row].tolist() == expected.tolist()


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"threshold": 0.4}, {"entropy_bound": 1.0}, {"cfg_scale": 1.0}, {"select_first": True}],
    ids=str,
)
def test_a_row_is_the_same_alone_and_among_others(cache: Any, settings: dict[str, Any]) -> None:
    policy = tiny_policy()
    sampler = Sampler(gen_length=12, block_length=4, steps=12, cache=cache, **settings)
    together = run(policy, PROMPTS, list(range(len(PROMPTS))), sampler)
    for row, prompt in enumerate(PROMPTS):
        alone = run(policy, [prompt], [row], sampler)
        assert torch.equal(alone.completion_ids[0], together.completion_ids[row])
        assert torch.equal(alone.step_map[0], together.step_map[row])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_span_of_unchanged_tokens_gets_the_states_of_the_whole_pass(
    attention: str, padded: bool
) -> None:
    denoiser = tiny_policy().denoiser
    denoiser.causal_lm.set_attn_implementation(attention)
    ids = torch.randint(3, 12, (3, 12), generator=torch.Generator().manual_seed(0))
    mask: Tensor | None = None
    if padded:
        mask = torch.ones_like(ids)
        mask[0, :3] = mask[1, :1] = 0
    rows, columns = torch.tensor([0, 0, 1, 2]), torch.tensor([6, 7, 7, 8])
    expected = denoiser.states(ids, mask, rows, columns)
    cache = denoiser.new_cache()
    whole = denoiser.states(ids, mask, rows, columns, cache=cache)
    torch.testing.assert_close(whole, expected, rtol=0, atol=2e-5)
    span = (torch.tensor([5, 6, 7]), 3)
    part = denoiser.states(ids, mask, rows, columns, cache=cache, span=span)
    torch.testing.assert_close(part, expected, rtol=0, atol=2e-5)


def test_without_refresh_in_between_a_step_computes_the_span_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tiny_policy()
    decoder = policy.denoiser.causal_lm.get_decoder()
    widths: list[int] = []
    decoder.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for cache, expected in (("prefix", [15, 12, 15, 8, 15, 4]), ("dual", [15, 4] * 3)):
        widths.clear()
        sampler = Sampler(gen_length=12, block_length=4, steps=6, cache=cache, early_stop=False)
        run(policy, [[5, 6, 7]], [0], sampler)
        assert widths == expected


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("block_length", [2, 3, 4])
def test_in_a_block_causal_network_the_cache_is_exact(cache: Any, block_length: int) -> None:
    # Sampled blocks of 4 that begin anywhere in a block of the network.
    policy = tiny_policy()
    policy.denoiser.block_length = block_length
    settings: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 12}
    seeds = list(range(len(PROMPTS)))
    exact = run(policy, PROMPTS, seeds, Sampler(**settings))
    cached = run(policy, PROMPTS, seeds, Sampler(**settings, cache=cache))
    assert torch.equal(exact.completion_ids, cached.completion_ids)
    assert torch.equal(exact.step_map, cached.step_map)
    torch.testing.assert_close(exact.confidence, cached.confidence, rtol=1e-4, atol=1e-5)
