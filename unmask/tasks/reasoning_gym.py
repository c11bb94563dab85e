"""Any reasoning-gym data set as a task (arXiv 2505.24760): more than a hundred, by name.

Some of its scorers run what they are given as Python, so every score is taken in the sandbox.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.errors import in_one_line
from unmask.tasks.base import (
    answer_text,
    check_choice,
    check_integer,
    check_noise,
    score_rows,
    tagged_answer,
    user_prompt,
)
from unmask.tasks.draws import check_draw, stream_seed, take_examples
from unmask.tasks.sandbox import SandboxSettings, shared_sandbox

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("gym_dataset", "gym_options", "gym_seed", "gym_size", "gym_index")
INSTALL = "pip install 'unmask[reasoning-gym]'"
SCORER = "reasoning:score"
MAX_ANSWER_CHARACTERS = 8_192
REMEMBERED = 4_096
SEED_BITS = 2**31


@dataclass(frozen=True)
class ReasoningGym:
    """Problems of one reasoning-gym data set.

    Attributes:
        dataset: its name, such as "knights_knaves"; in a recipe, `task.dataset`.
        settings: of the data set, such as its difficulty.
        partial: reward what its scorer gives; else 1.0 where that is 1.0, and 0.0 otherwise.
        sandbox: where scorers run.

    Raises:
        ValueError: for an option of the wrong kind.
    """

    dataset: str = "knights_knaves"
    settings: dict[str, Any] = field(default_factory=dict)
    partial: bool = False
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    _known: OrderedDict[tuple[Any, ...], float] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    name: ClassVar[str] = "reasoning_gym"
    prompts: ClassVar[tuple[str, ...]] = ("zero-shot", "d1", "compact")

    def __post_init__(self) -> None:
        if type(self.partial) is not bool:
            raise ValueError(f"partial={self.partial!r}: must be true or false")
        if not isinstance(self.settings, dict):
            raise ValueError(f"settings={self.settings!r}: must be a mapping")

    @property
    def symbols(self) -> list[str]:
        """Printable ASCII; a word-level model, which drops whitespace, can only rehearse."""
        return [chr(code) for code in range(33, 127)]

    def build(self, split: str, *, size: int, seed: int, prompt: str = "zero-shot") -> Dataset:
        """`size` distinct problems of one split; see `Task.build`.

        Returns:
            Columns `prompt`, `answer` (one right answer) and what makes the problem again:
            `gym_dataset`, `gym_options`, `gym_seed`, `gym_size` and `gym_index`.

        Raises:
            ValueError: for an unknown split, prompt or data set, or if it has too few problems.
        """
        from datasets import Dataset

        check_choice("prompt", prompt, self.prompts)
        rows = self._problems(split, size, seed)
        return Dataset.from_list(
            [
                {
                    "prompt": user_prompt(_question(row["question"], prompt)),
                    **{name: value for name, value in row.items() if name != "question"},
                }
                for row in rows
            ]
        )

    def demonstrations(
        self, size: int, seed: int, prompt: str = "zero-shot", noise: float = 0.0
    ) -> Dataset:
        """Training problems with their answers; a corrupted one has its neighbour's.

        Raises:
            ValueError: as for `build`, and for a noise outside [0, 1].
        """
        from datasets import Dataset

        from unmask.tasks.draws import Draws

        check_choice("prompt", prompt, self.prompts)
        check_noise(noise)
        rows = self._problems("train", size, seed)
        draws = Draws(stream_seed("reasoning_gym demonstrations", seed))
        shown = [
            rows[(place + draws.chance(noise)) % len(rows)]["answer"] for place in range(len(rows))
        ]
        return Dataset.from_dict(
            {
                "prompt": [user_prompt(_question(row["question"], prompt)) for row in rows],
                "completion": [completion(answer, prompt) for answer in shown],
            }
        )

    def reward(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The scorer's value, or with `partial=False` 1.0 where that is 1.0 and 0.0 otherwise.

        Raises:
            SandboxError: if scorers cannot be run here.
        """
        values = self._scores(completions, columns)
        return values if self.partial else [_all_or_nothing(value) for value in values]

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 where the scorer gives 1.0, else 0.0."""
        return [_all_or_nothing(value) for value in self._scores(completions, columns)]

    def answer(self, text: str) -> str | None:
        """What a completion gives as its answer, for votes."""
        return " ".join(answer_text(text)[:MAX_ANSWER_CHARACTERS].split()) or None

    def prefill(self, prompt: str) -> str:
        """Nothing, in all formats."""
        check_choice("prompt", prompt, self.prompts)
        return ""

    def _scores(self, completions: Sequence[Any], columns: Any) -> list[float | None]:
        calls: dict[int, tuple[Any, ...]] = {}

        def collect(text: str, *row: Any) -> float:
            dataset, options, seed, size, index = row
            answer = answer_text(text).strip()
            if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
                return 0.0
            # Scored below: a negative number is the place of the call.
            calls[len(calls)] = (dataset, options, seed, size, index, answer)
            return -float(len(calls))

        values = score_rows(collect, completions, columns, COLUMNS)
        new = [call for call in dict.fromkeys(calls.values()) if call not in self._known]
        if new:
            sandbox = shared_sandbox(self.sandbox, modules=("reasoning_gym",))
            for call, outcome in zip(new, sandbox.score(SCORER, new), strict=True):
                self._known[call] = outcome.value or 0.0
        found = [
            value if value is None or value >= 0 else self._known[calls[round(-value) - 1]]
            for value in values
        ]
        # Reward and exact verifier are asked about the same completions one after the other.
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _problems(self, split: str, size: int, seed: int) -> list[dict[str, Any]]:
        check_draw(split, size, seed)
        check_integer("size", size, 1)
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError as error:
            raise ValueError(f"reasoning-gym cannot be imported ({error}): {INSTALL}") from None
        check_choice("reasoning_gym data set", self.dataset, sorted(DATASETS))
        base = stream_seed(f"reasoning_gym {self.dataset}", seed) % SEED_BITS
        # One problem in eight is held out.
        total = 2 * size + 64 if split == "train" else 16 * size + 64
        options = json.dumps(self.settings, sort_keys=True)
        try:
            data = reasoning_gym.create_dataset(
                self.dataset, seed=base, size=total, **self.settings
            )
        except Exception as error:
            raise ValueError(
                f"reasoning_gym data set {self.dataset!r} with the settings {options} cannot be "
                f"made: {in_one_line(error)}"
            ) from error
        candidates = (
            (
                f"reasoning_gym:{self.dataset}:{entry['question']}",
                {
                    "question": str(entry["question"]),
                    "answer": str(entry["answer"]),
                    **dict(zip(COLUMNS, (self.dataset, options, base, total, index), strict=True)),
                },
            )
            for index, entry in enumerate(data)
        )
        found = take_examples(candidates, split=split, size=size, source=self.dataset)
        if len(found) < size:
            raise ValueError(
                f"size={size}: reasoning_gym data set {self.dataset!r} gave only {len(found)} "
                f"distinct {split} problems; ask for fewer or widen its settings"
            )
        return found


def completion(answer: str, prompt: str) -> str:
    """An answer in the form that a prompt asks for."""
    return answer if prompt == "compact" else tagged_answer("This follows.", answer)


def _question(question: str, prompt: str) -> str:
    if prompt == "compact":
        return question
    if prompt == "zero-shot":
        return f"{question}\n\nGive your final answer between <answer> and </answer>."
    return (
        f"{question}\n\nFirst think between <reasoning> and </reasoning>, then give only the "
        "final answer between <answer> and </answer>:\n<reasoning>\n(your thoughts)\n"
        "</reasoning>\n<answer>\n(your answer)\n</answer>"
    )


def _all_or_nothing(value: float | None) -> float | None:
    return None if value is None else float(value >= 1.0)
