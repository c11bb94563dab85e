"""Reinforcement-learning post-training of masked diffusion language models.

Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.config import TrainConfig as TrainConfig
    from unmask.evaluation import evaluate as evaluate
    from unmask.generation import sample as sample
    from unmask.models.policy import load_policy as load_policy
    from unmask.models.settings import LoRA as LoRA
    from unmask.objectives import ESPO as ESPO
    from unmask.sampling.settings import Sampler as Sampler
    from unmask.training.trainer import Trainer as Trainer

__version__ = "0.1.0"

_HOMES = {
    "ESPO": "unmask.objectives",
    "LoRA": "unmask.models.settings",
    "Sampler": "unmask.sampling.settings",
    "TrainConfig": "unmask.config",
    "Trainer": "unmask.training.trainer",
    "evaluate": "unmask.evaluation",
    "load_policy": "unmask.models.policy",
    "sample": "unmask.generation",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
