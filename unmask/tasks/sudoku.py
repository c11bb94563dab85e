"""Sudoku on a 4x4 board: fill the blanks so that rows, columns and 2x2 boxes hold 1 to 4.

All 288 solved boards are enumerated, so a puzzle's uniqueness is a comparison with each of them
instead of a search.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unmask.tasks.board_task import Board, BoardTask
from unmask.tasks.boards import BLANK
from unmask.tasks.draws import Draws, stream_seed

DIGITS = "1234"
NUM_CELLS = 16
# Part of the data's definition: another chunk size would draw other puzzles.
_CHUNK = 4_096


@dataclass(frozen=True)
class Sudoku(BoardTask):
    """4x4 puzzles with exactly one solution.

    The number of blanks is drawn uniformly and puzzles with several solutions are dropped, so
    that fewer blanks are more frequent than many. In a corrupted demonstration two thirds of the
    blank cells, rounded down, hold uniformly random digits (the right one among them).
    """

    min_blanks: int = 6
    max_blanks: int = 10

    name: ClassVar[str] = "sudoku"
    box: ClassVar[int] = 2
    # No puzzle with fewer than 4 clues has a unique solution.
    most_blanks: ClassVar[int] = 12
    shots: ClassVar[int] = 3

    def _question(self, puzzle: str, prompt: str, shots: Sequence[Board]) -> str:
        if prompt not in ("d1", "espo"):
            return super()._question(puzzle, prompt, shots)
        return (
            "Solve a 4x4 Sudoku. The puzzle is a string of 16 characters that gives the board row "
            "by row, from left to right and from top to bottom, with 0 for an empty cell. Fill "
            "the empty cells with the digits 1 to 4 so that every row, every column and every 2x2 "
            "box holds each digit exactly once, and leave the given digits as they are. First "
            "think between <reasoning> and </reasoning>. Then write the complete board as 16 "
            "digits, without spaces, between <answer> and </answer>:\n<reasoning>\n(your steps)\n"
            "</reasoning>\n<answer>\n(16 digits)\n</answer>\n\n"
            f"Puzzle: {puzzle.replace(BLANK, '0')}"
        )

    def _corrupt(self, board: list[str], blanks: list[int], draws: Draws) -> None:
        for _ in range(2 * len(blanks) // 3):
            board[blanks.pop(draws.below(len(blanks)))] = DIGITS[draws.below(4)]

    def _candidates(self, seed: int) -> Iterator[tuple[str, Board] | None]:
        import numpy as np

        digits, bits = _solved_boards()
        words = np.random.PCG64(stream_seed(self.name, seed))
        clue_bits = np.uint64(15) << (np.uint64(4) * np.arange(NUM_CELLS, dtype=np.uint64))
        while True:
            draw = words.random_raw((_CHUNK, 2 + NUM_CELLS))
            board = (draw[:, 0] % len(digits)).astype(np.int64)
            choices = self.max_blanks - self.min_blanks + 1
            blanks = self.min_blanks + (draw[:, 1] % choices).astype(np.int64)
            order = np.argsort(draw[:, 2:], axis=1, kind="stable")
            blank = np.argsort(order, axis=1) < blanks[:, None]  # [chunk, 16]
            clues = bits[board] & (~blank * clue_bits).sum(1, dtype=np.uint64)
            unique = ((clues[:, None] & ~bits) == 0).sum(1) == 1
            puzzles = _rows(np.where(blank, np.uint8(ord(BLANK)), digits[board]))
            solutions = _rows(digits[board])
            for accepted, puzzle, solution in zip(unique, puzzles, solutions, strict=True):
                yield (f"sudoku:{puzzle}", (puzzle, solution)) if accepted else None


def solved_boards() -> list[str]:
    """All 288 solved boards as 16 digits row by row, in ascending order."""
    rows = ["".join(row) for row in itertools.permutations(DIGITS)]
    # Two rows fill two boxes exactly when their left halves share no digit.
    bands = [a + b for a in rows for b in rows if set(a[:2]).isdisjoint(b[:2])]
    return [
        top + bottom
        for top in bands
        for bottom in bands
        if all(
            {top[column], top[column + 4]}.isdisjoint((bottom[column], bottom[column + 4]))
            for column in range(4)
        )
    ]


@functools.cache
def _solved_boards() -> tuple[Any, Any]:
    """Solved boards as ASCII codes, uint8 [288, 16], and as bit sets, uint64 [288].

    Bit 4 c + d - 1 of a set says that cell c holds digit d, so that clues fit a board exactly
    when their bits are a subset of the board's.
    """
    import numpy as np

    boards = "".join(solved_boards()).encode()
    digits = np.frombuffer(boards, dtype=np.uint8).reshape(-1, NUM_CELLS)
    shifts = 4 * np.arange(NUM_CELLS, dtype=np.uint64) + (digits - np.uint8(ord("1")))
    return digits, (np.uint64(1) << shifts).sum(1, dtype=np.uint64)


def _rows(characters: Any) -> list[str]:
    """Strings of the rows of a uint8 [rows, 16] array of ASCII codes."""
    text = characters.tobytes().decode("ascii")
    return [text[start : start + NUM_CELLS] for start in range(0, len(text), NUM_CELLS)]
