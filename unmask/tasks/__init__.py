"""Tasks by name: prompts, demonstrations and verifiers, importable without torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from unmask.tasks.base import (
    RewardFunction,
    Split,
    Task,
    answer_text,
    check_choice,
    completion_text,
)
from unmask.tasks.countdown import Countdown
from unmask.tasks.sudoku import Sudoku

TASKS: dict[str, Callable[..., Task]] = {
    Countdown.name: Countdown,
    Sudoku.name: Sudoku,
}


def get_task(name: str, **options: Any) -> Task:
    """Task with this name and these options.

    Raises:
        ValueError: for an unknown name or option, naming the known and the nearest one, or for
            an option out of its range.
    """
    check_choice("task", name, TASKS)
    known = list(inspect.signature(TASKS[name]).parameters)
    for option in options:
        check_choice(f"option of task {name}:", option, known)
    return TASKS[name](**options)


__all__ = [
    "TASKS",
    "Countdown",
    "RewardFunction",
    "Split",
    "Sudoku",
    "Task",
    "answer_text",
    "completion_text",
    "get_task",
]
