"""GSM8K, MATH and MATH500: questions with one answer, read from the hub, a file or the package.

Answers that are plain numbers are compared exactly; others, where the task has them, by math-verify
in worker processes under a time limit.
"""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.tasks.answers import comparable, final_answer, plain_number, same_spelling
from unmask.tasks.base import check_choice, check_integer, completion_text, score_rows
from unmask.tasks.draws import Draws, stream_seed
from unmask.tasks.math_pool import shared_pool
from unmask.tasks.protocols import PROTOCOLS, math_completion, math_prompt

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# For an answer that is stated in the form asked for, but wrong; as in Countdown.
STATED_REWARD = 0.1
# Of the answers of a data set that the verifier cannot read, before it is refused.
MOST_UNREADABLE = 0.01


@dataclass(frozen=True)
class WordProblems:
    """What the three tasks share; see `Gsm8k`, `Math` and `Math500`."""

    name: ClassVar[str] = "word_problems"
    prompts: ClassVar[tuple[str, ...]] = PROTOCOLS
    hub: ClassVar[tuple[str, str | None]] = ("", None)
    splits: ClassVar[Mapping[str, str]] = {"train": "train", "heldout": "test"}
    question_columns: ClassVar[tuple[str, ...]] = ("question", "problem")
    solution_columns: ClassVar[tuple[str, ...]] = ("solution", "answer")
    symbolic: ClassVar[bool] = False

    @property
    def symbols(self) -> list[str]:
        """Printable ASCII, character by character."""
        return [character for character in string.printable if not character.isspace()]

    def build(self, split: str, *, size: int, seed: int, prompt: str = "zero-shot") -> Dataset:
        """The first `size` problems of a shuffled split of the hub's data set.

        Args:
            split: "train", "heldout" (the hub's test split) or a name that the hub knows.
            size: at most so many rows.
            seed: of the shuffle, for "train"; other splits keep their order.
            prompt: one of `prompts`.

        Returns:
            Columns `prompt`, `question`, `solution` and `answer`.

        Raises:
            ValueError: if the hub cannot be reached, or a rule of `convert` is broken.
        """
        from unmask.tasks.sources import load_hub

        check_choice("prompt", prompt, self.prompts)
        check_integer("size", size, 1)
        path, name = self.hub
        data = load_hub(path, name, self.splits.get(split, split), self.name)
        if split == "train":
            data = data.shuffle(seed=seed)
        return self.convert(data.select(range(min(size, len(data)))), prompt)

    def sample(self, split: str, prompt: str) -> Dataset:
        """The problems that the package brings along, every fourth of them held out."""
        from datasets import Dataset

        rows = [row for row, held in packaged_rows(self.name) if held == (split != "train")]
        return self.convert(Dataset.from_list(rows), prompt)

    def convert(self, data: Dataset, prompt: str) -> Dataset:
        """Rows of another source as `build` gives them; rows of other columns as they are.

        Args:
            data: with a column of questions and one of solutions (with `####` or a box) or answers.
            prompt: one of `prompts`.

        Raises:
            ValueError: if more than 1 % of the answers cannot be read by the verifier; fewer are
                dropped and counted.
        """
        from datasets import Dataset

        check_choice("prompt", prompt, self.prompts)
        asked = _first(self.question_columns, data.column_names)
        solved = _first(self.solution_columns, data.column_names)
        if "prompt" in data.column_names or asked is None or solved is None:
            return data
        rows = []
        for row in data:
            assert isinstance(row, dict)
            stated = row.get("answer") if solved != "answer" else None
            answer = stated or final_answer(str(row[solved])) or str(row[solved]).strip()
            rows.append((str(row[asked]), str(row[solved]), self._clean(str(answer))))
        kept = self._readable(rows)
        shots = self._shots() if prompt == "few-shot" else []
        return Dataset.from_dict(
            {
                "prompt": [math_prompt(question, prompt, shots) for question, _, _ in kept],
                "question": [question for question, _, _ in kept],
                "solution": [solution for _, solution, _ in kept],
                "answer": [answer for _, _, answer in kept],
            }
        )

    def demonstrations(
        self, size: int, seed: int, prompt: str = "zero-shot", noise: float = 0.0
    ) -> Dataset:
        """Solutions of the package's problems, some of them wrong; see `Task.demonstrations`."""
        from datasets import Dataset

        from unmask.tasks.base import check_noise

        check_noise(noise)
        check_integer("size", size, 1)
        rows = self.sample("train", prompt).to_list()
        draws = Draws(stream_seed(f"{self.name} demonstrations", seed))
        chosen = [rows[draws.below(len(rows))] for _ in range(size)]
        answers = [
            str(1 + draws.below(99)) if draws.chance(noise) else row["answer"] for row in chosen
        ]
        return Dataset.from_dict(
            {
                "prompt": [row["prompt"] for row in chosen],
                "completion": [
                    math_completion(row["solution"], answer, prompt)
                    for row, answer in zip(chosen, answers, strict=True)
                ],
            }
        )

    def reward(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 if solved, 0.1 for another answer in the form asked for, else 0.0.

        Reads the column `answer`.
        """
        solved = self.exact(prompts, completions, completion_ids, **columns)
        return [
            right
            if right is None or right == 1.0
            else STATED_REWARD * (self._stated(completion_text(completion)) is not None)
            for right, completion in zip(solved, completions, strict=True)
        ]

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 if the stated answer has the value of the column `answer`, else 0.0."""
        values = score_rows(self._quick, completions, columns, ("answer",))
        pending = [row for row, value in enumerate(values) if value is not None and value < 0]
        pairs = []
        for row in pending:
            given = self._stated(completion_text(completions[row]))
            pairs.append((columns["answer"][row], given or ""))
        if pairs:
            for row, equal in zip(pending, shared_pool().equal(pairs), strict=True):
                values[row] = float(equal)
        return values

    def answer(self, text: str) -> str | None:
        """The stated answer in the form that votes are counted in."""
        stated = self._stated(text)
        return None if stated is None else comparable(stated, units=not self.symbolic)

    def prefill(self, prompt: str) -> str:
        """Nothing: the published evaluations prefill planning tasks only."""
        check_choice("prompt", prompt, self.prompts)
        return ""

    def _clean(self, answer: str) -> str:
        return answer.strip()

    def _stated(self, text: str) -> str | None:
        stated = final_answer(text)
        if stated is None or (not self.symbolic and plain_number(stated) is None):
            return None
        return stated

    def _quick(self, text: str, answer: str) -> float:
        """1.0 or 0.0 where that can be told here, -1.0 where math-verify must say."""
        stated = final_answer(text)
        if stated is None:
            return 0.0
        if stated == answer:
            return 1.0
        expected, given = (plain_number(item, units=not self.symbolic) for item in (answer, stated))
        if expected is not None and given is not None:
            return float(expected == given)
        if not self.symbolic:
            return 0.0
        return 1.0 if same_spelling(answer, stated) else -1.0

    def _readable(self, rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        unclear = [row for row in rows if plain_number(row[2]) is None]
        bad: set[str] = set()
        if unclear and self.symbolic:
            answers = sorted({row[2] for row in unclear})
            found = shared_pool().readable(answers)
            bad = {answer for answer, good in zip(answers, found, strict=True) if not good}
        elif unclear:
            bad = {row[2] for row in unclear}
        kept = [row for row in rows if row[2] not in bad]
        lost = len(rows) - len(kept)
        if lost > MOST_UNREADABLE * len(rows):
            raise ValueError(
                f"task {self.name}: {lost} of {len(rows)} answers cannot be read by its verifier, "
                f"such as {sorted(bad)[0][:60]!r}: mend the data, or choose the task that fits it"
            )
        if lost:
            logger.warning(
                "%s: dropped %d of %d problems whose answer cannot be read",
                self.name,
                lost,
                len(rows),
            )
        return kept

    def _shots(self) -> list[tuple[str, str, str]]:
        rows = [row for row, held in packaged_rows(self.name) if not held]
        return [(row["question"], row["solution"], row["answer"]) for row in rows[:4]]


@dataclass(frozen=True)
class Gsm8k(WordProblems):
    """Grade-school word problems with numeric answers (arXiv 2110.14168)."""

    name: ClassVar[str] = "gsm8k"
    hub: ClassVar[tuple[str, str | None]] = ("openai/gsm8k", "main")
    solution_columns: ClassVar[tuple[str, ...]] = ("solution", "answer")

    def _clean(self, answer: str) -> str:
        return answer.replace(",", "").strip()


@dataclass(frozen=True)
class Math(WordProblems):
    """Competition problems with answers in LaTeX (arXiv 2103.03874)."""

    name: ClassVar[str] = "math"
    hub: ClassVar[tuple[str, str | None]] = ("EleutherAI/hendrycks_math", "algebra")
    question_columns: ClassVar[tuple[str, ...]] = ("problem", "question")
    symbolic: ClassVar[bool] = True


@dataclass(frozen=True)
class Math500(Math):
    """The 500 problems of MATH that are commonly measured on (arXiv 2305.20050)."""

    name: ClassVar[str] = "math500"
    hub: ClassVar[tuple[str, str | None]] = ("HuggingFaceH4/MATH-500", None)
    splits: ClassVar[Mapping[str, str]] = {"train": "test", "heldout": "test"}


def packaged_rows(task: str) -> list[tuple[dict[str, str], bool]]:
    """The original problems in the package, each with whether it is held out."""
    name = {"math500": "math"}.get(task, task)
    text = (files("unmask") / "tasks" / "samples" / f"{name}.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row, number % 4 == 3) for number, row in enumerate(rows)]


def _first(names: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)
