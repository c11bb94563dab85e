"""Objectives by name: one paper, one file."""

from unmask.objectives.base import (
    Metric,
    Objective,
    ObjectiveInputs,
    ObjectiveOutput,
    Totals,
)
from unmask.objectives.espo import ESPO

OBJECTIVES: dict[str, type[Objective]] = {"espo": ESPO}

__all__ = [
    "ESPO",
    "OBJECTIVES",
    "Metric",
    "Objective",
    "ObjectiveInputs",
    "ObjectiveOutput",
    "Totals",
]
