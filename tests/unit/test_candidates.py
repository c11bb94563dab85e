"""The choice of a token: argmax, top-k, top-p, and inverse-CDF sampling with given noise."""

import pytest
import torch

from unmask.sampling.candidates import choose_tokens, restrict

NOTHING = -torch.inf
LAST_NOISE = 1 - 2.0**-24  # the largest number that `uniform` gives


def pick(probs: list[float], noise: list[float], **settings: float) -> list[int]:
    logits = torch.tensor(probs).log().expand(len(noise), -1)
    settings = {"temperature": 1.0, **settings}
    return choose_tokens(logits, torch.tensor(noise), **settings)[0].tolist()


def kept(probs: list[float], top_k: int = 0, top_p: float = 1.0) -> list[int]:
    return restrict(torch.tensor(probs).log(), top_k, top_p).isfinite().nonzero().flatten().tolist()


def test_noise_walks_through_the_cumulative_distribution() -> None:
    noise = [0.0, 0.099, 0.101, 0.499, 0.501, LAST_NOISE]
    assert pick([0.1, 0.4, 0.5], noise) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("probs", "possible"),
    [
        ([0.0, 0.5, 0.5], (1, 2)),
        ([0.5, 0.5, 0.0], (0, 1)),
        ([0.0, 0.0, 1.0, 0.0], (2, 2)),
        ([0.5, 0.0, 0.0, 0.5], (0, 3)),
        # Three thirds add up to less than 1 in float32 or to more, but never reach token 3.
        ([1 / 3, 1 / 3, 1 / 3, 0.0], (0, 2)),
    ],
)
def test_a_token_of_probability_zero_is_never_picked(
    probs: list[float], possible: tuple[int, int]
) -> None:
    first, last = pick(probs, [0.0, LAST_NOISE])
    assert (first, last) == possible
    everywhere = pick(probs, torch.linspace(0, LAST_NOISE, 1001).tolist())
    assert {token for token in everywhere if probs[token] == 0} == set()


def test_forbidden_tokens_of_a_large_vocabulary_are_never_picked() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(64, 126_464, generator=generator)
    forbidden = torch.rand(logits.shape, generator=generator) < 0.5
    forbidden[:, [0, 1, -2, -1]] = True
    noise = torch.rand(64, generator=generator)
    noise[:8], noise[8:16] = 0.0, LAST_NOISE
    chosen = choose_tokens(logits.masked_fill(forbidden, NOTHING), noise, temperature=1.0)[0]
    assert not forbidden.gather(1, chosen[:, None]).any()


def test_noise_is_scaled_to_a_cumulative_distribution_that_rounds_below_one() -> None:
    """In float32 it may end at 1 - 1e-7, where the largest noise must still find a token."""
    logits = torch.randn(2000, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 40:] = NOTHING
    ends = logits.softmax(-1).cumsum(-1)[:, -1]
    assert (ends < LAST_NOISE).any()
    chosen = choose_tokens(logits, torch.full((2000,), LAST_NOISE), temperature=1.0)[0]
    assert (chosen < 40).all()


def test_temperature_zero_takes_the_likeliest_whatever_the_noise() -> None:
    assert pick([0.2, 0.5, 0.3], [0.0, 0.9, LAST_NOISE], temperature=0.0) == [1, 1, 1]


def test_temperature_divides_the_logits() -> None:
    # Squared and renormalised, (0.2, 0.8) is (1/17, 16/17).
    assert pick([0.2, 0.8], [1 / 17 - 0.001, 1 / 17 + 0.001], temperature=0.5) == [0, 1]
    # Square roots: (1/3, 2/3).
    assert pick([0.2, 0.8], [1 / 3 - 0.001, 1 / 3 + 0.001], temperature=2.0) == [0, 1]


def test_frequencies_are_the_probabilities() -> None:
    noise = (torch.arange(10_000) + 0.5) / 10_000
    counts = torch.tensor(pick([0.15, 0.05, 0.0, 0.8], noise.tolist())).bincount(minlength=4)
    assert counts.tolist() == pytest.approx([1500, 500, 0, 8000], abs=1)


def test_top_k_keeps_the_k_likeliest() -> None:
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=2) == [1, 3]
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=1) == [1]


@pytest.mark.parametrize("top_k", [0, 4, 99])
def test_top_k_of_zero_or_of_the_whole_vocabulary_keeps_all(top_k: int) -> None:
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=top_k) == [0, 1, 2, 3]


def test_ties_at_the_edge_stay_together() -> None:
    assert kept([0.2, 0.3, 0.3, 0.2], top_k=1) == [1, 2]
    assert kept([0.2, 0.3, 0.3, 0.2], top_k=3) == [0, 1, 2, 3]
    assert kept([0.25, 0.25, 0.25, 0.25], top_p=0.3) == [0, 1, 2, 3]


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass() -> None:
    probs = [0.1, 0.4, 0.2, 0.3]
    assert kept(probs, top_p=0.39) == [1]
    assert kept(probs, top_p=0.41) == [1, 3]
    assert kept(probs, top_p=0.69) == [1, 3]
    assert kept(probs, top_p=0.71) == [1, 2, 3]
    assert kept(probs, top_p=0.95) == [0, 1, 2, 3]


def test_a_tiny_top_p_keeps_one_token() -> None:
    assert kept([0.1, 0.4, 0.2, 0.3], top_p=1e-9) == [1]
    assert pick([0.1, 0.4, 0.2, 0.3], [0.0, LAST_NOISE], top_p=1e-9) == [1, 1]


def test_top_p_counts_the_mass_within_the_top_k() -> None:
    # Of (0.4, 0.3, 0.2) the first has 4/9 = 0.44 of the mass, the first two 7/9 = 0.78.
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=3, top_p=0.43) == [1]
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=3, top_p=0.77) == [1, 3]
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=3, top_p=0.79) == [1, 2, 3]


def test_top_k_and_top_p_keep_forbidden_tokens_out() -> None:
    assert kept([0.0, 0.7, 0.0, 0.3], top_k=3) == [1, 3]
    assert kept([0.0, 0.7, 0.0, 0.3], top_p=0.99) == [1, 3]


def test_restricted_probabilities_are_renormalised() -> None:
    # (0.4, 0.3) becomes (4/7, 3/7), in the order of the vocabulary.
    noise = [4 / 7 - 0.001, 4 / 7 + 0.001]
    assert pick([0.1, 0.4, 0.2, 0.3], noise, top_k=2) == [1, 3]


def test_each_position_is_chosen_from_its_own_logits() -> None:
    logits = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.1, 0.9]]]).log()
    noise = torch.tensor([[0.5, 0.5], [0.6, 0.05]])
    assert choose_tokens(logits, noise, temperature=1.0)[0].tolist() == [[0, 1], [1, 0]]
