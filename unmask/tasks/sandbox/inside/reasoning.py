"""Calls a reasoning-gym scorer inside the sandbox; the problem is made again from its seed."""

from __future__ import annotations

import functools
import json
from typing import Any


def score(dataset: str, options: str, seed: int, size: int, index: int, answer: str) -> float:
    """The scorer's value of an answer, within [0, 1].

    Args:
        dataset: name of a reasoning-gym data set.
        options: of it, as JSON.
        seed: of the data set.
        size: of the data set.
        index: of the problem.
        answer: what a model wrote.
    """
    problems = _problems(dataset, options, seed, size)
    return min(1.0, max(0.0, float(problems.score_answer(answer, problems[index]))))


@functools.lru_cache(maxsize=8)
def _problems(dataset: str, options: str, seed: int, size: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(dataset, seed=seed, size=size, **json.loads(options))
