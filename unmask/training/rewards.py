"""Rewards: load them by name, call them in TRL's signature, check and combine what they return."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import in_one_line

RewardFunction = Callable[..., Sequence[float | None]]


class RewardError(ValueError):
    """A reward that raised, or returned what is no list of scores."""


@dataclass(frozen=True)
class RewardTerm:
    """A reward function and its factor in the sum.

    Attributes:
        name: for metrics and messages.
        function: `(prompts, completions, completion_ids, **columns) -> list[float | None]`, which
            may be async.
        weight: factor.
    """

    name: str
    function: RewardFunction
    weight: float = 1.0


def load_function(reference: str) -> RewardFunction:
    """The callable behind "module:name"; modules in the working directory are found too.

    Raises:
        RewardError: if there is no such module or callable.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise RewardError(f"reward.function={reference!r}: write module:name")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RewardError(
            f"reward.function={reference!r} cannot be imported ({_told(error)}): run where "
            "the module can be found, install it, or mend it"
        ) from error
    function = getattr(module, name, None)
    if function is None:
        raise RewardError(
            f"reward.function={reference!r}: module {module_name} has no {name}; name one of its "
            "functions"
        )
    if not callable(function):
        raise RewardError(f"reward.function={reference!r} is no callable: name a function")
    return function


def score(
    terms: Sequence[RewardTerm],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
) -> tuple[list[float], dict[str, list[float | None]]]:
    """Weighted sum of all terms for each completion, and each term's own values.

    Args:
        terms: at least one.
        prompts: one per completion.
        completions: text, or a list of one message where the prompt is one of messages.
        completion_ids: token ids of each.
        columns: the other columns of the data set, one value per completion.

    Returns:
        The sums, NaN where no term scored, and the values by term, None where not scored; a
        second term of the same name is called name_2.

    Raises:
        RewardError: if a term raises, or returns a wrong number of values, NaN or no numbers; or
            if the sum is not finite.
    """
    results = [_call(term, prompts, completions, completion_ids, columns) for term in terms]
    totals = []
    for row in range(len(completions)):
        parts = [
            term.weight * value
            for term, values in zip(terms, results, strict=True)
            if (value := values[row]) is not None
        ]
        totals.append(_total(parts, row) if parts else math.nan)
    return totals, dict(zip(_distinct([term.name for term in terms]), results, strict=True))


def _total(parts: Sequence[float], row: int) -> float:
    try:
        total = math.fsum(parts)
    except OverflowError:
        total = math.inf
    if not math.isfinite(total):
        raise RewardError(
            f"the weighted rewards of completion {row} add up to {total}: scale them down, or "
            "lower reward.weight"
        )
    return total


def _distinct(names: Sequence[str]) -> list[str]:
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [
        f"{name}_{count}" if count > 1 else name for name, count in zip(names, counts, strict=True)
    ]


def _call(
    term: RewardTerm,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
) -> list[float | None]:
    try:
        result: Any = term.function(
            prompts=prompts, completions=completions, completion_ids=completion_ids, **columns
        )
        if inspect.isawaitable(result):
            result = _awaited(result)
    except Exception as error:
        raise RewardError(
            f"reward {term.name!r} raised {_told(error)}; it was given {len(completions)} "
            f"completions and the columns {', '.join(columns) or 'none'}: return None for what "
            "cannot be scored"
        ) from error
    if not hasattr(result, "__len__") or len(result) != len(completions):
        size = len(result) if hasattr(result, "__len__") else type(result).__name__
        raise RewardError(
            f"reward {term.name!r} returned {size} values for {len(completions)} completions: "
            "return one number or None for each"
        )
    return [_number(term.name, row, value, completions[row]) for row, value in enumerate(result)]


def _awaited(result: Awaitable[Any]) -> Any:
    """What an async reward returns, on a loop of its own: the caller may run in one already."""

    async def wait() -> Any:
        return await result

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()


def _number(name: str, row: int, value: Any, completion: Any) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise RewardError(
            f"reward {name!r} returned {' '.join(repr(value).split())[:80]} for completion {row} "
            f"({repr(completion)[:80]}): return a finite number, or None for not scored"
        )
    return number


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {in_one_line(error)}"
