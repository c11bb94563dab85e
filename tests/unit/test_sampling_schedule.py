"""The order and the schedule of reveals, early stop, and the settings of the unmasking loop."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from oracle import TableProposer, chi_square, constant_proposer
from tiny_policies import tiny_policy
from torch import Tensor

from unmask.models.policy import Policy
from unmask.sampling.orders import ORDERS
from unmask.sampling.rules import tokens_per_step
from unmask.sampling.sampler import Samples, completion_lengths, sample
from unmask.sampling.settings import Sampler

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 5], [6], [12, 12, 5, 9, 8], [13, 7]]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def run(policy: Policy, prompts: list[list[int]], sampler: Sampler, **options: Any) -> Samples:
    ids, mask = policy.pad_prompts(prompts)
    return sample(policy.denoiser, ids, mask, torch.arange(len(prompts)), sampler, **options)


def test_the_first_steps_of_a_block_take_the_remainder() -> None:
    assert tokens_per_step(8, 3) == [3, 3, 2]
    assert tokens_per_step(7, 7) == [1] * 7
    assert tokens_per_step(5, 1) == [5]
    assert tokens_per_step(32, 5) == [7, 7, 6, 6, 6]


@pytest.mark.parametrize("remasking", ORDERS)
@pytest.mark.parametrize("select_first", [False, True])
def test_every_order_reveals_each_position_once_and_block_by_block(
    policy: Policy, remasking: Any, select_first: bool
) -> None:
    sampler = Sampler(
        gen_length=15, block_length=5, steps=9, remasking=remasking, select_first=select_first
    )
    samples = run(policy, PROMPTS, sampler)
    for row in samples.step_map:
        counts = Counter(row.tolist())
        assert [counts[step] for step in range(9)] == [2, 2, 1] * 3
        assert (row.view(3, 5) // 3).tolist() == [[block] * 5 for block in range(3)]


# Orders, worked out by hand. Entropies in nats: 1.069, 1.030, 0.857; margins: 0.175, 0.2, 0.01.
THREE = [[0.45, 0.275, 0.275], [0.5, 0.3, 0.2], [0.48, 0.47, 0.05]]


@pytest.mark.parametrize(
    ("remasking", "step_map"),
    [
        ("low_confidence", [2, 0, 1]),
        ("entropy", [2, 1, 0]),
        ("margin", [1, 0, 2]),
        ("left_to_right", [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("select_first", [False, True])
def test_greedy_orders_are_those_worked_out_by_hand(
    remasking: Any, step_map: list[int], select_first: bool
) -> None:
    sampler = Sampler(
        gen_length=3,
        block_length=3,
        steps=3,
        temperature=0.0,
        remasking=remasking,
        select_first=select_first,
    )
    proposer, prompt = constant_proposer(THREE), torch.zeros(1, 1).long()
    samples = sample(proposer, prompt, None, torch.tensor([0]), sampler)
    assert samples.step_map.tolist() == [step_map]
    assert samples.completion_ids.tolist() == [[0, 0, 0]]
    assert samples.confidence[0].tolist() == pytest.approx([0.45, 0.5, 0.48])


def test_equal_confidences_are_revealed_in_reading_order() -> None:
    # exp(0) and exp(-1e-9) are both 1 in float32: a trained model's usual confidence.
    proposer = constant_proposer([[1.0, 0.0]] * 9)
    sampler = Sampler(gen_length=9, block_length=9, steps=3, temperature=0.0)
    samples = sample(proposer, torch.zeros(2, 1).long(), None, torch.arange(2), sampler)
    assert samples.step_map.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2


def test_the_random_order_is_uniform() -> None:
    count = 6000
    sampler = Sampler(gen_length=3, block_length=3, steps=3, remasking="random")
    prompt = torch.zeros(count, 1).long()
    samples = sample(constant_proposer(THREE), prompt, None, torch.arange(count), sampler)
    seen = Counter(map(tuple, samples.step_map.tolist()))
    assert len(seen) == 6
    assert chi_square(seen, dict.fromkeys(seen, 1 / 6)) < 5


def test_sample_then_keep_reveals_the_draw_of_the_highest_probability() -> None:
    # Position 1 has the likeliest token; but where it draws 1 (probability 0.1) and position 0
    # draws anything (0.4, 0.6), position 0 comes first.
    proposer = constant_proposer([[0.4, 0.6], [0.9, 0.1]])
    prompt, seeds = torch.zeros(4000, 1).long(), torch.arange(4000)
    settings = {"gen_length": 2, "block_length": 2, "steps": 2}
    keep = sample(proposer, prompt, None, seeds, Sampler(**settings))
    first = sample(proposer, prompt, None, seeds, Sampler(**settings, select_first=True))
    assert (first.step_map == torch.tensor([1, 0])).all()
    share = (keep.step_map[:, 0] == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 4000) ** 0.5)


@pytest.mark.parametrize("remasking", ["random", "entropy", "margin", "left_to_right"])
def test_choosing_positions_first_matters_only_where_the_order_reads_the_tokens(
    policy: Policy, remasking: Any
) -> None:
    settings = {"gen_length": 12, "block_length": 6, "steps": 6, "remasking": remasking}
    keep = run(policy, PROMPTS, Sampler(**settings))
    first = run(policy, PROMPTS, Sampler(**settings, select_first=True))
    assert torch.equal(keep.completion_ids, first.completion_ids)
    assert torch.equal(keep.step_map, first.step_map)


def test_on_step_sees_the_canvas_fill_up(policy: Policy) -> None:
    seen: list[tuple[int, Tensor]] = []
    sampler = Sampler(gen_length=10, block_length=5, steps=4)
    prompts = [[5, 6, 7], [8, 9, 10], [6, 6, 6], [12, 12, 5], [13, 7, 8]]
    samples = run(
        policy,
        prompts,
        sampler,
        on_step=lambda step, canvas, *_: seen.append((step, canvas.clone())),
    )
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    masked = [(canvas == policy.family.mask_token_id).sum(-1).tolist() for _, canvas in seen]
    assert masked == [[7] * 5, [5] * 5, [2] * 5, [0] * 5]
    for (_, before), (_, after) in pairwise(seen):
        shown = before != policy.family.mask_token_id
        assert torch.equal(before[shown], after[shown])
    assert torch.equal(seen[-1][1], samples.completion_ids)


# --- early stop ---------------------------------------------------------------------------------


def test_closed_rows_are_filled_with_eos_and_their_mates_are_not_touched(policy: Policy) -> None:
    (eos,) = policy.family.eos_ids
    settings = {"gen_length": 20, "block_length": 4, "steps": 10}
    prompts = PROMPTS * 6
    stopped = run(policy, prompts, Sampler(**settings), eos_ids=[eos])
    free = run(policy, prompts, Sampler(**settings, early_stop=False), eos_ids=[eos])
    closing_blocks = set()
    for row in range(len(prompts)):
        tokens, complete = stopped.completion_ids[row], free.completion_ids[row]
        length = int(stopped.lengths[row])
        assert length == free.lengths[row]
        assert torch.equal(tokens[:length], complete[:length])
        has_eos = bool((tokens == eos).any())
        first_block = (length - 1) // 4
        end = 4 * (first_block + 1) if has_eos else 20
        closing_blocks.add(first_block if has_eos else None)
        assert torch.equal(tokens[:end], complete[:end])
        assert (tokens[end:] == eos).all()
        assert (stopped.step_map[row, end:] == 10).all()
        assert (stopped.step_map[row, :end] == free.step_map[row, :end]).all()
        assert (stopped.confidence[row, end:] == 1).all()
    # Some closed early, in different blocks, and some did not close before the last one.
    assert len(closing_blocks) >= 4
    assert stopped.num_forwards < free.num_forwards == 30 * 10


def test_closed_rows_leave_the_batch() -> None:
    proposer = TableProposer(num_tokens=3, length=4, seed=1)
    sampler = Sampler(gen_length=4, block_length=1, steps=4)
    prompt, seeds = torch.zeros(200, 1).long(), torch.arange(200)
    samples = sample(proposer, prompt, None, seeds, sampler, eos_ids=[2])
    still_open = [int((samples.completion_ids[:, :n] != 2).all(-1).sum()) for n in range(4)]
    assert proposer.calls == still_open
    assert samples.num_forwards == sum(still_open)


def test_sampling_ends_when_every_row_has_closed() -> None:
    proposer = constant_proposer([[0.0, 1.0]] * 4)
    sampler = Sampler(gen_length=4, block_length=2, steps=4)
    seen: list[int] = []
    samples = sample(
        proposer,
        torch.zeros(3, 1).long(),
        None,
        torch.arange(3),
        sampler,
        eos_ids=[1],
        on_step=lambda step, *_: seen.append(step),
    )
    assert seen == [0, 1]
    assert samples.completion_ids.tolist() == [[1, 1, 1, 1]] * 3
    assert samples.step_map[:, 2:].tolist() == [[4, 4]] * 3
    assert samples.lengths.tolist() == [1, 1, 1]
    assert samples.num_forwards == 6


def test_any_eos_closes_and_the_first_one_fills() -> None:
    proposer = constant_proposer([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    sampler = Sampler(gen_length=2, block_length=1, steps=2)
    prompt, seeds = torch.zeros(1, 1).long(), torch.tensor([0])
    samples = sample(proposer, prompt, None, seeds, sampler, eos_ids=[2, 1])
    assert samples.completion_ids.tolist() == [[1, 2]]
    assert samples.lengths.tolist() == [1]


def test_without_an_eos_everything_is_denoised() -> None:
    proposer = constant_proposer([[0.0, 1.0]] * 4)
    sampler = Sampler(gen_length=4, block_length=2, steps=4)
    samples = sample(proposer, torch.zeros(1, 1).long(), None, torch.tensor([0]), sampler)
    assert samples.lengths.tolist() == [4]
    assert samples.num_forwards == 4


def test_lengths_count_up_to_and_including_the_first_eos() -> None:
    ids = torch.tensor([[5, 5, 1, 1], [1, 5, 5, 5], [5, 5, 5, 5], [5, 2, 1, 5], [5, 5, 5, 1]])
    assert completion_lengths(ids, [1]).tolist() == [3, 1, 4, 3, 4]
    assert completion_lengths(ids, [1, 2]).tolist() == [3, 1, 4, 2, 4]
    assert completion_lengths(ids, ()).tolist() == [4] * 5


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gen_length": 0}, "gen_length=0 is too small"),
        ({"temperature": 1e-40}, "temperature=1e-40 is too small"),
        ({"steps": 0}, "steps=0 is too small"),
        ({"block_length": -1}, "block_length=-1 is too small"),
        ({"gen_length": 20, "block_length": 8}, "not a multiple of block_length=8"),
        ({"gen_length": 24, "block_length": 8, "steps": 8}, "steps=8 does not split over 3 blocks"),
        ({"gen_length": 8, "block_length": 8, "steps": 9}, "steps=9 is more than gen_length=8"),
        ({"temperature": -0.5}, "temperature=-0.5 is out of range"),
        ({"temperature": math.nan}, "temperature=nan is out of range"),
        ({"temperature": math.inf}, "temperature=inf is out of range"),
        ({"top_k": -1}, "top_k=-1 is out of range"),
        ({"cfg_scale": -1.0}, "cfg_scale=-1.0 is out of range"),
        ({"top_p": 0.0}, "top_p=0.0 is out of range"),
        ({"top_p": 1.5}, "top_p=1.5 is out of range"),
        ({"top_p": math.nan}, "top_p=nan is out of range"),
        ({"remasking": "low_conf"}, "remasking='low_conf' is unknown: choose low_confidence"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=r"give|choose") as error:
        Sampler(**settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
