"""Rollouts of block-causal networks: blocks that keep to the network's, and prompts run once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_policies import tiny_policy

from unmask.estimators import DrawContext, LeftToRight, Trajectory
from unmask.models.policy import Policy
from unmask.sampling.blocks import Blocks
from unmask.sampling.sampler import Samples, sample
from unmask.sampling.settings import Sampler
from unmask.training.policy_gradient import Completions, evaluate_logprobs

BLOCK = 4
# All ends of a block; the first and the last are alike.
PROMPTS = [
    [5, 6, 7],
    [8, 9, 10, 11],
    [6],
    [12, 12, 5, 9, 8],
    [13, 7],
    [9, 9, 9, 8, 5, 7],
    [5, 6, 7],
]
SETTINGS: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 12, "early_stop": False}


def policy_of(block_length: int | None = BLOCK) -> Policy:
    policy = tiny_policy()
    policy.denoiser.block_length = block_length
    return policy


def run(policy: Policy, sampler: Sampler, prompts: Any = PROMPTS, **options: Any) -> Samples:
    ids, mask = policy.pad_prompts(prompts)
    seeds = options.pop("seeds", range(len(prompts)))
    eos = policy.family.eos_ids
    seeds = torch.tensor(list(seeds))
    return sample(policy.denoiser, ids, mask, seeds, sampler, eos_ids=eos, **options)


def logprobs(policy: Policy, samples: Samples, estimator: Any) -> torch.Tensor:
    """log p of every token in the view that scores it, float [B, L]."""
    ids, mask = policy.pad_prompts(PROMPTS)
    completions = Completions(ids, mask, samples.completion_ids)
    context = DrawContext(
        seeds=list(range(len(PROMPTS))),
        lengths=torch.full((len(PROMPTS),), samples.completion_ids.shape[1]),
        prompt_lengths=mask.sum(-1),
        canvas=samples.completion_ids.shape[1],
        step_map=samples.step_map,
    )
    maskings = estimator.draw(context)
    assert torch.equal(maskings.scored.sum(1), torch.ones_like(samples.step_map))
    mask_id = policy.denoiser.mask_token_id
    # As the sampler has it, which never places the mask token.
    policy.denoiser.sampled_at = 1.0
    found = evaluate_logprobs(
        policy.denoiser, completions, maskings, mask_token_id=mask_id, max_tokens=10**6
    )
    return found.sum(1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 6},
        {"block_length": 2},
        {"block_length": 2, "steps": 12, "cache": "dual"},
        {"cache": "dual"},
        {"threshold": 0.3},
        {"threshold": 0.3, "cache": "prefix", "remasking": "low_confidence"},
        {"remasking": "random", "steps": 9},
    ],
    ids=str,
)
def test_the_rollouts_trajectory_has_the_likelihood_that_it_was_sampled_with(
    settings: dict[str, Any],
) -> None:
    """AGRPO and TraceRL read it: the states of the rollout, whatever the prompt's length."""
    policy = policy_of()
    sampler = Sampler(**(SETTINGS | settings))
    samples = run(policy, sampler)
    found = logprobs(policy, samples, Trajectory(num_mc=None))
    torch.testing.assert_close(found, samples.confidence.log(), rtol=1e-4, atol=1e-4)


def test_without_alignment_it_would_not() -> None:
    policy = policy_of()
    denoiser = policy.denoiser
    sampler = Sampler(**SETTINGS)
    # The same network to the sampler, but for its word about blocks.
    blind = Blind(denoiser)
    ids, mask = policy.pad_prompts(PROMPTS)
    samples = sample(blind, ids, mask, torch.arange(len(PROMPTS)), sampler)
    found = logprobs(policy, samples, Trajectory(num_mc=None))
    difference = (found - samples.confidence.log()).abs().amax(-1)
    aligned = torch.tensor([len(prompt) % BLOCK == 0 for prompt in PROMPTS])
    assert difference[aligned].max() < 1e-4
    assert difference[~aligned].min() > 1e-2


