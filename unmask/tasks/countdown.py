"""Countdown: combine the given numbers with + - * / so that the expression equals the target.

Every problem is made from a random expression, so every problem has a solution; the verifier
accepts any other one too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from unmask.tasks.answers import bare_answer
from unmask.tasks.arithmetic import (
    ASCII_WHITESPACE,
    MAX_CHARACTERS,
    evaluate_expression,
    plain_notation,
)
from unmask.tasks.base import (
    check_choice,
    check_integer,
    check_noise,
    score_rows,
    tagged_answer,
    user_prompt,
)
from unmask.tasks.draws import Draws, check_draw, stream_seed, take_examples
from unmask.tasks.protocols import planning_prefill

if TYPE_CHECKING:
    from datasets import Dataset

OPERATORS = "+-*/"
# The format score of the d1 release.
WELL_FORMED_REWARD = 0.1
# Worked examples of the few-shot prompt.
SHOTS = 3
_RULES = (
    "Write an arithmetic expression of the numbers, each used exactly once, with + - * / and "
    "parentheses, whose value is the target. Give the expression between <answer> and </answer>."
)
_NUMBERS_AND_OPERATORS = re.compile(r"[0-9]+|[+\-*/]")


class Problem(NamedTuple):
    """Numbers in the order shown, the target, and the expression the problem was made from."""

    numbers: list[int]
    target: int
    solution: str


@dataclass(frozen=True)
class Countdown:
    """Countdown problems with positive integers.

    Attributes:
        num_numbers: Numbers per problem, 2 to 4. Solutions take at most 3, 7 or 11 symbols.
        max_number: Numbers are drawn uniformly from 1 .. max_number, repetitions allowed.
        max_target: Targets lie in 1 .. max_target.
        operators: What problems are made with, some of "+-*/"; the verifier accepts all four.

    Raises:
        ValueError: if an option is out of its range.
    """

    num_numbers: int = 3
    max_number: int = 30
    max_target: int = 100
    operators: str = OPERATORS

    name: ClassVar[str] = "countdown"
    prompts: ClassVar[tuple[str, ...]] = ("compact", "d1", "espo", "zero-shot", "few-shot")
    endless: ClassVar[bool] = True
    text_columns: ClassVar[tuple[str, ...]] = ("input", "output")

    def __post_init__(self) -> None:
        check_integer("num_numbers", self.num_numbers, 2, 4)
        check_integer("max_number", self.max_number, 1, 9_999)
        check_integer("max_target", self.max_target, 1, 9_999)
        given = self.operators
        if not isinstance(given, str) or not given or set(given) - set(OPERATORS):
            raise ValueError(f"operators={given!r}: must be some of {OPERATORS!r}")
        if len(set(given)) < len(given):
            raise ValueError(f"operators={given!r}: must name each operator once")

    @property
    def symbols(self) -> list[str]:
        """The integers 0 .. max(max_number, max_target), the operators, parentheses and colon."""
        integers = range(max(self.max_number, self.max_target) + 1)
        return [*map(str, integers), *OPERATORS, "(", ")", ":"]

    def build(self, split: str, *, size: int, seed: int, prompt: str = "compact") -> Dataset:
        """`size` distinct problems of one split; see `Task.build`.

        Problems are distinct, and belong to a split, by their sorted numbers and target. The
        intermediate values of `solution` are positive integers.

        Returns:
            Columns `prompt`, `numbers` (list of int), `target` (int) and `solution` (str).

        Raises:
            ValueError: for an unknown split or prompt, or for more problems than there are.
        """
        check_choice("prompt", prompt, self.prompts)
        return self._dataset(self._problems(split, size, seed), prompt)

    def convert(self, data: Dataset, prompt: str) -> Dataset:
        """Problems of another source as `build` gives them; rows of other columns as they are.

        Args:
            data: with `nums` (or `numbers`) and `target`, as `Jiayi-Pan/Countdown-Tasks-3to4`, or
                with `input` ("30,100,93") and `output` ("23"), as the test files of d1.
            prompt: one of `prompts`.

        Raises:
            ValueError: for a row that is no problem.
        """
        check_choice("prompt", prompt, self.prompts)
        columns = set(data.column_names)
        if "prompt" in columns:
            return data
        numbers = next((name for name in ("nums", "numbers") if name in columns), None)
        if numbers and "target" in columns:
            pairs = [(row[numbers], row["target"]) for row in data]
        elif {"input", "output"} <= columns:
            pairs = [(str(row["input"]).split(","), row["output"]) for row in data]
        else:
            return data
        return self._dataset([_read(*pair, row) for row, pair in enumerate(pairs)], prompt)

    def demonstrations(
        self, size: int, seed: int, prompt: str = "compact", noise: float = 0.0
    ) -> Dataset:
        """Training problems with their solutions; see `Task.demonstrations`.

        A problem may come again, with its numbers in another order, another solution or another
        corruption: there are far fewer problems than ways to solve them. A corrupted solution
        keeps its form and has one place changed: an operator becomes another one, two numbers
        change places, or a number is drawn anew.

        Raises:
            ValueError: as for `build`, and for a noise outside [0, 1].
        """
        from datasets import Dataset

        check_choice("prompt", prompt, self.prompts)
        check_noise(noise)
        problems = self._problems("train", size, seed, distinct=False)
        draws = Draws(stream_seed("countdown demonstrations", seed))
        expressions = [
            _corrupt(problem.solution, self.max_number, self.operators, draws)
            if draws.chance(noise)
            else problem.solution
            for problem in problems
        ]
        return Dataset.from_dict(
            {
                "prompt": [user_prompt(_question(problem, prompt)) for problem in problems],
                "completion": [
                    _completion(expression, problem.target, prompt)
                    for expression, problem in zip(expressions, problems, strict=True)
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
        """1.0 if solved, 0.1 for a wrong expression that uses exactly the numbers, else 0.0.

        Reads the columns `numbers` and `target`. These are the values of d1 (arXiv 2504.12216),
        whose release also gives 0.1 to any other text between answer tags.
        """
        return score_rows(_reward, completions, columns, ("numbers", "target"))

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 if the expression uses each number once and equals the target, else 0.0.

        The expression may be followed by "= target"; any other equation, and any word, scores 0.0.
        See `bare_answer` and `plain_notation` for the forms that are read. Reads the columns
        `numbers` and `target`.
        """
        return score_rows(_exact, completions, columns, ("numbers", "target"))

    def answer(self, text: str) -> str | None:
        """The expression that a completion gives, for votes; None if there is none."""
        return "".join(_expression(text).split()) or None

    def prefill(self, prompt: str) -> str:
        """The opening tag of the reasoning in ESPO's evaluation, else nothing."""
        return planning_prefill(prompt, self.prompts)

    def _dataset(self, problems: Sequence[Problem], prompt: str) -> Dataset:
        from datasets import Dataset

        shots = self._problems("train", SHOTS, 0) if prompt == "few-shot" else []
        return Dataset.from_dict(
            {
                "prompt": [user_prompt(_question(problem, prompt, shots)) for problem in problems],
                "numbers": [problem.numbers for problem in problems],
                "target": [problem.target for problem in problems],
                "solution": [problem.solution for problem in problems],
            }
        )

    def _problems(
        self, split: str, size: int, seed: int, *, distinct: bool = True
    ) -> list[Problem]:
        check_draw(split, size, seed)
        draws = Draws(stream_seed(self.name, seed))
        return take_examples(
            self._candidates(draws), split=split, size=size, source=str(self), distinct=distinct
        )

    def _candidates(self, draws: Draws) -> Iterator[tuple[str, Problem] | None]:
        while True:
            numbers = [1 + draws.below(self.max_number) for _ in range(self.num_numbers)]
            node = _random_expression(numbers, self.operators, draws)
            if node is None or node.value > self.max_target:
                yield None
            else:
                key = f"countdown:{' '.join(map(str, sorted(numbers)))}:{node.value}"
                yield key, Problem(numbers, node.value, node.text)


