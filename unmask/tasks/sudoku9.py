"""Sudoku on the usual 9x9 board: puzzles with exactly one solution, made by taking cells away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.tasks.board_task import Board, BoardTask
from unmask.tasks.boards import BLANK, DIGITS, groups
from unmask.tasks.draws import Draws, stream_seed

NUM_CELLS = 81
_GROUPS = groups(3)
_PEERS = [
    sorted({other for group in _GROUPS if cell in group for other in group} - {cell})
    for cell in range(NUM_CELLS)
]


@dataclass(frozen=True)
class Sudoku9(BoardTask):
    """9x9 puzzles with exactly one solution.

    In a corrupted demonstration every third cell that was blank is random.
    """

    min_blanks: int = 30
    max_blanks: int = 45

    name: ClassVar[str] = "sudoku9"
    box: ClassVar[int] = 3
    most_blanks: ClassVar[int] = 55
    shots: ClassVar[int] = 2

    def _corrupt(self, board: list[str], blanks: list[int], draws: Draws) -> None:
        for cell in blanks[::3]:
            board[cell] = DIGITS[draws.below(9)]

    def _candidates(self, seed: int) -> Iterator[tuple[str, Board] | None]:
        draws = Draws(stream_seed(self.name, seed))
        while True:
            solution = _random_solution(draws)
            wanted = self.min_blanks + draws.below(self.max_blanks - self.min_blanks + 1)
            puzzle = _take_away(solution, wanted, draws)
            if puzzle is None:
                yield None
            else:
                yield f"sudoku9:{puzzle}", (puzzle, solution)


def count_solutions(puzzle: str, most: int = 2) -> int:
    """Number of boards that solve a puzzle, counted no further than `most`."""
    free = [0] * NUM_CELLS
    for cell, clue in enumerate(puzzle):
        free[cell] = 1 << (int(clue) - 1) if clue in DIGITS else 0
    return _count(free, most)


def _count(placed: list[int], most: int) -> int:
    """Solutions of a partly filled board; `placed` holds one bit per filled cell, else 0."""
    best, choices = -1, 0
    fewest = 10
    for cell in range(NUM_CELLS):
        if not placed[cell]:
            open_bits = 511
            for peer in _PEERS[cell]:
                open_bits &= ~placed[peer]
            number = open_bits.bit_count()
            if number < fewest:
                best, choices, fewest = cell, open_bits, number
                if number <= 1:
                    break
    if best < 0:
        return 1
    found = 0
    while choices and found < most:
        bit = choices & -choices
        choices ^= bit
        placed[best] = bit
        found += _count(placed, most - found)
    placed[best] = 0
    return found


def _random_solution(draws: Draws) -> str:
    """A board that the symmetries of Sudoku make of one pattern."""
    digits = _shuffled(list(DIGITS), draws)
    lines = [
        [
            3 * band + line
            for band in _shuffled([0, 1, 2], draws)
            for line in _shuffled([0, 1, 2], draws)
        ]
        for _ in range(2)
    ]
    cells = [
        digits[(3 * (row % 3) + row // 3 + column) % 9] for row in lines[0] for column in lines[1]
    ]
    if draws.chance(0.5):
        cells = [cells[9 * column + row] for row in range(9) for column in range(9)]
    return "".join(cells)


def _take_away(solution: str, wanted: int, draws: Draws) -> str | None:
    """The board with `wanted` cells blanked that leave one solution; None if that fails."""
    cells = list(solution)
    blanks = 0
    for cell in _shuffled(list(range(NUM_CELLS)), draws):
        kept, cells[cell] = cells[cell], BLANK
        if count_solutions("".join(cells)) == 1:
            blanks += 1
            if blanks == wanted:
                return "".join(cells)
        else:
            cells[cell] = kept
    return None


def _shuffled(items: list[Any], draws: Draws) -> list[Any]:
    for last in range(len(items) - 1, 0, -1):
        other = draws.below(last + 1)
        items[last], items[other] = items[other], items[last]
    return items
