"""Rewards: how they are found, called, checked and combined."""

import asyncio
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.config import TrainConfig
from unmask.training.rewards import RewardError, RewardTerm, load_function, score

PROMPTS = ["p", "q", "r"]
COMPLETIONS = ["a", "bb", "ccc"]
IDS = [[1], [2, 2], [3, 3, 3]]


def scored(*terms: RewardTerm, **columns: list[Any]) -> tuple[list[float], dict[str, Any]]:
    return score(terms, PROMPTS, COMPLETIONS, IDS, columns)


def returning(values: Any, weight: float = 1.0, name: str = "mine") -> RewardTerm:
    return RewardTerm(name, lambda **_: values, weight)


def refusal(term: RewardTerm, **columns: list[Any]) -> str:
    with pytest.raises(RewardError) as error:
        scored(term, **columns)
    message = str(error.value)
    assert isinstance(error.value, ValueError)
    assert "\n" not in message
    assert message.startswith(f"reward {term.name!r} ")
    return message


def test_a_reward_is_called_in_trls_signature() -> None:
    calls = []

    def reward(**given: Any) -> list[float]:
        calls.append(given)
        return [float(len(text)) for text in given["completions"]]

    totals, values = scored(RewardTerm("size", reward), answer=[7, 8, 9])
    assert totals == [1, 2, 3]
    assert values == {"size": [1, 2, 3]}
    assert calls == [
        {
            "prompts": PROMPTS,
            "completions": COMPLETIONS,
            "completion_ids": IDS,
            "answer": [7, 8, 9],
        }
    ]


def test_the_total_is_the_weighted_sum_of_what_was_scored() -> None:
    totals, values = scored(
        returning([1.0, 2.0, None], weight=0.5, name="first"),
        returning([10.0, None, None], weight=-2.0, name="second"),
    )
    assert totals[:2] == [0.5 - 20, 1.0]
    assert math.isnan(totals[2])
    assert values == {"first": [1.0, 2.0, None], "second": [10.0, None, None]}


@pytest.mark.parametrize("terms", [[returning([0, 1e308])] * 2, [returning([0, 1e308], 10.0)]])
def test_a_sum_that_overflows_is_refused_with_its_completion(terms: list[RewardTerm]) -> None:
    with pytest.raises(RewardError, match="rewards of completion 1 add up to inf: scale them"):
        score(terms, ["a", "b"], ["c", "d"], [[1], [2]], {})


def test_terms_of_the_same_name_are_kept_apart() -> None:
    totals, values = scored(
        returning([1, 1, 1], name="f"),
        returning([2, 2, 2], name="f"),
        returning([4, 4, 4], name="g"),
    )
    assert totals == [7, 7, 7]
    assert values == {"f": [1, 1, 1], "f_2": [2, 2, 2], "g": [4, 4, 4]}


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, True],
        (1.0, 0.0, 1.0),
        np.array([1.0, 0.0, 1.0], dtype=np.float32),
        torch.tensor([1.0, 0.0, 1.0]),
        [torch.tensor(1.0), np.float64(0.0), np.int64(1)],
    ],
    ids=lambda values: type(values).__name__,
)
def test_numbers_of_any_kind_are_taken(values: Any) -> None:
    totals, columns = scored(returning(values))
    assert totals == [1.0, 0.0, 1.0]
    assert [type(value) for value in columns["mine"]] == [float] * 3


def test_a_reward_that_raises_is_reported_with_its_cause_and_its_columns() -> None:
    def reward(completions: list[str], answer: list[int], **_: Any) -> list[float]:
        raise KeyError("line one\nline two")

    message = refusal(RewardTerm("mine", reward), answer=[1, 2, 3], level=[0, 0, 0])
    assert "raised KeyError: " in message
    assert "3 completions and the columns answer, level" in message


def test_a_reward_that_does_not_take_a_column_is_reported() -> None:
    def reward(prompts: Any, completions: Any, completion_ids: Any) -> list[float]:
        return [0.0] * len(completions)

    message = refusal(RewardTerm("mine", reward), answer=[1, 2, 3])
    assert "raised TypeError: " in message
    assert "answer" in message


