"""The parts of pytest and unittest that published test sets use, for a judge without pytest."""

from __future__ import annotations

import math
import re
import sys
import types
import unittest
from collections.abc import Callable, Iterable
from typing import Any


class Raises:
    """`with raises(ValueError, match=...)`; an exception class of the program's is known too."""

    def __init__(self, expected: Any, match: str | None = None) -> None:
        self._expected = expected if isinstance(expected, tuple) else (expected,)
        self._match = match
        self.value: BaseException | None = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if error is None:
            raise AssertionError("nothing was raised")
        own = getattr(error, "candidate_classes", [])
        if not any(
            isinstance(error, item) if isinstance(item, type) else item._handle in own
            for item in self._expected
        ):
            return False
        if self._match is not None and re.search(self._match, str(error)) is None:
            raise AssertionError("the message does not match")
        self.value = error
        return True


def raises(expected: Any, *args: Any, match: str | None = None, **kwargs: Any) -> Any:
    """pytest.raises, as a context or with a function to call."""
    context = Raises(expected, match)
    if not args:
        return context
    with context:
        args[0](*args[1:], **kwargs)
    return context


class Approx:
    """pytest.approx of numbers and of lists, tuples and dicts of them."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None) -> None:
        self._expected = expected
        self._rel = 1e-6 if rel is None and abs is None else rel or 0.0
        self._abs = 1e-12 if abs is None else abs

    def __eq__(self, other: object) -> bool:
        return self._near(self._expected, other)

    __hash__ = None  # type: ignore[assignment]

    def _near(self, expected: Any, actual: Any) -> bool:
        if isinstance(expected, dict):
            return (
                type(actual) is dict
                and actual.keys() == expected.keys()
                and all(self._near(value, actual[key]) for key, value in expected.items())
            )
        if isinstance(expected, list | tuple):
            return (
                type(actual) is type(expected)
                and len(actual) == len(expected)
                and all(map(self._near, expected, actual))
            )
        if isinstance(expected, int | float) and isinstance(actual, int | float):
            return expected == actual or math.isclose(
                expected, actual, rel_tol=self._rel, abs_tol=self._abs
            )
        return bool(expected == actual)


def parametrize(names: str | Iterable[str], values: Iterable[Any], **_: Any) -> Any:
    """pytest.mark.parametrize: one test a row."""
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def mark(function: Any) -> Any:
        rows = [dict(zip(keys, [v] if len(keys) == 1 else v, strict=True)) for v in values]
        before = getattr(function, "rows", [{}])
        function.rows = [a | b for a in before for b in rows]
        return function

    return mark


def install() -> None:
    """Make `import pytest` give these parts, where it would give none."""
    module: Any = types.ModuleType("pytest")
    module.raises, module.approx = raises, Approx
    module.mark = types.SimpleNamespace(parametrize=parametrize)
    module.fail = _fail
    sys.modules["pytest"] = module


def tests_of(names: dict[str, Any]) -> list[Callable[[], Any]]:
    """Test functions and methods of test cases, in the order of their definition."""
    found: list[Callable[[], Any]] = []
    for name, value in names.items():
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            methods = unittest.TestLoader().getTestCaseNames(value)
            found += [_case(value, method) for method in methods]
        elif isinstance(value, type) and name.startswith("Test"):
            methods = [method for method in vars(value) if method.startswith("test")]
            found += [_method(value, method) for method in methods]
        elif name.startswith("test") and isinstance(value, types.FunctionType):
            found += [_function(value, row) for row in getattr(value, "rows", [{}])]
    return found


def _function(function: Callable[..., Any], row: dict[str, Any]) -> Callable[[], Any]:
    return lambda: function(**row)


def _method(kind: type, name: str) -> Callable[[], Any]:
    def run() -> None:
        case = kind()
        if hasattr(case, "setup_method"):
            case.setup_method()
        for row in getattr(getattr(case, name), "rows", [{}]):
            getattr(case, name)(**row)

    return run


def _case(kind: type[unittest.TestCase], name: str) -> Callable[[], Any]:
    def run() -> None:
        result = unittest.TestResult()
        kind(name).run(result)
        if not result.wasSuccessful() or result.testsRun != 1 or result.skipped:
            raise AssertionError([text for _, text in result.errors + result.failures][:1])

    return run


def _fail(reason: str = "") -> None:
    raise AssertionError(reason)
