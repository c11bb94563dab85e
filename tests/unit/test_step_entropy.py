"""Denoising steps drawn in proportion to their entropy: exact weights, and what is recorded."""

from collections import Counter

import pytest
import torch
from tiny_policies import tiny_policy
from torch import Tensor

from unmask.estimators import DrawContext, Trajectory
from unmask.maskings import Maskings, make_generators
from unmask.maskings_trajectory import draw_trajectory
from unmask.sampling.entropies import Entropies
from unmask.sampling.sampler import sample
from unmask.sampling.settings import Sampler
from unmask.training.policy_gradient import Completions
from unmask.training.rollout import Rollout

STEP_MAP = torch.tensor([[1, 0, 2, 2, 9]])
# Steps 0, 1 and 2 have 1, 1 and 2 nats; what was revealed after the last step does not count.
ENTROPY = torch.tensor([[1.0, 1.0, 0.5, 1.5, 7.0]])
LAST = torch.tensor([2])


def drawn(entropy: Tensor, num_mc: int, seeds: int = 1, **options: bool) -> Maskings:
    rows = torch.arange(seeds)
    return draw_trajectory(
        make_generators(rows.tolist()),
        STEP_MAP.expand(seeds, -1),
        LAST.expand(seeds),
        num_mc,
        entropy=entropy.expand(seeds, -1),
        dtype=torch.float64,
        **options,
    )


def steps_of(maskings: Maskings) -> list[int]:
    return [int(STEP_MAP[0][scored][0]) for row in maskings.scored for scored in row]


@pytest.mark.parametrize("num_mc", [4, 8])
def test_draws_in_the_shares_themselves_give_the_mean_over_all_steps(num_mc: int) -> None:
    logp = torch.tensor([-1.0, -2.0, -3.0, -5.0, -100.0], dtype=torch.float64)
    expected = (logp[1] + logp[0] + logp[2] + logp[3]) / 3
    for seed in range(20):
        maskings = drawn(ENTROPY, num_mc, seeds=seed + 1)
        counts = Counter(steps_of(Maskings(maskings.hidden[-1:], maskings.weight[-1:])))
        assert counts == {0: num_mc // 4, 1: num_mc // 4, 2: num_mc // 2}
        estimate = (maskings.weight[-1] * logp).sum() / num_mc
        torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-12)


def test_independent_draws_follow_the_shares() -> None:
    counts = Counter(steps_of(drawn(ENTROPY, 1, seeds=4000, stratified=False)))
    for step, share in enumerate((0.25, 0.25, 0.5)):
        assert abs(counts[step] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5


def test_a_step_without_entropy_is_never_drawn_and_none_at_all_means_uniform() -> None:
    sure = torch.tensor([[1.0, 0.0, 0.0, 0.0, 7.0]])
    assert set(steps_of(drawn(sure, 3, seeds=50))) == {1}
    flat = drawn(torch.zeros(1, 5), 3, seeds=50)
    assert Counter(steps_of(flat)) == {0: 50, 1: 50, 2: 50}
    torch.testing.assert_close(flat.weight.unique(), torch.tensor([0.0, 1.0]).double())


def test_a_rollout_records_the_entropy_of_what_each_token_was_drawn_from() -> None:
    policy = tiny_policy()
    prompts, mask = policy.pad_prompts([[5, 6, 7], [8, 9, 10, 11]])
    sampler = Sampler(gen_length=8, block_length=4, steps=4, early_stop=False)
    entropies = Entropies(2, 8, prompts.device)
    seeds = torch.arange(2)
    samples = sample(policy.denoiser, prompts, mask, seeds, sampler, on_reveal=entropies)
    for row in range(2):
        for step in range(4):
            hidden = samples.step_map[row] >= step
            shown = samples.completion_ids[row].masked_fill(hidden, policy.family.mask_token_id)
            ids = torch.cat([prompts[row], shown])[None]
            attention = torch.cat([mask[row], torch.ones_like(shown)])[None]
            places = torch.arange(8)[None] + prompts.shape[1]
            logits = policy.denoiser.propose(ids, attention, places)[0]
            expected = torch.distributions.Categorical(logits=logits.double()).entropy()
            revealed = samples.step_map[row] == step
            torch.testing.assert_close(
                entropies.values[row][revealed].double(), expected[revealed], rtol=0, atol=1e-5
            )


def test_a_checkpoint_in_the_middle_of_a_round_keeps_the_entropies() -> None:
    ids, numbers = torch.tensor([[5, 6, 7, 8, 9]]), torch.zeros(1)
    rollout = Rollout(
        Completions(ids, torch.ones_like(ids), ids),
        [0],
        STEP_MAP,
        LAST,
        numbers,
        numbers,
        [],
        5,
        entropy=ENTROPY,
    )
    again = Rollout.from_tensors(rollout.tensors(), ids.device)
    assert again.entropy is not None
    assert torch.equal(again.entropy, ENTROPY)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="num_mc=null takes all"):
        Trajectory(num_mc=None, steps="entropy")
    with pytest.raises(ValueError, match="choose uniform or entropy"):
        Trajectory(steps="random")  # type: ignore[arg-type]
    context = DrawContext([0], torch.tensor([4]), torch.tensor([1]), 5, STEP_MAP)
    with pytest.raises(ValueError, match="here are none"):
        Trajectory(steps="entropy").draw(context)
