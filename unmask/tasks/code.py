"""Code: write a Python function that passes tests, which run in the sandbox only.

Problems come from published sets or from files in their form; the reward is the share of tests that
ran to their end and passed, or all of them or nothing.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.tasks.base import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    check_choice,
    check_integer,
    check_noise,
    score_rows,
    tagged_answer,
    user_prompt,
)
from unmask.tasks.code_rows import CodeProblem, load_rows, read_problems
from unmask.tasks.code_text import complete_program, extract_code
from unmask.tasks.draws import Draws, split_of, stream_seed
from unmask.tasks.sandbox import Program, SandboxSettings, Verdict, shared_sandbox

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("tests", "test_setup", "names", "stub", "entry")
REMEMBERED = 4_096


@dataclass(frozen=True)
class Code:
    """Programs that pass tests.

    Attributes:
        problems: "sample" (24 original ones), "humaneval", "mbpp", "humaneval_plus", "mbpp_plus",
            the path of a JSON Lines file, or a hub id, all in a published form: HumanEval's,
            MBPP's, or `question` with `test_cases` (AceCode) or with `test` (KodCode).
        partial: reward the share of tests passed; else 1.0 for all of them and 0.0 otherwise.
        sandbox: where the programs run.

    Raises:
        ValueError: if an option is out of its range.
    """

    problems: str = "sample"
    partial: bool = True
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    _verdicts: OrderedDict[tuple[Any, ...], Verdict] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    name: ClassVar[str] = "code"
    prompts: ClassVar[tuple[str, ...]] = ("compact", "d1", "fenced")
    splits: ClassVar[tuple[str, ...]] = ("train", "heldout", "all")

    def __post_init__(self) -> None:
        if not isinstance(self.problems, str) or not self.problems:
            raise ValueError(f"problems={self.problems!r}: must name a set, a file or a hub id")
        if type(self.partial) is not bool:
            raise ValueError(f"partial={self.partial!r}: must be true or false")

    @property
    def symbols(self) -> list[str]:
        """Printable ASCII; a word-level model, which drops whitespace, can only rehearse."""
        return [chr(code) for code in range(33, 127)]

    def build(self, split: str, *, size: int, seed: int, prompt: str = "compact") -> Dataset:
        """At most `size` problems of one split, in an order that the seed decides.

        Args:
            split: "train" or "heldout", one problem in eight; "all" for a set that is not trained
                on.
            size: Number of rows, at least 1; all of them where there are fewer.
            seed: Non-negative seed of the order.
            prompt: "compact", the question alone; "fenced", which asks for a code block; or "d1",
                which asks for reasoning first and the block between answer tags.

        Returns:
            Columns `prompt`, `tests` (list of str), `test_setup`, `names` (list of "name in the
            tests=name in the program"), `stub`, `entry`, and `solution` where there is one.

        Raises:
            ValueError: for an unknown split or prompt, problems that cannot be read, or none.
        """
        check_choice("split", split, self.splits)
        check_choice("prompt", prompt, self.prompts)
        check_integer("size", size, 1)
        check_integer("seed", seed, 0)
        return _dataset(self._drawn(split, size, seed), prompt)

    def convert(self, dataset: Dataset, prompt: str | None = None) -> Dataset:
        """The rows of a published set in the form that `build` gives; built rows as they are.

        Raises:
            ValueError: for columns of no known set; lists them.
        """
        if {"prompt", *COLUMNS} <= set(dataset.column_names):
            return dataset
        check_choice("prompt", prompt or self.prompts[0], self.prompts)
        return _dataset(read_problems(dataset, "the data set"), prompt or self.prompts[0])

    def demonstrations(
        self, size: int, seed: int, prompt: str = "compact", noise: float = 0.0
    ) -> Dataset:
        """Training problems with their solutions, several times where there are few.

        A corrupted demonstration gives the solution of another problem. See `Task.demonstrations`.

        Raises:
            ValueError: as for `build`, for a noise outside [0, 1], or for problems without
                solutions.
        """
        from datasets import Dataset

        check_choice("prompt", prompt, self.prompts)
        check_integer("size", size, 1)
        check_noise(noise)
        solved = [item for item in self._drawn("train", 10**9, seed) if item.solution]
        if not solved:
            raise ValueError(f"problems={self.problems!r} gives no solutions to learn from")
        draws = Draws(stream_seed("code demonstrations", seed))
        rows = []
        for index in range(size):
            problem = solved[index % len(solved)]
            shown = solved[draws.below(len(solved))] if draws.chance(noise) else problem
            rows.append((problem, shown.solution))
        return Dataset.from_dict(
            {
                "prompt": [user_prompt(_question(problem, prompt)) for problem, _ in rows],
                "completion": [_completion(solution, prompt) for _, solution in rows],
            }
        )

    def reward(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Share of tests passed, or with `partial=False` 1.0 for all and 0.0 otherwise.

        Reads the columns `tests`, `test_setup`, `names`, `stub` and `entry`.

        Raises:
            SandboxError: if programs cannot be run here.
        """
        verdicts = self.verdicts(completions, columns)
        if self.partial:
            return [None if verdict is None else verdict.fraction for verdict in verdicts]
        return [None if verdict is None else float(verdict.solved) for verdict in verdicts]

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 if every test passed, else 0.0. Reads what `reward` reads."""
        verdicts = self.verdicts(completions, columns)
        return [None if verdict is None else float(verdict.solved) for verdict in verdicts]

    def verdicts(
        self, completions: Sequence[Any], columns: Mapping[str, Sequence[Any]]
    ) -> list[Verdict | None]:
        """What became of each completion's program; equal programs of a batch run once."""
        programs = score_rows(_program, completions, columns, COLUMNS)
        new = {
            _key(program): program
            for program in programs
            if program is not None and _key(program) not in self._verdicts
        }
        found = shared_sandbox(self.sandbox).run(list(new.values())) if new else []
        known = dict(self._verdicts) | dict(zip(new, found, strict=True))
        # Reward and exact verifier are asked about the same completions one after the other.
        self._verdicts.update(zip(new, found, strict=True))
        while len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)
        return [None if program is None else known[_key(program)] for program in programs]

    def prefill(self, prompt: str) -> str:
        """Nothing, in all formats."""
        check_choice("prompt", prompt, self.prompts)
        return ""

    def _drawn(self, split: str, size: int, seed: int) -> list[CodeProblem]:
        problems = [
            item
            for item in _problems(self.problems)
            if split == "all" or split_of(f"code:{item.question}") == split
        ]
        if not problems:
            raise ValueError(f"problems={self.problems!r} has none in split {split!r}: use 'all'")
        draws = Draws(stream_seed(self.name, seed))
        # A shuffle whose first rows do not depend on the size.
        chosen: list[CodeProblem] = []
        while problems and len(chosen) < size:
            place = draws.below(len(problems))
            problems[place], problems[-1] = problems[-1], problems[place]
            chosen.append(problems.pop())
        return chosen


