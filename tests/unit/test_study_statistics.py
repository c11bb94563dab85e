"""Interquartile means and bootstrap intervals, against numbers computed by hand."""

import itertools

import numpy as np
import pytest

from unmask.study.statistics import (
    bootstrap_band,
    bootstrap_interval,
    interquartile_mean,
    mean,
)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 5.0, 0.0], 2.0),  # below four nothing is dropped
        ([100.0, 1.0, 3.0, -100.0], 2.0),
        ([9.0, 1.0, 2.0, 6.0, -8.0], 3.0),  # one of five at either end
        ([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 70.0, 80.0], 2.5),  # two of eight
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(scores, expected) -> None:
    assert float(interquartile_mean(scores)) == pytest.approx(expected, abs=1e-15)


def test_the_interquartile_mean_is_taken_over_the_last_axis() -> None:
    rows = interquartile_mean([[4.0, 1.0, 2.0, 90.0], [0.0, 0.0, 0.0, 8.0]])
    assert rows.tolist() == [3.0, 0.0]


def test_one_run_has_no_spread() -> None:
    assert bootstrap_interval([[0.4]]) == (0.4, 0.4)


def test_three_runs_give_their_range() -> None:
    # All three draws hit the least with probability 1/27 = 3.7 %, more than the 2.5 % of the tail.
    assert bootstrap_interval([[0.2, 0.9, 0.4]]) == pytest.approx((0.2, 0.9), abs=1e-15)


def test_the_interval_is_that_of_all_resamplings() -> None:
    scores = [0.1, 0.25, 0.3, 0.45, 0.9]
    everything = [mean(drawn) for drawn in itertools.product(scores, repeat=5)]
    low, high = np.percentile(everything, [2.5, 97.5])
    found = bootstrap_interval([scores], mean, repetitions=200_000)
    assert found == pytest.approx((low, high), abs=5e-3)


def test_runs_are_resampled_within_their_task() -> None:
    # Tasks without spread of their own: resampling over both would spread from 0 to 1.
    assert bootstrap_interval([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]) == (0.5, 0.5)


def test_the_interquartile_mean_of_several_tasks_is_of_all_their_runs() -> None:
    # 0, 0 and 1, 9: the middle half of every resampling holds one 0 and the lesser of the second.
    low, high = bootstrap_interval([[0.0, 0.0], [1.0, 9.0]])
    assert (low, high) == (0.5, 4.5)


def test_the_interval_is_the_same_every_time() -> None:
    scores = [[0.3, 0.5, 0.1, 0.8], [0.9, 0.7]]
    assert bootstrap_interval(scores) == bootstrap_interval(scores)


@pytest.mark.parametrize("strata", [[], [[]], [[0.5], []]])
def test_an_interval_needs_scores(strata) -> None:
    with pytest.raises(ValueError, match="no scores"):
        bootstrap_interval(strata)


def test_a_band_resamples_whole_curves() -> None:
    # Mirrored curves: the mean of a resampling moves by as much up at one point as down at another.
    middle, low, high = bootstrap_band([[0.0, 1.0], [1.0, 0.0]])
    assert middle.tolist() == [0.5, 0.5]
    assert low.tolist() == [0.0, 0.0]
    assert high.tolist() == [1.0, 1.0]


def test_the_band_of_one_curve_is_the_curve() -> None:
    for edge in bootstrap_band([[0.1, 0.7, 0.2]]):
        assert edge.tolist() == [0.1, 0.7, 0.2]
