"""Rules that reveal more where the model is sure, and sequences that enter and leave a pass."""

from typing import Any

import pytest
import torch
from oracle import TableProposer, constant_proposer

from unmask.sampling.rules import num_reveals
from unmask.sampling.sampler import Samples, sample
from unmask.sampling.settings import Sampler

NEVER = float("-inf")


def write(proposer: TableProposer, count: int, sampler: Sampler, **options: Any) -> Samples:
    return sample(
        proposer, torch.zeros(count, 1).long(), None, torch.arange(count), sampler, **options
    )


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        ({"threshold": 0.9}, [2, 1]),  # the 0.9 itself is revealed
        ({"threshold": 0.5}, [3, 1]),
        ({"threshold": 0.9, "max_tokens_per_step": 1}, [1, 1]),
        # (n + 1)(1 - c_n) = 0.1, 0.3, 2.0, ...; 1.2, ...
        ({"factor": 0.31}, [2, 1]),
        ({"factor": 0.3}, [1, 1]),
        ({"factor": 2.1}, [3, 1]),
    ],
    ids=str,
)
def test_confidence_rules_by_hand(rule: dict[str, Any], counts: list[int]) -> None:
    ranked = torch.tensor([[0.95, 0.9, 0.5, 0.1], [0.4, 0.2, NEVER, NEVER]])
    sampler = Sampler(gen_length=4, block_length=4, steps=4, **rule)
    assert num_reveals(ranked, None, torch.tensor([1, 1]), sampler).tolist() == counts


@pytest.mark.parametrize(("bound", "counts"), [(0.05, [1, 1]), (0.15, [2, 1]), (0.35, [3, 1])])
def test_the_entropy_bound_by_hand(bound: float, counts: list[int]) -> None:
    # Sums without the largest: 0, 0.1, 0.3, 0.6; and behind the last hidden position no more.
    entropies = torch.tensor([[0.1, 0.2, 0.3, 0.4], [2.0, 9.0, torch.inf, torch.inf]])
    sampler = Sampler(gen_length=4, block_length=4, steps=4, entropy_bound=bound)
    found = num_reveals(torch.zeros(2, 4), entropies, torch.tensor([1, 1]), sampler)
    assert found.tolist() == counts


def test_the_schedule_is_the_least_that_is_revealed() -> None:
    sampler = Sampler(gen_length=4, block_length=4, steps=2, threshold=1.0)
    ranked = torch.tensor([[0.5, 0.4, 0.3, 0.2]])
    assert num_reveals(ranked, None, torch.tensor([2]), sampler).tolist() == [2]


def test_rows_advance_by_themselves_and_tokens_are_those_of_each_state() -> None:
    proposer = TableProposer(num_tokens=3, length=6, seed=4)
    sampler = Sampler(gen_length=6, block_length=3, steps=6, temperature=0.0, threshold=0.6)
    proposer.table[::2, :, 0] += 3.0  # every other canvas is sure of its tokens
    samples = write(proposer, 1, sampler)
    canvas = [proposer.mask_token_id] * 6
    for block in ([0, 1, 2], [3, 4, 5]):
        step = block[0]
        while any(canvas[i] == proposer.mask_token_id for i in block):
            probs, best = proposer.logits_of(canvas).softmax(-1).max(-1)
            hidden = [i for i in block if canvas[i] == proposer.mask_token_id]
            sure = [i for i in hidden if probs[i] >= 0.6]
            for i in sure or [max(hidden, key=lambda i: probs[i].item())]:
                canvas[i] = int(best[i])
                assert samples.step_map[0, i] == step
            step += 1
    assert samples.completion_ids[0].tolist() == canvas


def test_a_sure_model_takes_one_step_per_block_and_a_cap_takes_more() -> None:
    proposer = constant_proposer([[0.99, 0.01]] * 8)
    settings: dict[str, Any] = {"gen_length": 8, "block_length": 4, "steps": 8, "temperature": 0.0}
    for rule in ({"threshold": 0.9}, {"factor": 0.2}, {"entropy_bound": 1.0}):
        free = write(proposer, 3, Sampler(**settings, **rule))
        assert free.step_map.tolist() == [[0] * 4 + [4] * 4] * 3
        assert free.num_forwards == 3 * 2
        capped = write(proposer, 3, Sampler(**settings, **rule, max_tokens_per_step=3))
        assert capped.step_map.tolist() == [[0, 0, 0, 1, 4, 4, 4, 5]] * 3


def test_the_probability_is_that_of_the_distribution_drawn_from() -> None:
    proposer = constant_proposer([[0.5, 0.3, 0.2]] * 2)
    sampler = Sampler(gen_length=2, block_length=2, steps=2, temperature=0.5, top_k=2)
    samples = write(proposer, 64, sampler)
    # Squares of 0.5 and 0.3, renormalised.
    expected = torch.tensor([25 / 34, 9 / 34])[samples.completion_ids]
    torch.testing.assert_close(samples.probability, expected)
    torch.testing.assert_close(samples.confidence, torch.tensor([0.5, 0.3])[samples.completion_ids])
    greedy = write(proposer, 1, Sampler(gen_length=2, block_length=2, steps=2, temperature=0.0))
    assert greedy.probability.tolist() == [[1.0, 1.0]]


def test_waiting_sequences_enter_as_others_close() -> None:
    proposer = TableProposer(num_tokens=3, length=4, seed=1)
    sampler = Sampler(gen_length=4, block_length=1, steps=4)
    free = write(proposer, 40, sampler, eos_ids=[2])
    proposer.calls.clear()
    narrow = write(proposer, 40, sampler, eos_ids=[2], max_tokens=25)  # five sequences of 5
    assert torch.equal(narrow.completion_ids, free.completion_ids)
    assert torch.equal(narrow.step_map, free.step_map)
    assert narrow.num_forwards == free.num_forwards == sum(proposer.calls)
    full = free.num_forwards // 5
    assert proposer.calls[: full - 4] == [5] * (full - 4)


def test_prompts_of_other_lengths_wait_so_that_padding_is_not_computed() -> None:
    proposer = constant_proposer([[0.5, 0.5]] * 2)
    lengths = [30, 6, 29, 6, 5, 30]
    mask = torch.zeros(6, 30, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, 30 - length :] = 1
    sampler = Sampler(gen_length=2, block_length=2, steps=2)
    sample(proposer, torch.zeros(6, 30).long(), mask, torch.arange(6), sampler)
    assert proposer.calls == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cache": "both"}, "cache='both' is unknown: choose none, prefix, dual"),
        ({"threshold": 0.0}, r"threshold=0.0 is out of range: give a probability in (0, 1]"),
        ({"threshold": 1.5}, "threshold=1.5 is out of range"),
        ({"factor": float("inf")}, "factor=inf is out of range: give a number above 0"),
        ({"entropy_bound": -1.0}, "entropy_bound=-1.0 is out of range"),
        ({"threshold": 0.9, "factor": 1.0}, "two rules for one choice"),
        ({"threshold": 0.9, "remasking": "random"}, "choose remasking=low_confidence"),
        ({"max_tokens_per_step": 4}, "none is set"),
        ({"threshold": 0.9, "max_tokens_per_step": 1, "steps": 4}, "give at least 2"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=r"give|choose") as error:
        Sampler(**{"gen_length": 8, "block_length": 4, "steps": 8, **settings})
    assert words in str(error.value)
    assert "\n" not in str(error.value)
