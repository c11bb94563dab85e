"""Verifiers of text give hostile text 0, in bounded time, and run nothing of it."""

import os
import time

import pytest
from hostile_texts import PAYLOADS, STRUCTURES, hostile_texts, near_misses

from unmask.tasks import Countdown, Sudoku, Task

SOLUTION = "1234341221434321"
CASES: dict[str, tuple[Task, dict[str, object], str]] = {
    "countdown": (Countdown(), {"numbers": [3, 5, 7], "target": 22}, "3*5+7"),
    "sudoku": (Sudoku(), {"puzzle": "." * 8 + SOLUTION[8:], "solution": SOLUTION}, SOLUTION),
}
MARKS = ("<answer>", "</answer>")
# Of one text; a verifier of linear time takes milliseconds for 10 MB.
SECONDS = 1.0


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Task, dict[str, object], str]:
    return CASES[request.param]


def test_there_are_enough_texts() -> None:
    assert len(PAYLOADS) + len(STRUCTURES) >= 60
    assert len(near_misses("1", *MARKS)) >= 30


def test_the_right_answer_is_right(case: tuple[Task, dict[str, object], str]) -> None:
    task, row, right = case
    columns = {name: [value] for name, value in row.items()}
    assert task.exact(None, ["".join((MARKS[0], right, MARKS[1]))], **columns) == [1.0]
    assert task.reward(None, [right], **columns) == [1.0]


@pytest.mark.parametrize("kind", ["hostile", "near"])
def test_a_hostile_text_scores_0_in_bounded_time(
    case: tuple[Task, dict[str, object], str], kind: str
) -> None:
    task, row, right = case
    columns = {name: [value] for name, value in row.items()}
    texts = hostile_texts(*MARKS) if kind == "hostile" else near_misses(right, *MARKS)
    wrong = {}
    for name, text in texts.items():
        began = time.process_time()
        scores = (task.reward(None, [text], **columns), task.exact(None, [text], **columns))
        seconds = time.process_time() - began
        if scores != ([0.0], [0.0]) or seconds > SECONDS:
            wrong[name] = (scores, round(seconds, 2))
    assert wrong == {}
    assert not os.path.exists("/tmp/unmask-was-here")


def test_a_batch_of_hostile_texts_does_not_disturb_a_right_one(
    case: tuple[Task, dict[str, object], str],
) -> None:
    task, row, right = case
    texts = [*hostile_texts(*MARKS).values(), right]
    columns = {name: [value] * len(texts) for name, value in row.items()}
    scores = task.reward(None, texts, **columns)
    assert scores[-1] == 1.0
    assert set(scores[:-1]) == {0.0}