def _read(numbers: Sequence[Any], target: Any, row: int) -> Problem:
    try:
        return Problem([int(number) for number in numbers], int(target), "")
    except (TypeError, ValueError):
        raise ValueError(
            f"row {row} with the numbers {str(numbers)[:60]} and the target {str(target)[:20]!r} "
            "is no Countdown problem: give integers"
        ) from None


def _question(problem: Problem, prompt: str, shots: Sequence[Problem] = ()) -> str:
    if prompt == "compact":
        return f"{' '.join(map(str, problem.numbers))} : {problem.target}"
    asked = f"Numbers: {problem.numbers}\nTarget: {problem.target}"
    if prompt in ("zero-shot", "few-shot"):
        worked = [
            f"Numbers: {shot.numbers}\nTarget: {shot.target}\n<answer>{shot.solution}</answer>"
            for shot in shots
        ]
        return "\n\n".join([_RULES, *worked, asked])
    return (
        "Find an arithmetic expression that equals the target. Use every given number exactly "
        "once, no other numbers, and only the operations +, -, * and /, with parentheses where "
        "needed. First think between <reasoning> and </reasoning>. Then write only the "
        "expression, without an equals sign, between <answer> and </answer>; for the numbers "
        "[1, 5, 6] and the target 29 that is:\n<reasoning>\n6 times 5 is 30, and 30 minus 1 is "
        "29.\n</reasoning>\n<answer>\n6*5-1\n</answer>\n\n"
        f"{asked}"
    )