@functools.lru_cache(maxsize=4)
def _problems(source: str) -> tuple[CodeProblem, ...]:
    # A question that comes twice would be in the same split, but counted twice.
    found = {item.question: item for item in read_problems(load_rows(source), source)}
    return tuple(found.values())


def _dataset(problems: Sequence[CodeProblem], prompt: str) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [user_prompt(_question(item, prompt)) for item in problems],
            "tests": [list(item.tests) for item in problems],
            "test_setup": [item.test_setup for item in problems],
            "names": [[f"{name}={own}" for name, own in item.names.items()] for item in problems],
            "stub": [item.stub for item in problems],
            "entry": [item.entry for item in problems],
            "solution": [item.solution for item in problems],
        }
    )


def _program(
    text: str, tests: Sequence[str], test_setup: str, names: Sequence[str], stub: str, entry: str
) -> Program:
    pairs = dict((name, own) for name, _, own in (item.partition("=") for item in names))
    code = complete_program(extract_code(text, entry), stub, entry)
    return Program(code, tuple(tests), test_setup, pairs)


def _key(program: Program) -> tuple[Any, ...]:
    return (program.code, program.tests, program.setup, tuple(program.names.items()))


def _question(problem: CodeProblem, prompt: str) -> str:
    if prompt == "compact":
        return problem.question
    block = "one code block that begins with ```python and ends with ```"
    if prompt == "fenced":
        return f"{problem.question}\n\nWrite the complete program in {block}."
    return (
        f"{problem.question}\n\nFirst think between <reasoning> and </reasoning>. Then write the "
        f"complete program between {ANSWER_OPEN} and {ANSWER_CLOSE}, in {block}:\n<reasoning>\n"
        f"(your steps)\n</reasoning>\n{ANSWER_OPEN}\n```python\n(program)\n```\n{ANSWER_CLOSE}"
    )


def _completion(solution: str, prompt: str) -> str:
    if prompt == "compact":
        return solution
    block = f"```python\n{solution}\n```"
    return block if prompt == "fenced" else tagged_answer("The program follows.", block)
