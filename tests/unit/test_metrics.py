"""Metrics of an optimizer step, in one process; tests of several processes compare whole runs."""

import math

import pytest
import torch
from accelerate import Accelerator

from unmask.objectives.base import Metric
from unmask.training.metrics import reduce_metrics


@pytest.mark.parametrize(
    ("values", "reduction", "expected"),
    [
        ([[1.0, 2.0], [6.0, 3.0]], "mean", 3.0),
        ([[1.0, 2.0], [6.0, 3.0]], "sum", 12.0),
        ([[1.0, 2.0], [6.0, 3.0]], "min", 1.0),
        ([[1.0, 2.0], [6.0, 3.0]], "max", 6.0),
        (5.0, "mean", 5.0),
        ([-1.0, -3.0], "max", -1.0),
        ([1.0, 3.0], "min", 1.0),
        ([], "sum", 0.0),
        ([], "mean", math.nan),
        ([], "min", math.inf),
        ([], "max", -math.inf),
    ],
)
def test_a_metric_is_reduced_as_it_declares(
    values: list[float], reduction: str, expected: float
) -> None:
    metric = Metric(torch.tensor(values), reduction)
    (found,) = reduce_metrics({"name": metric}, Accelerator(cpu=True)).values()
    assert found == pytest.approx(expected, nan_ok=True)


def test_means_are_taken_in_float64() -> None:
    values = torch.full((3,), 2.0**24, dtype=torch.float32)
    values[0] += 2
    found = reduce_metrics({"name": Metric(values, "sum")}, Accelerator(cpu=True))
    assert found == {"name": 3 * 2**24 + 2}


def test_every_metric_keeps_its_name_and_loses_its_graph() -> None:
    values = torch.ones(2, requires_grad=True)
    metrics = {"a": Metric(values * 2), "b": Metric(values.bool(), "mean")}
    assert reduce_metrics(metrics, Accelerator(cpu=True)) == {"a": 2.0, "b": 1.0}
