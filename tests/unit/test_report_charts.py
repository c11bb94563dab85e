"""From metric rows to the curves of the page, against values worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.report.charts import chart_panels
from unmask.report.run_folder import RunRecord
from unmask.report.series import MAX_POINTS, axes, bucket_size, bucketed, rounded


def run_with(updates: list[dict[str, Any]], **fields: Any) -> RunRecord:
    return RunRecord(folder=Path("run"), name="run", updates=updates, **fields)


def charts_of(run: RunRecord, panel: int = 0) -> dict[str, dict[str, Any]]:
    return {chart["title"]: chart for chart in chart_panels(run)["panels"][panel]["charts"]}


def updates(num_rollouts: int, num_iterations: int, **columns: Any) -> list[dict[str, Any]]:
    return [
        {"rollout": r, "step": r * num_iterations + u + 1, "time": 1.0 * u + 10.0 * r} | columns
        for r in range(num_rollouts)
        for u in range(num_iterations)
    ]


def test_inner_updates_are_spread_between_their_rollout_and_the_next() -> None:
    assert axes(updates(2, 4))["rollout"] == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


def test_time_goes_on_where_a_resumed_run_restarts_its_clock() -> None:
    rows = [{"time": time} for time in (10.0, 20.0, None, 1.0, 5.0)]
    assert axes(rows)["time"] == [10.0, 20.0, None, 21.0, 25.0]


def test_a_metric_of_the_rollout_is_drawn_once_per_rollout() -> None:
    rows = updates(3, 2)
    for index, row in enumerate(rows):
        row |= {"reward": [0.1, 0.1, 0.2, 0.2, 0.3, 0.3][index], "kl": 0.01 * index}
    run = run_with(rows)
    charts = charts_of(run)
    assert charts["Reward"]["lines"][0]["y"] == [0.1, 0.2, 0.3]
    assert charts["Reward"]["lines"][0]["axis"] == "rollouts"
    assert charts["KL"]["lines"][0]["y"] == [0, 0.01, 0.02, 0.03, 0.04, 0.05]
    assert charts["KL"]["lines"][0]["axis"] == "updates"
    assert chart_panels(run)["axes"]["rollouts"]["step"] == [1, 3, 5]


def test_the_reward_band_is_one_standard_deviation_either_side() -> None:
    line = charts_of(run_with(updates(2, 1, reward=0.5, reward_std=0.2)))["Reward"]["lines"][0]
    assert line["low"] == [0.3, 0.3]
    assert line["high"] == [0.7, 0.7]


def test_the_ratio_band_spans_its_smallest_and_largest() -> None:
    rows = updates(2, 1, ratio=1.0, ratio_min=0.8, ratio_max=1.3)
    chart = charts_of(run_with(rows))["Ratio"]
    assert (chart["lines"][0]["low"], chart["lines"][0]["high"]) == ([0.8, 0.8], [1.3, 1.3])
    assert chart["reference"] == 1.0


def test_a_null_stays_a_gap() -> None:
    rows = updates(3, 1)
    for row, kl in zip(rows, (0.1, None, 0.3), strict=True):
        row["kl"] = kl
    assert charts_of(run_with(rows))["KL"]["lines"][0]["y"] == [0.1, None, 0.3]


def test_evaluations_stand_as_points_with_their_interval() -> None:
    evaluation = {
        "rollout": 0,
        "step": 0,
        "time": 0.0,
        "greedy": {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 100, "reward": 0.55},
    }
    charts = charts_of(run_with(updates(1, 1, reward=0.2), evaluations=[evaluation]))
    (point,) = charts["Solved"]["points"]
    assert point["name"] == "greedy evaluation"
    assert (point["y"], point["low"], point["high"]) == ([0.5], [0.4], [0.6])
    (point,) = charts["Reward"]["points"]
    assert (point["y"], point["low"]) == ([0.55], None)


def test_metrics_without_a_chart_of_their_own_are_kept_and_missing_ones_named() -> None:
    rows = updates(2, 1, reward=0.5, **{"rewards/format": 0.1, "rewards/correct": 0.4, "odd": 3})
    panels = chart_panels(run_with(rows))["panels"]
    assert [chart["title"] for chart in panels[0]["charts"]] == ["Reward"]
    assert "KL" in panels[0]["missing"]
    parts, odd = panels[1]["charts"]
    assert [line["name"] for line in parts["lines"]] == ["format", "correct"]
    assert (odd["title"], odd["lines"][0]["y"]) == ("odd", [3, 3])


def test_fine_tuning_has_its_own_panel() -> None:
    sft = [{"step": step, "time": 1.0 * step, "loss": 2.0 / step} for step in (1, 2, 4)]
    panels = chart_panels(run_with([], sft=sft))
    (panel,) = panels["panels"]
    assert panel["title"] == "Supervised fine-tuning"
    assert panel["charts"][0]["lines"][0]["y"] == [2, 1, 0.5]
    assert panels["axes"]["sft"]["step"] == [1, 2, 4]


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", [2.0, None, 7.0]), ("min", [1, None, 7]), ("max", [3, None, 7])]
)
def test_buckets_combine_successive_values_and_leave_nulls_out(
    how: str, expected: list[float | None]
) -> None:
    assert bucketed([1, None, 3, None, None, None, 7], 3, how) == expected


def test_a_long_run_is_averaged_within_the_limit_and_keeps_its_spikes_as_a_band() -> None:
    rows = updates(MAX_POINTS * 3, 1, kl=0.1)
    rows[4]["kl"] = 9.1
    run = run_with(rows)
    line = charts_of(run)["KL"]["lines"][0]
    assert bucket_size(len(rows)) == 3
    assert len(line["y"]) == MAX_POINTS
    assert (line["y"][1], line["low"][1], line["high"][1]) == (3.1, 0.1, 9.1)
    assert "stands for 3 successive rows" in chart_panels(run)["remarks"][0]


def test_rounding_keeps_whole_numbers_exact_and_five_digits_of_the_rest() -> None:
    assert json.dumps(rounded([1234567.0, 0.123456789, None, -2.0])) == (
        "[1234567, 0.12346, null, -2]"
    )
