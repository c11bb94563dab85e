"""pass@k, votes, intervals and the paired test: hand-computed and enumerated."""

import itertools
import math

import pytest

from unmask.evaluation.statistics import (
    majority,
    majority_at_k,
    mcnemar,
    paired_interval,
    pass_at_k,
    rate_interval,
    wilson,
)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_answers(count: int) -> None:
    for correct, k in itertools.product(range(count + 1), range(1, count + 1)):
        answers = [True] * correct + [False] * (count - correct)
        choices = list(itertools.combinations(answers, k))
        expected = sum(any(choice) for choice in choices) / len(choices)
        assert pass_at_k(count, correct, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_answers(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} with 4 answers"):
        pass_at_k(4, 1, k)


def test_pass_at_k_is_exact_for_many_answers() -> None:
    # 1 - (1 - 10/200)(1 - 10/199)...: the product form of the estimator.
    product = math.prod(1 - 10 / value for value in range(200 - 100 + 1, 201))
    assert pass_at_k(200, 10, 100) == pytest.approx(1 - product, abs=1e-12)


@pytest.mark.parametrize(
    ("answers", "solved", "expected"),
    [
        (["a", "b", "a"], [1.0, 0.0, 1.0], 1.0),
        (["a", "b", "b"], [1.0, 0.0, 0.0], 0.0),
        (["a", "b"], [1.0, 0.0], 0.5),  # a tie: either may win
        (["a", "b", "c"], [0.0, 0.0, 1.0], 1 / 3),
        ([None, None, "c"], [0.0, 0.0, 1.0], 1.0),  # no answer, no vote
        ([None, None], [0.0, 0.0], 0.0),
    ],
)
def test_the_most_frequent_answer_wins(answers, solved, expected) -> None:
    assert majority(answers, solved) == pytest.approx(expected)


def test_maj_at_k_averages_over_disjoint_groups() -> None:
    answers = ["a", "a", "b", "b", "b", "a", "a"]
    solved = [1.0 if answer == "a" else 0.0 for answer in answers]
    # [a a b] wins, [b b a] loses; the seventh answer makes no group.
    assert majority_at_k(answers, solved, 3) == 0.5
    assert majority_at_k(answers, solved, 7) == 1.0
    with pytest.raises(ValueError, match="k=8 with 7 answers"):
        majority_at_k(answers, solved, 8)


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (0, 6, 2 / 64), (3, 3, 1.0), (8, 2, 2 * 56 / 1024)],
)
def test_mcnemar_is_the_exact_binomial_test(won: int, lost: int, p: float) -> None:
    assert mcnemar(won, lost) == pytest.approx(p, abs=1e-12)


def test_one_answer_per_problem_gives_wilsons_interval() -> None:
    rates = [1.0] * 3 + [0.0] * 7
    mean, low, high = rate_interval(rates)
    assert mean == pytest.approx(0.3)
    assert (low, high) == pytest.approx(wilson(3, 10), abs=1e-12)


def test_answers_that_hang_together_do_not_narrow_the_interval() -> None:
    together = rate_interval([1.0] * 5 + [0.0] * 5, samples=8)
    apart = rate_interval([0.375, 0.625] * 5, samples=8)
    assert together[1:] == pytest.approx(wilson(5, 10), abs=1e-12)
    assert apart[2] - apart[1] < together[2] - together[1]
    # At most as narrow as with every answer independent.
    assert apart[1:] == pytest.approx(wilson(40, 80), abs=1e-12)


def test_the_paired_interval_is_hand_computed() -> None:
    mean, low, high = paired_interval([1.0, 0.0, 0.0, -1.0, 1.0])
    # sample variance 0.7, so half = 1.959964 sqrt(0.7 / 5)
    assert mean == pytest.approx(0.2)
    assert high - mean == pytest.approx(0.733351, abs=1e-6)
    assert low == pytest.approx(0.2 - 0.733351, abs=1e-6)