@pytest.mark.parametrize(
    ("values", "size"), [([], "0"), ([1.0], "1"), ([1.0] * 4, "4"), (None, "NoneType"), (1, "int")]
)
def test_a_wrong_number_of_values_is_refused(values: Any, size: str) -> None:
    message = refusal(returning(values))
    assert f"returned {size} values for 3 completions" in message
    assert "return one number or None for each" in message


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ("1.0", "'1.0'"),
        ("high", "'high'"),
        ([1.0], "[1.0]"),
        ({}, "{}"),
        (1j, "1j"),
        (10**400, "1000"),
        (torch.tensor([1.0, 2.0]), "tensor([1., 2.])"),
        (torch.ones(4, 4), "tensor([[1., 1."),
        (np.array([1.0, 2.0]), "array([1., 2.])"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_finite_number_is_refused_with_its_completion(value: Any, shown: str) -> None:
    message = refusal(returning([0.0, value, 0.0]))
    assert f"returned {shown}" in message
    assert "for completion 1 ('bb'): return a finite number, or None for not scored" in message


def test_a_long_completion_is_cut_in_the_message() -> None:
    with pytest.raises(RewardError) as error:
        score([returning([math.nan])], ["p"], ["x" * 10_000], [[1]], {})
    assert len(str(error.value)) < 300


# --- finding a reward ---------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module into the working directory and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "reward_module_of_a_test"

    def write(source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield write
    sys.modules.pop(name, None)


def load_refusal(reference: str) -> str:
    with pytest.raises(RewardError) as error:
        load_function(reference)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"reward.function={reference!r}")
    return str(error.value)


def test_a_reward_is_found_in_the_working_directory(module: Callable[[str], str]) -> None:
    name = module("def f(completions, **_): return [0.5 for _ in completions]")
    term = RewardTerm("f", load_function(f"{name}:f"))
    assert scored(term)[0] == [0.5, 0.5, 0.5]


def test_a_reward_is_found_in_an_installed_module() -> None:
    assert load_function("math:fsum") is math.fsum


def test_a_working_directory_does_not_hide_installed_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, value in (("installed", 1.0), ("here", 2.0)):
        (tmp_path / folder).mkdir()
        source = f"def f(completions, **_): return [{value}] * len(completions)"
        (tmp_path / folder / "a_reward_in_two_places.py").write_text(source)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "installed")])
    monkeypatch.chdir(tmp_path / "here")
    try:
        term = RewardTerm("f", load_function("a_reward_in_two_places:f"))
    finally:
        sys.modules.pop("a_reward_in_two_places", None)
    assert scored(term)[0] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("reference", ["math", "math:", ":fsum", ""])
def test_a_reference_has_a_module_and_a_name(reference: str) -> None:
    assert load_refusal(reference).endswith("write module:name")


@pytest.mark.parametrize("reference", ["no_such_module:f", "math.nothing:f", ".math:fsum"])
def test_a_module_that_cannot_be_imported_is_refused(reference: str) -> None:
    message = load_refusal(reference)
    assert "cannot be imported (" in message
    assert "run where the module can be found" in message


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("def f(:", "SyntaxError"),
        ("raise ValueError('bad\\nday')", "ValueError: bad day"),
        ("import math; math.nothing", "AttributeError"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
    ],
)
def test_a_module_that_breaks_on_import_is_refused_with_the_cause(
    module: Callable[[str], str], source: str, cause: str
) -> None:
    assert f"cannot be imported ({cause}" in load_refusal(f"{module(source)}:f")


def test_a_name_that_is_missing_or_no_callable_is_refused() -> None:
    assert "module math has no fsumm" in load_refusal("math:fsumm")
    assert "is no callable: name a function" in load_refusal("math:pi")


def test_an_async_reward_is_awaited_inside_and_outside_of_a_loop() -> None:
    async def later(completions, **_):
        await asyncio.sleep(0)
        return [float(len(text)) for text in completions]

    def total() -> list[float]:
        return score([RewardTerm("later", later)], ["a"], ["xyz"], [[1]], {})[0]

    async def inside() -> list[float]:
        return total()

    assert total() == asyncio.run(inside()) == [3.0]


@pytest.mark.parametrize(
    "given", ["rewards:f", ["rewards:f"], [{"function": "rewards:f"}], {"function": "rewards:f"}]
)
def test_a_reward_may_be_named_in_short(given) -> None:
    assert [(t.function, t.weight) for t in TrainConfig(reward=given).reward] == [("rewards:f", 1)]
