"""Sudoku on the usual 9x9 board: puzzles with exactly one solution, made by taking cells away."""

from __future__ import annotations

import functools
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
    DIGITS,
    blanks_right,
    board_completion,
    board_dataset,
    board_question,
    groups,
    is_solved,
    read_boards,
    whole_board,
)
from unmask.tasks.draws import Draws, check_draw, stream_seed, take_examples
from unmask.tasks.protocols import planning_prefill

if TYPE_CHECKING:
    from datasets import Dataset

NUM_CELLS = 81
SHOTS = 2

_BLANKS_RIGHT = functools.partial(blanks_right, box=3)
_GROUPS = groups(3)
_PEERS = [
    sorted({other for group in _GROUPS if cell in group for other in group} - {cell})
    for cell in range(NUM_CELLS)
]


@dataclass(frozen=True)
class Sudoku9:
    """9x9 puzzles with exactly one solution.

    Attributes:
        min_blanks: fewest blank cells, at least 1.
        max_blanks: most blank cells, at most 55.

    Raises:
        ValueError: if an option is out of its range or min_blanks exceeds max_blanks.
    """

    min_blanks: int = 30
    max_blanks: int = 45

    name: ClassVar[str] = "sudoku9"
    prompts: ClassVar[tuple[str, ...]] = ("compact", "d1", "espo", "zero-shot", "few-shot")
    endless: ClassVar[bool] = True
    text_columns: ClassVar[tuple[str, ...]] = ("Puzzle", "Solution", "puzzle", "solution")

    def __post_init__(self) -> None:
        check_integer("min_blanks", self.min_blanks, 1, 55)
        check_integer("max_blanks", self.max_blanks, 1, 55)
        if self.min_blanks > self.max_blanks:
            raise ValueError(
                f"min_blanks={self.min_blanks}: must not exceed max_blanks={self.max_blanks}; "
                "lower it or raise max_blanks"
            )

    @property
    def symbols(self) -> list[str]:
        """The digits 1 to 9 and the blank."""
        return [*DIGITS, BLANK]

    def build(self, split: str, *, size: int, seed: int, prompt: str = "compact") -> Dataset:
        """`size` distinct puzzles of one split; see `Task.build`.

        Returns:
            Columns `prompt`, `puzzle` (81 characters, "." for a blank) and `solution`.

        Raises:
            ValueError: for an unknown split or prompt.
        """
        check_choice("prompt", prompt, self.prompts)
        check_draw(split, size, seed)
        return self._dataset(self._puzzles(split, size, seed), prompt)

    def convert(self, data: Dataset, prompt: str) -> Dataset:
        """Rows with `Puzzle` and `Solution` as `build` gives them; others as they are.

        See `unmask.tasks.boards.read_boards`.
        """
        check_choice("prompt", prompt, self.prompts)
        boards = read_boards(data, 3, self.name)
        return data if boards is None else self._dataset(boards, prompt)

    def demonstrations(
        self, size: int, seed: int, prompt: str = "compact", noise: float = 0.0
    ) -> Dataset:
        """Training puzzles with solutions; in a corrupted one every third blank is random.

        Raises:
            ValueError: as for `build`, and for a noise outside [0, 1].
        """
        from datasets import Dataset

        check_choice("prompt", prompt, self.prompts)
        check_noise(noise)
        puzzles = self._puzzles("train", size, seed)
        draws = Draws(stream_seed("sudoku9 demonstrations", seed))
        boards = []
        for puzzle, solution in puzzles:
            board = list(solution)
            if draws.chance(noise):
                for cell in [cell for cell in range(NUM_CELLS) if puzzle[cell] == BLANK][::3]:
                    board[cell] = DIGITS[draws.below(9)]
            boards.append("".join(board))
        return Dataset.from_dict(
            {
                "prompt": self._dataset(puzzles, prompt)["prompt"][:],
                "completion": [board_completion(board, prompt, 3) for board in boards],
            }
        )

    def reward(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Fraction of the puzzle's blank cells filled right; 0.0 unless there are 81 cells."""
        return score_rows(_BLANKS_RIGHT, completions, columns, ("puzzle", "solution"))

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 if all 81 cells are the solution's, else 0.0."""
        return score_rows(is_solved, completions, columns, ("solution",))

    def answer(self, text: str) -> str | None:
        """The board that a completion gives, for votes; None without 81 cells."""
        return whole_board(text, NUM_CELLS)

    def prefill(self, prompt: str) -> str:
        """The opening tag of the reasoning in ESPO's evaluation, else nothing."""
        return planning_prefill(prompt, self.prompts)

    def _dataset(self, boards: Sequence[tuple[str, str]], prompt: str) -> Dataset:
        shots = self._puzzles("train", SHOTS, 0) if prompt == "few-shot" else []

        def question(puzzle: str) -> str:
            return puzzle if prompt == "compact" else board_question(puzzle, prompt, 3, shots)

        return board_dataset(boards, question)

    def _puzzles(self, split: str, size: int, seed: int) -> list[tuple[str, str]]:
        check_draw(split, size, seed)
        return take_examples(self._candidates(seed), split=split, size=size, source=str(self))

    def _candidates(self, seed: int) -> Iterator[tuple[str, tuple[str, str]] | None]:
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
