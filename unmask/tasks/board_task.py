"""What the Sudoku tasks of both sizes have in common: data sets, demonstrations and scores."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.tasks.base import check_choice, check_integer, check_noise, score_rows
from unmask.tasks.boards import (
    BLANK,
    DIGITS,
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

# A puzzle with its solution.
Board = tuple[str, str]


@dataclass(frozen=True)
class BoardTask(ABC):
    """Puzzles with exactly one solution, on boards with boxes of `box` x `box` cells.

    Attributes:
        min_blanks: fewest blank cells of a puzzle, at least 1.
        max_blanks: most blank cells of a puzzle, at most `most_blanks`.

    Raises:
        ValueError: if an option is out of its range or min_blanks exceeds max_blanks.
    """

    min_blanks: int
    max_blanks: int

    name: ClassVar[str]
    box: ClassVar[int]
    most_blanks: ClassVar[int]
    # Worked examples of the few-shot prompt.
    shots: ClassVar[int]
    prompts: ClassVar[tuple[str, ...]] = ("compact", "d1", "espo", "zero-shot", "few-shot")
    endless: ClassVar[bool] = True
    text_columns: ClassVar[tuple[str, ...]] = ("Puzzle", "Solution", "puzzle", "solution")

    def __post_init__(self) -> None:
        check_integer("min_blanks", self.min_blanks, 1, self.most_blanks)
        check_integer("max_blanks", self.max_blanks, 1, self.most_blanks)
        if self.min_blanks > self.max_blanks:
            raise ValueError(
                f"min_blanks={self.min_blanks}: must not exceed max_blanks={self.max_blanks}; "
                "lower it or raise max_blanks"
            )

    @property
    def symbols(self) -> list[str]:
        """The digits and the blank."""
        return [*DIGITS[: self.box**2], BLANK]

    def build(self, split: str, *, size: int, seed: int, prompt: str = "compact") -> Dataset:
        """`size` distinct puzzles of one split; see `Task.build`.

        Returns:
            Columns `prompt`, `puzzle` (row by row, "." for a blank) and `solution`.

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
        boards = read_boards(data, self.box, self.name)
        return data if boards is None else self._dataset(boards, prompt)

    def demonstrations(
        self, size: int, seed: int, prompt: str = "compact", noise: float = 0.0
    ) -> Dataset:
        """Training puzzles with their solutions, some of them corrupted; see `Task.demonstrations`.

        Raises:
            ValueError: as for `build`, and for a noise outside [0, 1].
        """
        from datasets import Dataset

        check_choice("prompt", prompt, self.prompts)
        check_noise(noise)
        puzzles = self._puzzles("train", size, seed)
        draws = Draws(stream_seed(f"{self.name} demonstrations", seed))
        boards = []
        for puzzle, solution in puzzles:
            board = list(solution)
            if draws.chance(noise):
                blanks = [cell for cell, clue in enumerate(puzzle) if clue == BLANK]
                self._corrupt(board, blanks, draws)
            boards.append("".join(board))
        return Dataset.from_dict(
            {
                "prompt": self._dataset(puzzles, prompt)["prompt"][:],
                "completion": [board_completion(board, prompt, self.box) for board in boards],
            }
        )

    def reward(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Fraction of the puzzle's blank cells filled right; 0.0 unless the board is whole.

        Reads the columns `puzzle` (blanks "." or "0") and `solution`. As in d1 (arXiv
        2504.12216) altered clues are not punished; its release also pads short answers, cuts
        long ones and ignores characters that are no digits.
        """
        score = functools.partial(blanks_right, box=self.box)
        return score_rows(score, completions, columns, ("puzzle", "solution"))

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 if all cells, clues included, are the solution's, else 0.0.

        Reads the column `solution`.
        """
        return score_rows(is_solved, completions, columns, ("solution",))

    def answer(self, text: str) -> str | None:
        """The board that a completion gives, for votes; None unless it is whole."""
        return whole_board(text, self.box**4)

    def prefill(self, prompt: str) -> str:
        """The opening tag of the reasoning in ESPO's evaluation, else nothing."""
        return planning_prefill(prompt, self.prompts)

    @abstractmethod
    def _candidates(self, seed: int) -> Iterator[tuple[str, Board] | None]:
        """Puzzles with the keys that `take_examples` tells them apart by; None = a failed draw."""

    @abstractmethod
    def _corrupt(self, board: list[str], blanks: list[int], draws: Draws) -> None:
        """Put random digits into some of the cells that were blank, in place."""

    def _question(self, puzzle: str, prompt: str, shots: Sequence[Board]) -> str:
        return puzzle if prompt == "compact" else board_question(puzzle, prompt, self.box, shots)

    def _dataset(self, boards: Sequence[Board], prompt: str) -> Dataset:
        shots = self._puzzles("train", self.shots, 0) if prompt == "few-shot" else []
        return board_dataset(boards, lambda puzzle: self._question(puzzle, prompt, shots))

    def _puzzles(self, split: str, size: int, seed: int) -> list[Board]:
        check_draw(split, size, seed)
        return take_examples(self._candidates(seed), split=split, size=size, source=str(self))
