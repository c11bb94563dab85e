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
from unmask.tasks.code import Code
from unmask.tasks.countdown import Countdown
from unmask.tasks.sandbox import SandboxSettings
from unmask.tasks.sudoku import Sudoku

TASKS: dict[str, Callable[..., Task]] = {
    Code.name: Code,
    Countdown.name: Countdown,
    Sudoku.name: Sudoku,
}


def get_task(name: str, *, sandbox: SandboxSettings | None = None, **options: Any) -> Task:
    """Task with this name and these options.

    Args:
        name: one of `TASKS`.
        sandbox: where a task that runs programs shall run them; the others do not see it.
        options: fields of the task.

    Raises:
        ValueError: for an unknown name or option, naming the known and the nearest one, or for
            an option out of its range; SandboxError if programs cannot be run as asked.
    """
    check_choice("task", name, TASKS)
    known = dict(inspect.signature(TASKS[name]).parameters)
    runs_programs = known.pop("sandbox", None) is not None
    for option in options:
        check_choice(f"option of task {name}:", option, known)
    if runs_programs and sandbox is not None:
        sandbox.resolve()
        options["sandbox"] = sandbox
    return TASKS[name](**options)


__all__ = [
    "TASKS",
    "Code",
    "Countdown",
    "RewardFunction",
    "SandboxSettings",
    "Split",
    "Sudoku",
    "Task",
    "answer_text",
    "completion_text",
    "get_task",
]
