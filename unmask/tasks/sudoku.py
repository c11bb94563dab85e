"""Sudoku on a 4x4 board: fill the blanks so that rows, columns and 2x2 boxes hold 1 to 4.

All 288 solved boards are enumerated, so a puzzle's uniqueness is a comparison with each of them
instead of a search.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.tasks.base import (
    check_choice,
    check_integer,
    check_noise,
    score_rows,
)
from unmask.tasks.boards import (
    BLANK,
    blanks_right,
    board_completion,
    board_dataset,
    board_question,
    is_solved,
    read_boards,
    whole_board,
)
from unmask.tasks.draws import Draws, check_draw, stream_seed, take_examples
from unmask.tasks.protocols import planning_prefill

if TYPE_CHECKING:
    from datasets import Dataset

DIGITS = "1234"
NUM_CELLS = 16
# No 4x4 puzzle with fewer than 4 clues has a unique solution.
MOST_BLANKS = 12
# Worked examples of the few-shot prompt.
SHOTS = 3

_BLANKS_RIGHT = functools.partial(blanks_right, box=2)
# Part of the data's definition: another chunk size would draw other puzzles.
_CHUNK = 4_096


@dataclass(frozen=True)
class Sudoku:
    """4x4 puzzles with exactly one solution.

    The number of blanks is drawn uniformly and puzzles with several solutions are dropped, so
    that fewer blanks are more frequent than many.

    Attributes:
        min_blanks: Fewest blank cells of a puzzle, at least 1.
        max_blanks: Most blank cells of a puzzle, at most 12.

    Raises:
        ValueError: if an option is out of its range or min_blanks exceeds max_blanks.
    """

    min_blanks: int = 6
    max_blanks: int = 10

    name: ClassVar[str] = "sudoku"
    prompts: ClassVar[tuple[str, ...]] = ("compact", "d1", "espo", "zero-shot", "few-shot")
    endless: ClassVar[bool] = True
    text_columns: ClassVar[tuple[str, ...]] = ("Puzzle", "Solution", "puzzle", "solution")

    def __post_init__(self) -> None:
        check_integer("min_blanks", self.min_blanks, 1, MOST_BLANKS)
        check_integer("max_blanks", self.max_blanks, 1, MOST_BLANKS)
        if self.min_blanks > self.max_blanks:
            raise ValueError(
                f"min_blanks={self.min_blanks}: must not exceed max_blanks={self.max_blanks}; "
                "lower it or raise max_blanks"
            )

    @property
    def symbols(self) -> list[str]:
        """The digits 1 to 4 and the blank."""
        return [*DIGITS, BLANK]

    def build(self, split: str, *, size: int, seed: int, prompt: str = "compact") -> Dataset:
        """`size` distinct puzzles of one split; see `Task.build`.

        Returns:
            Columns `prompt`, `puzzle` (16 characters row by row, "." for a blank) and
            `solution` (16 digits row by row).

        Raises:
            ValueError: for an unknown split or prompt, or for more puzzles than there are.
        """
        check_choice("prompt", prompt, self.prompts)
        return self._dataset(self._puzzles(split, size, seed), prompt)

    def convert(self, data: Dataset, prompt: str) -> Dataset:
        """Rows with `Puzzle` and `Solution` as `build` gives them; others as they are.

        See `unmask.tasks.boards.read_boards`.
        """
        check_choice("prompt", prompt, self.prompts)
        boards = read_boards(data, 2, self.name)
        return data if boards is None else self._dataset(boards, prompt)

    def demonstrations(
        self, size: int, seed: int, prompt: str = "compact", noise: float = 0.0
    ) -> Dataset:
        """Training puzzles with their solutions; see `Task.demonstrations`.

        In a corrupted solution two thirds of the blank cells, rounded down, hold uniformly random
        digits (the right one among them).

        Raises:
            ValueError: as for `build`, and for a noise outside [0, 1].
        """
        from datasets import Dataset

        check_choice("prompt", prompt, self.prompts)
        check_noise(noise)
        puzzles = self._puzzles("train", size, seed)
        boards = _corrupted(puzzles, noise, stream_seed("sudoku demonstrations", seed))
        return Dataset.from_dict(
            {
                "prompt": self._dataset(puzzles, prompt)["prompt"][:],
                "completion": [board_completion(board, prompt, 2) for board in boards],
            }
        )

    def reward(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Fraction of the puzzle's blank cells filled right; 0.0 unless there are 16 cells.

        Reads the columns `puzzle` (blanks "." or "0") and `solution`. As in d1 (arXiv
        2504.12216) altered clues are not punished; its release also pads short answers, cuts
        long ones and ignores characters that are no digits.
        """
        return score_rows(_BLANKS_RIGHT, completions, columns, ("puzzle", "solution"))

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 if all 16 cells, clues included, are the solution's, else 0.0.

        Reads the column `solution`.
        """
        return score_rows(is_solved, completions, columns, ("solution",))

    def answer(self, text: str) -> str | None:
        """The board that a completion gives, for votes; None without 16 cells."""
        return whole_board(text, NUM_CELLS)

    def prefill(self, prompt: str) -> str:
        """The opening tag of the reasoning in ESPO's evaluation, else nothing."""
        return planning_prefill(prompt, self.prompts)

    def _dataset(self, boards: Sequence[tuple[str, str]], prompt: str) -> Dataset:
        shots = self._puzzles("train", SHOTS, 0) if prompt == "few-shot" else []
        return board_dataset(boards, lambda puzzle: _question(puzzle, prompt, shots))

    def _puzzles(self, split: str, size: int, seed: int) -> list[tuple[str, str]]:
        check_draw(split, size, seed)
        return take_examples(self._candidates(seed), split=split, size=size, source=str(self))

    def _candidates(self, seed: int) -> Iterator[tuple[str, tuple[str, str]] | None]:
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


def _corrupted(puzzles: Sequence[tuple[str, str]], noise: float, seed: int) -> list[str]:
    """Solutions, each with probability noise corrupted in two thirds of its blanks."""
    draws = Draws(seed)
    boards = []
    for puzzle, solution in puzzles:
        board = list(solution)
        if draws.chance(noise):
            blanks = [cell for cell in range(NUM_CELLS) if puzzle[cell] == BLANK]
            for _ in range(2 * len(blanks) // 3):
                board[blanks.pop(draws.below(len(blanks)))] = DIGITS[draws.below(4)]
        boards.append("".join(board))
    return boards


def _question(puzzle: str, prompt: str, shots: Sequence[tuple[str, str]] = ()) -> str:
    if prompt == "compact":
        return puzzle
    if prompt not in ("d1", "espo"):
        return board_question(puzzle, prompt, 2, shots)
    return (
        "Solve a 4x4 Sudoku. The puzzle is a string of 16 characters that gives the board row by "
        "row, from left to right and from top to bottom, with 0 for an empty cell. Fill the "
        "empty cells with the digits 1 to 4 so that every row, every column and every 2x2 box "
        "holds each digit exactly once, and leave the given digits as they are. First think "
        "between <reasoning> and </reasoning>. Then write the complete board as 16 digits, "
        "without spaces, between <answer> and </answer>:\n<reasoning>\n(your steps)\n"
        "</reasoning>\n<answer>\n(16 digits)\n</answer>\n\n"
        f"Puzzle: {puzzle.replace(BLANK, '0')}"
    )
