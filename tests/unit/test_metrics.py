"""Metrics of an optimizer step, in one process; tests of several processes compare whole runs."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

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


def reduced(values: list[float], reduction: str) -> dict[str, float]:
    metric = Metric(torch.tensor(values, dtype=torch.float64), reduction)
    return reduce_metrics({"name": metric}, Accelerator(cpu=True))


def test_quantiles_are_interpolated_between_neighbours() -> None:
    # Five entries stand at 0, 25, 50, 75 and 100 %; 5 % is a fifth of the way to the second.
    assert reduced([7.0, 1.0, 3.0, -4.0, 2.0], "quantiles") == pytest.approx(
        {
            "name_q0": -4.0,
            "name_q5": -3.0,
            "name_q25": 1.0,
            "name_q50": 2.0,
            "name_q75": 3.0,
            "name_q95": 6.2,
            "name_q100": 7.0,
        }
    )
    assert set(reduced([5.0], "quantiles").values()) == {5.0}
    assert all(map(math.isnan, reduced([], "quantiles").values()))


@pytest.mark.parametrize(
    ("weights", "size"),
    [
        ([2.0, 2.0, 2.0], 1.0),
        ([1.0, 3.0], 16 / (2 * 10)),
        ([1.0, 2.0, 5.0], 64 / (3 * 30)),
        ([1.0, 0.0, 0.0, 0.0], 1 / 4),
    ],
)
def test_the_effective_sample_size_is_a_share_of_the_entries(
    weights: list[float], size: float
) -> None:
    logs = torch.tensor(weights).double().log().tolist()
    assert reduced(logs, "effective_sample_size")["name"] == pytest.approx(size, rel=1e-12)
    # Only the proportions count, and a weight that overflows by itself is no obstacle.
    far = [value + 2000 for value in logs]
    assert reduced(far, "effective_sample_size")["name"] == pytest.approx(size, rel=1e-9)


def test_nothing_has_no_effective_sample_size() -> None:
    assert math.isnan(reduced([], "effective_sample_size")["name"])


class Rank:
    """One of two ranks, where the other one's part of every exchange is known beforehand."""

    def __init__(self, others: list[float]) -> None:
        self.others = torch.tensor(others, dtype=torch.float64)

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return tensor + len(self.others)

    def pad_across_processes(self, tensor: Tensor, pad_index: float) -> Tensor:
        missing = max(0, len(self.others) - len(tensor))
        return torch.cat([tensor, tensor.new_full((missing,), pad_index)])

    def gather(self, tensor: Tensor) -> Tensor:
        if tensor.dim() == 1:
            size = max(len(self.others), len(tensor))
            other = tensor.new_full((size,), math.nan)
            other[: len(self.others)] = self.others
        else:
            sums = [self.others.logsumexp(0), (2 * self.others).logsumexp(0)]
            other = torch.stack([*sums, torch.tensor(float(len(self.others)))]).unsqueeze(0)
        return torch.cat([tensor, other])


@pytest.mark.parametrize("reduction", ["quantiles", "effective_sample_size"])
@pytest.mark.parametrize("share", [0, 1, 3, 5])
def test_ranks_of_unequal_size_count_as_one(reduction: str, share: int) -> None:
    values = [0.3, -1.0, 2.0, 0.0, -0.5]
    metric = Metric(torch.tensor(values[:share], dtype=torch.float64), reduction)
    found = reduce_metrics({"name": metric}, Rank(values[share:]))
    assert found == pytest.approx(reduced(values, reduction), rel=1e-12)


def test_means_are_taken_in_float64() -> None:
    values = torch.full((3,), 2.0**24, dtype=torch.float32)
    values[0] += 2
    found = reduce_metrics({"name": Metric(values, "sum")}, Accelerator(cpu=True))
    assert found == {"name": 3 * 2**24 + 2}


def test_every_metric_keeps_its_name_and_loses_its_graph() -> None:
    values = torch.ones(2, requires_grad=True)
    metrics = {"a": Metric(values * 2), "b": Metric(values.bool(), "mean")}
    assert reduce_metrics(metrics, Accelerator(cpu=True)) == {"a": 2.0, "b": 1.0}