class Blind:
    """A denoiser that does not say how it attends."""

    def __init__(self, denoiser: Any) -> None:
        self.mask_token_id, self.chunk_size = denoiser.mask_token_id, denoiser.chunk_size
        self.states, self.logits = denoiser.states, denoiser.logits


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_left_to_right_rollouts_have_their_autoregressive_likelihood(cache: Any) -> None:
    """JustGRPO's."""
    policy = policy_of()
    samples = run(policy, Sampler(**SETTINGS, remasking="left_to_right", cache=cache))
    assert torch.equal(samples.step_map, torch.arange(12).expand(len(PROMPTS), -1))
    found = logprobs(policy, samples, LeftToRight())
    torch.testing.assert_close(found, samples.confidence.log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block_length", [2, 4])
@pytest.mark.parametrize("cache", ["none", "prefix"])
def test_blocks_are_finished_in_order_and_within_the_steps(block_length: int, cache: Any) -> None:
    policy = policy_of()
    sampler = Sampler(**(SETTINGS | {"block_length": block_length, "steps": 12}), cache=cache)
    samples = run(policy, sampler)
    for row, prompt in enumerate(PROMPTS):
        steps = samples.step_map[row]
        assert sorted(steps.tolist()) == list(range(12))
        number = (len(prompt) + torch.arange(12)) // block_length
        for block in number.unique().tolist()[1:]:
            assert steps[number == block].min() > steps[number < block].max()


@pytest.mark.parametrize(
    ("surplus", "steps", "expected"),
    [
        (0, 6, [2, 2, 2, 2, 2, 2]),
        (1, 6, [3, 2, 2, 2, 2, 1]),
        (2, 6, [2, 2, 2, 2, 2, 2]),
        (3, 6, [1, 2, 2, 2, 2, 3]),
        (1, 9, [2, 1, 2, 1, 1, 2, 1, 1, 1]),
        (3, 9, [1, 2, 1, 1, 2, 1, 1, 2, 1]),
        (2, 12, [1] * 12),
    ],
)
def test_a_split_block_has_its_steps_shared_by_its_parts(
    surplus: int, steps: int, expected: list[int]
) -> None:
    """Of one completion of 12 tokens in blocks of 4: what each step reveals."""
    blocks = Blocks(Sampler(**(SETTINGS | {"steps": steps})), torch.tensor([surplus]))
    row = torch.tensor([0])
    counts, number, covered = [], 0, []
    for block in range(int(blocks.count)):
        columns, inside = blocks.window(row, torch.tensor([block]))
        mine = columns[inside].tolist()
        assert mine[0] == blocks.begin(row, torch.tensor([block]))
        covered += mine
        left, offset = len(mine), 0
        while left:
            at = row, torch.tensor([block]), torch.tensor([offset])
            assert blocks.step(*at) == number
            counts.append(int(blocks.scheduled(*at)))
            left -= counts[-1]
            number, offset = number + 1, offset + 1
    assert covered == list(range(12))
    assert counts == expected
    assert number == steps


def test_a_row_is_the_same_alone_and_among_others() -> None:
    policy = policy_of()
    for cache in ("none", "dual"):
        sampler = Sampler(**(SETTINGS | {"early_stop": True}), cache=cache)
        together = run(policy, sampler)
        few = run(policy, sampler, max_tokens=40)
        assert torch.equal(few.completion_ids, together.completion_ids)
        for row, prompt in enumerate(PROMPTS):
            alone = run(policy, sampler, [prompt], seeds=[row])
            assert torch.equal(alone.completion_ids[0], together.completion_ids[row])
            assert torch.equal(alone.step_map[0], together.step_map[row])


def test_one_step_cannot_finish_two_parts_of_a_block() -> None:
    policy = policy_of()
    sampler = Sampler(**(SETTINGS | {"steps": 3}))
    with pytest.raises(ValueError, match=r"steps=3 leaves one step to a block.* at least 6"):
        run(policy, sampler, [[5, 6, 7]])
    assert int(run(policy, sampler, [[5, 6, 7, 8]]).step_map.max()) == 2
    assert int(run(policy_of(None), sampler, [[5, 6, 7]]).step_map.max()) == 2


# --- prompts in the cache -------------------------------------------------------------------------


def shapes(policy: Policy) -> list[tuple[int, ...]]:
    """Filled with the rows and columns of every pass that follows."""
    found: list[tuple[int, ...]] = []
    policy.denoiser.causal_lm.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: found.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return found


def test_a_group_runs_its_prompt_once_and_each_step_its_block() -> None:
    policy = policy_of()
    passes = shapes(policy)
    sampler = Sampler(**(SETTINGS | {"steps": 6}), cache="dual")
    run(policy, sampler, [[5, 6, 7, 8, 9, 10, 11, 12]] * 3)
    # The first step of a block also has the block before, which is finished by then.
    assert passes == [(1, 8), (3, 4), (3, 4), (3, 8), (3, 4), (3, 8), (3, 4)]
    passes.clear()
    run(policy, sampler, [[5, 6, 7, 8, 9, 10]] * 3)
    assert passes == [(1, 6), (3, 4), (3, 8), (3, 4), (3, 8), (3, 4), (3, 8)]


def test_who_enters_later_takes_the_prompt_from_who_is_there() -> None:
    policy = policy_of()
    passes = shapes(policy)
    # Every token closes a completion, so that a completion is one block.
    every_token = list(range(3, 14))
    sampler = Sampler(**(SETTINGS | {"early_stop": True, "threshold": 0.3}), cache="dual")
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12]] * 8
    ids, _ = policy.pad_prompts(prompts)
    options: dict[str, Any] = {"eos_ids": every_token}
    few = sample(policy.denoiser, ids, None, torch.arange(8), sampler, max_tokens=3 * 20, **options)
    # Blocks take different numbers of steps, so that sequences enter at different times.
    assert passes.count((1, 8)) == 1
    whole = sample(policy.denoiser, ids, None, torch.arange(8), sampler, **options)
    assert torch.equal(few.completion_ids, whole.completion_ids)


@pytest.mark.parametrize("settings", [{}, {"cfg_scale": 1.0}, {"temperature": 0.0}], ids=str)
@pytest.mark.parametrize("block_length", [2, 3, 4, 8])
def test_tokens_are_those_of_whole_passes(block_length: int, settings: dict[str, Any]) -> None:
    """Groups of equal prompts, some entering while others are under way."""
    policy = policy_of(block_length)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    settings = SETTINGS | {"early_stop": True, "threshold": 0.6} | settings
    exact = run(policy, Sampler(**settings), prompts)
    for budget in (None, 70):
        cached = run(policy, Sampler(**settings, cache="dual"), prompts, max_tokens=budget)
        assert torch.equal(exact.completion_ids, cached.completion_ids)
        assert torch.equal(exact.step_map, cached.step_map)
        torch.testing.assert_close(exact.confidence, cached.confidence, rtol=1e-4, atol=1e-5)
