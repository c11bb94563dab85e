"""Sudoku boards of any box size as text: data sets of them, and their prompts by protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from unmask.tasks.answers import bare_answer
from unmask.tasks.arithmetic import ASCII_WHITESPACE
from unmask.tasks.base import tagged_answer, user_prompt

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

BLANK = "."
DIGITS = "123456789"
# Of the rows of a data set that are no puzzle with its solution, before it is refused.
MOST_UNREADABLE = 0.01
_REMOVE_WHITESPACE = dict.fromkeys(map(ord, ASCII_WHITESPACE))
_REMOVE_SEPARATORS = _REMOVE_WHITESPACE | dict.fromkeys(map(ord, "|,│┃║"))
# A line of nothing else is drawn between rows.
_RULING = set(ASCII_WHITESPACE + "|│┃║-+=:─━═┼╋╬├┤┣┫╠╣┌┐└┘┏┓┗┛╔╗╚╝┬┴┳┻╦╩")


def groups(box: int) -> list[list[int]]:
    """Cells of every row, column and box of a board with boxes of box x box cells."""
    size = box * box
    rows = [[row * size + column for column in range(size)] for row in range(size)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    boxes = [
        [rows[top + i][left + j] for i in range(box) for j in range(box)]
        for top in range(0, size, box)
        for left in range(0, size, box)
    ]
    return [*rows, *columns, *boxes]


def is_solution(puzzle: str, solution: str, box: int) -> bool:
    """Whether a full board keeps the clues and holds every digit once in each group."""
    size = box * box
    digits = {str(digit) for digit in range(1, size + 1)}
    if len(puzzle) != size * size or len(solution) != size * size:
        return False
    kept = all(clue in (BLANK, "0", cell) for clue, cell in zip(puzzle, solution, strict=True))
    return kept and all({solution[cell] for cell in group} == digits for group in groups(box))


def read_boards(data: Dataset, box: int, task: str) -> list[tuple[str, str]] | None:
    """Puzzles and solutions of a data set with the columns `Puzzle` and `Solution`.

    A blank is "0" or "."; leading zeros that a reader of numbers took off are put back.

    Returns:
        Puzzles with "." for blanks; None if the columns are others.

    Raises:
        ValueError: if more than 1 % of the rows are no puzzle with its solution; fewer are dropped
            and counted.
    """
    names = {name.lower(): name for name in data.column_names}
    if "prompt" in names or not {"puzzle", "solution"} <= names.keys():
        return None
    cells = box**4
    boards, bad = [], []
    for puzzle, solution in zip(data[names["puzzle"]], data[names["solution"]], strict=True):
        given, solved = (str(board).strip().zfill(cells) for board in (puzzle, solution))
        if is_solution(given, solved, box):
            boards.append((given.replace("0", BLANK), solved))
        else:
            bad.append(given)
    if len(bad) > MOST_UNREADABLE * len(data):
        raise ValueError(
            f"task {task}: {len(bad)} of {len(data)} rows are no puzzle of {cells} cells with its "
            f"solution, such as {bad[0][:40]!r}: mend the data, or choose the task of its size"
        )
    if bad:
        logger.warning("%s: dropped %d of %d rows that are no puzzle", task, len(bad), len(data))
    return boards


def board_question(puzzle: str, protocol: str, box: int, shots: Sequence[tuple[str, str]]) -> str:
    """A puzzle as a protocol other than "compact" and "d1" asks for it."""
    size = box * box
    rules = (
        f"Fill in this {size}x{size} Sudoku: every row, every column and every {box}x{box} box "
        f"must hold the digits 1 to {size} exactly once. The board is given row by row, with 0 "
        f"for an empty cell. Give the full board as {size * size} digits between <answer> and "
        "</answer>."
    )
    asked = f"Puzzle: {puzzle.replace(BLANK, '0')}"
    if protocol != "few-shot":
        return f"{rules}\n\n{asked}"
    worked = [
        f"Puzzle: {given.replace(BLANK, '0')}\n<answer>\n{solution}\n</answer>"
        for given, solution in shots
    ]
    return "\n\n".join([rules, *worked, asked])


def board_completion(board: str, protocol: str, box: int) -> str:
    """A board in the form that a protocol asks for."""
    if protocol == "compact":
        return board
    size = box * box
    rows = ", ".join(board[start : start + size] for start in range(0, size * size, size))
    return tagged_answer(f"Row by row, the board is {rows}.", board)


def board_dataset(boards: Sequence[tuple[str, str]], question: Callable[[str], str]) -> Dataset:
    """Columns `prompt`, `puzzle` and `solution` of puzzles with their solutions.

    Args:
        boards: of each the puzzle, "." for a blank, and its solution.
        question: a puzzle's prompt.
    """
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [user_prompt(question(puzzle)) for puzzle, _ in boards],
            "puzzle": [puzzle for puzzle, _ in boards],
            "solution": [solution for _, solution in boards],
        }
    )


def cells_of(text: str) -> str:
    """The cells that a completion gives, row by row.

    They are its answer (see `bare_answer`) without what is drawn between cells: whitespace, commas,
    upright bars and lines of dashes.
    """
    answer = bare_answer(text)
    cells = answer.translate(_REMOVE_WHITESPACE)
    if cells.isdigit():
        return cells
    rows = (line for line in answer.split("\n") if not _RULING.issuperset(line))
    return "".join(rows).translate(_REMOVE_SEPARATORS)


def whole_board(text: str, num_cells: int) -> str | None:
    """The cells that a completion gives if they are as many as a board has."""
    cells = cells_of(text)
    return cells if len(cells) == num_cells else None


def blanks_right(text: str, puzzle: str, solution: str, *, box: int) -> float:
    """Fraction of the puzzle's blank cells that a completion fills right; 0 for another length.

    Raises:
        ValueError: if puzzle or solution is no whole board.
    """
    num_cells = box**4
    if len(puzzle) != num_cells or len(solution) != num_cells:
        raise ValueError(
            f"puzzle {puzzle!r} with solution {solution!r}: both must have {num_cells} cells; "
            "write them row by row without separators"
        )
    answer = whole_board(text, num_cells)
    if answer is None:
        return 0.0
    digits = DIGITS[: box * box]
    blanks = [cell for cell in range(num_cells) if puzzle[cell] not in digits]
    if not blanks:
        return float(answer == solution)
    return sum(answer[cell] == solution[cell] for cell in blanks) / len(blanks)


def is_solved(text: str, solution: str) -> float:
    """1.0 if a completion gives this board, else 0.0."""
    return float(cells_of(text) == solution)
