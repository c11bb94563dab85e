"""Countdown and Sudoku agree with hand labels of what models write."""

from collections import Counter

import pytest
from labelled import countdown, sudoku, sudoku9

from unmask.tasks import get_task

REWARD = {"solved": 1.0, "wrong": 0.1, "none": 0.0}


def test_countdown_agrees_with_every_hand_label() -> None:
    rows = countdown.LABELLED
    kinds = Counter(label for *_, label in rows)
    assert len(rows) >= 80
    assert set(kinds) == set(REWARD) and min(kinds.values()) >= 10
    task = get_task("countdown")
    columns = {"numbers": [row[0] for row in rows], "target": [row[1] for row in rows]}
    texts = [row[2] for row in rows]
    rewards = task.reward(None, texts, **columns)
    solved = task.exact(None, texts, **columns)
    wrong = [
        (row, reward, exact)
        for row, reward, exact in zip(rows, rewards, solved, strict=True)
        if (reward, exact) != (REWARD[row[3]], float(row[3] == "solved"))
    ]
    assert wrong == []


@pytest.mark.parametrize(("name", "labelled"), [("sudoku", sudoku), ("sudoku9", sudoku9)])
def test_sudoku_agrees_with_every_hand_label(name, labelled) -> None:
    rows = labelled.LABELLED
    assert len(rows) >= 80
    assert min(Counter(row[2] for row in rows).values()) >= 30
    task = get_task(name)
    num_blanks = labelled.PUZZLE.count(".")
    columns = {
        "puzzle": [labelled.PUZZLE] * len(rows),
        "solution": [labelled.SOLUTION] * len(rows),
    }
    texts = [row[0] for row in rows]
    rewards = task.reward(None, texts, **columns)
    solved = task.exact(None, texts, **columns)
    wrong = [
        (row, reward * num_blanks, exact)
        for row, reward, exact in zip(rows, rewards, solved, strict=True)
        if (reward, exact) != (row[1] / num_blanks, float(row[2]))
    ]
    assert wrong == []
