"""The contract of a task (prompts, demonstrations, verifiers) and the helpers all tasks share.

A verifier reads text that a model wrote, so nothing here evaluates, executes or searches it in
more than linear time, and no completion raises: a bad one scores 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

RewardFunction = Callable[..., list[float | None]]
"""`reward(prompts, completions, completion_ids, **columns)`, TRL's signature; None = not scored."""

Score = TypeVar("Score")

ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
# An answer stands at the end; a longer search would let one degenerate completion hold up a batch.
ANSWER_SEARCH_CHARACTERS = 65_536


@runtime_checkable
class Task(Protocol):
    """Prompts to train and evaluate on, and the verifiers that score completions of them.

    The options of a task are the fields of its dataclass; wrong ones raise ValueError on
    construction. The first name in `prompts` is the default format: "compact" is short enough for
    a tiny word-level model, "d1" is the published protocol for instruction-tuned checkpoints.
    """

    name: ClassVar[str]
    prompts: ClassVar[tuple[str, ...]]

    @property
    def symbols(self) -> list[str]:
        """Vocabulary of the compact format, without special tokens or whitespace.

        Words are told apart longest first; whitespace between them carries no meaning.
        """
        ...

    def build(self, split: str, *, size: int, seed: int, prompt: str = ...) -> Dataset:
        """`size` distinct examples of one split: `prompt` and the columns that the rewards read.

        The same arguments give the same rows on every machine, a smaller size gives the first
        rows of a larger one, and no example of one split ever occurs in the other.

        Args:
            split: "train" or "heldout".
            size: Number of rows, at least 1 (at most 1,000,000 where examples are generated).
            seed: Non-negative seed of the draw.
            prompt: One of `prompts`.

        Returns:
            Rows whose `prompt` is conversational: `[{"role": "user", "content": str}]`.

        Raises:
            ValueError: for an unknown split or prompt, or for more examples than there are.
        """
        ...

    def demonstrations(
        self, size: int, seed: int, prompt: str = ..., noise: float = ...
    ) -> Dataset:
        """Solved training examples for supervised fine-tuning: `prompt` and `completion` (a str).

        All belong to the train split; a task of few problems may show one problem several times.

        Args:
            size: Number of rows, at least 1.
            seed: Non-negative seed of the draw.
            prompt: One of `prompts`.
            noise: Probability in [0, 1] that a row's solution is corrupted in some places, so
                that the most probable completion is right far more often than a sampled one.

        Raises:
            ValueError: as for `build`, and for a noise outside [0, 1].
        """
        ...

    def reward(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Training reward in [0, 1] of each completion, dense where the task allows it."""
        ...

    def exact(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 for each completion that solves its example exactly, else 0.0."""
        ...

    def prefill(self, prompt: str) -> str:
        """Text that the assistant's answer starts with in this prompt format, often empty."""
        ...


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Text of a completion: itself, or the content of its one assistant message.

    Raises:
        ValueError: if it is neither a string nor a list of one message with string content.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and len(completion) == 1:
        message = completion[0]
        if isinstance(message, Mapping) and isinstance(message.get("content"), str):
            return str(message["content"])
    raise ValueError(
        f"completion {repr(completion)[:80]}: a reward reads a string or a list of one message; "
        'pass text or [{"role": "assistant", "content": text}]'
    )


def answer_text(text: str) -> str:
    """Content of the last complete `<answer>...</answer>` in text, or all of text without one.

    Nested tags give the innermost content. Only the last 65,536 characters are searched, so
    the cost is bounded whatever the model wrote.
    """
    tail = text[-ANSWER_SEARCH_CHARACTERS:]
    close = tail.rfind(ANSWER_CLOSE)
    start = tail.rfind(ANSWER_OPEN, 0, close) if close >= 0 else -1
    if start < 0:
        return text
    start += len(ANSWER_OPEN)
    return tail[start : tail.find(ANSWER_CLOSE, start)]


def tagged_answer(reasoning: str, answer: str) -> str:
    """Completion in the d1 format: reasoning, then answer, each in its tags."""
    return f"<reasoning>\n{reasoning}\n</reasoning>\n{ANSWER_OPEN}\n{answer}\n{ANSWER_CLOSE}"


def user_prompt(content: str) -> list[dict[str, str]]:
    """Conversational prompt of one user message."""
    return [{"role": "user", "content": content}]


def score_rows(
    score: Callable[..., Score],
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    needed: Sequence[str],
) -> list[Score | None]:
    """Apply score(text, *values) to each completion and its values of the needed columns.

    Returns:
        One score per completion, or what else `score` returns; None where a column holds None
        (another task's row).

    Raises:
        ValueError: if a needed column is missing or its length is not that of completions.
    """
    for name in needed:
        if name not in columns:
            raise ValueError(
                f"column {name!r} is missing: this reward reads {', '.join(needed)}; "
                "keep the columns that the task's build() returns"
            )
        if len(columns[name]) != len(completions):
            raise ValueError(
                f"column {name!r} has {len(columns[name])} rows for {len(completions)} "
                "completions: a reward needs one row each; repeat rows per generation"
            )
    rows = zip(*(columns[name] for name in needed), strict=True)
    return [
        None if any(value is None for value in row) else score(completion_text(completion), *row)
        for completion, row in zip(completions, rows, strict=True)
    ]


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError, naming the choices and the nearest one, unless value is among them."""
    known = list(choices)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    remedy = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{what} {value!r} is not one of {', '.join(known) or 'none'}{remedy}")


def check_integer(what: str, value: int, low: int, high: int | None = None) -> None:
    """Raise ValueError unless value is an int (not a bool) with low <= value <= high."""
    if type(value) is int and low <= value and (high is None or value <= high):
        return
    rule = f"at least {low}" if high is None else f"between {low} and {high}"
    raise ValueError(f"{what}={value!r}: must be an integer {rule}; choose one in that range")


def check_noise(noise: float) -> None:
    """Raise ValueError unless noise is a probability."""
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise={noise!r}: must be a probability; choose a value between 0 and 1")
