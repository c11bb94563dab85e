"""What a task looks like: a problem in each prompt format, and three answers with their rewards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unmask.tasks.base import Task, tagged_answer
from unmask.tasks.protocols import math_completion

SOLVED_BY_SOLUTION = ("countdown", "sudoku", "sudoku9", "code")
KINDS = ("perfect", "partial", "wrong")


def example_row(task: Task, prompt: str) -> dict[str, Any]:
    """One held-out problem, from the package where the task's own data is on the hub.

    Raises:
        ValueError: if a package or the sandbox that the task needs is missing.
    """
    source: Any = task
    if hasattr(task, "sample"):
        return dict(source.sample("heldout", prompt)[0])
    return dict(task.build("heldout", size=1, seed=0, prompt=prompt)[0])


def graded_answers(task: Task, prompt: str) -> Iterator[tuple[str, str, float, float]]:
    """(kind, completion, reward, solved) of a perfect, a partial and a wrong answer.

    A task whose reward knows nothing between 0 and 1 has no partial answer.
    """
    row = example_row(task, prompt)
    columns = {name: [value] for name, value in row.items() if name != "prompt"}
    right = row["solution"] if task.name in SOLVED_BY_SOLUTION else row["answer"]
    candidates = {
        "perfect": [_form(task, right, prompt)],
        "partial": [_form(task, text, prompt) for text in _partial(task, row)],
        "wrong": ["I do not know."],
    }
    for kind in KINDS:
        for text in candidates[kind]:
            reward = task.reward([row["prompt"]], [text], [[]], **columns)[0] or 0.0
            solved = task.exact([row["prompt"]], [text], [[]], **columns)[0] or 0.0
            if kind != "partial" or 0 < reward < 1:
                yield kind, text, reward, solved
                break


def _form(task: Task, answer: str, prompt: str) -> str:
    """An answer as the prompt format asks for it."""
    if task.name in ("gsm8k", "math", "math500"):
        return math_completion("So:", answer, prompt)
    if task.name == "code":
        block = f"```python\n{answer}\n```"
        return {"compact": answer, "fenced": block}.get(prompt, tagged_answer("So:", block))
    return answer if prompt == "compact" else tagged_answer("So:", answer)


def _partial(task: Task, row: dict[str, Any]) -> Iterator[str]:
    if task.name == "countdown":
        numbers = [str(number) for number in row["numbers"]]
        yield from ("+".join(numbers), "*".join(numbers))
    elif task.name.startswith("sudoku"):
        cell = row["puzzle"].index(".")
        other = "2" if row["solution"][cell] == "1" else "1"
        yield row["solution"][:cell] + other + row["solution"][cell + 1 :]
    elif task.name == "code":
        for value in ("0", "1", "True", "False", "[]", "''", "None"):
            yield f"def {row['entry']}(*values, **named):\n    return {value}"
    elif task.name == "reasoning_gym":
        yield from ("0", "1", row["answer"][: len(row["answer"]) // 2])
    else:
        yield "-1"