def _completion(expression: str, target: int, prompt: str) -> str:
    if prompt == "compact":
        return expression
    return tagged_answer(f"The expression {expression} should give {target}.", expression)


class _Node(NamedTuple):
    """A positive integer written as an expression whose weakest operator is `level`."""

    value: int
    text: str
    level: str  # "sum", "product" or "number"


def _random_expression(numbers: Sequence[int], operators: str, draws: Draws) -> _Node | None:
    """Random expression over numbers; None if some step is not a positive integer."""
    nodes = [_Node(number, str(number), "number") for number in numbers]
    while len(nodes) > 1:
        left = nodes.pop(draws.below(len(nodes)))
        right = nodes.pop(draws.below(len(nodes)))
        node = _combine(operators[draws.below(len(operators))], left, right)
        if node is None:
            return None
        nodes.append(node)
    return nodes[0]


def _combine(operator: str, left: _Node, right: _Node) -> _Node | None:
    # a-(b+c) and a/(b*c) are left out: a-b-c and a/b/c say the same without parentheses.
    if operator in "+-":
        if operator == "-" and (right.level == "sum" or left.value <= right.value):
            return None
        value = left.value + right.value if operator == "+" else left.value - right.value
        return _Node(value, f"{left.text}{operator}{right.text}", "sum")
    if operator == "/" and (right.level == "product" or left.value % right.value):
        return None
    value = left.value * right.value if operator == "*" else left.value // right.value
    texts = [f"({node.text})" if node.level == "sum" else node.text for node in (left, right)]
    return _Node(value, operator.join(texts), "product")


def _corrupt(expression: str, max_number: int, operators: str, draws: Draws) -> str:
    """The expression with one operator changed, two numbers swapped or one number redrawn.

    Where there is but one operator, it stays.
    """
    places = list(_NUMBERS_AND_OPERATORS.finditer(expression))
    numbers = [place for place in places if place[0] not in OPERATORS]
    kind = draws.below(3)
    if kind == 0:
        signs = [place for place in places if place[0] in OPERATORS]
        place = signs[draws.below(len(signs))]
        others = operators.replace(place[0], "") or operators
        changes = {place: others[draws.below(len(others))]}
    elif kind == 1:
        first = numbers.pop(draws.below(len(numbers)))
        second = numbers.pop(draws.below(len(numbers)))
        changes = {first: second[0], second: first[0]}
    else:
        changes = {numbers[draws.below(len(numbers))]: str(1 + draws.below(max_number))}
    for place in sorted(changes, key=re.Match.start, reverse=True):
        expression = expression[: place.start()] + changes[place] + expression[place.end() :]
    return expression


def _expression(text: str) -> str:
    """What stands as the answer, in plain notation; empty if it is too long."""
    answer = bare_answer(text)
    return plain_notation(answer).removesuffix(".") if len(answer) <= MAX_CHARACTERS else ""


def _solves(text: str, numbers: Sequence[int], target: int) -> bool | None:
    """True or False for a well-formed expression over exactly these numbers, else None."""
    expression, equals, stated = _expression(text).partition("=")
    if equals and stated.strip(ASCII_WHITESPACE) != str(target):
        return None
    value = evaluate_expression(expression, numbers)
    return None if value is None else value == target


def _reward(text: str, numbers: Sequence[int], target: int) -> float:
    solved = _solves(text, numbers, target)
    return 0.0 if solved is None else 1.0 if solved else WELL_FORMED_REWARD


def _exact(text: str, numbers: Sequence[int], target: int) -> float:
    return 1.0 if _solves(text, numbers, target) else 0.0
