"""Measuring a model on problems with an exact verifier. Names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.evaluation.measuring import (
        Measurement as Measurement,
        at_temperature as at_temperature,
        measure as measure,
        measured_samplers as measured_samplers,
        summarise as summarise,
    )
    from unmask.evaluation.run import evaluate as evaluate
    from unmask.evaluation.statistics import wilson as wilson

_HOMES = {
    "Measurement": "measuring",
    "at_temperature": "measuring",
    "evaluate": "run",
    "measure": "measuring",
    "measured_samplers": "measuring",
    "summarise": "measuring",
    "wilson": "statistics",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unmask.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"unmask.evaluation.{_HOMES[name]}"), name)
