"""Imports run downward only: every file of the package is parsed and held to a table of rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "unmask"
FILES = sorted(PACKAGE.rglob("*.py"))

MATHEMATICS = (
    "maskings",
    "maskings_trajectory",
    "likelihood",
    "advantages",
    "estimators",
    "objectives",
)
PARTS = ("models", "sampling", "tasks")
SCHEMA = ("schema", "config", "recipe", "provenance")
LIBRARY = ("errors", *MATHEMATICS, *PARTS, "generation", *SCHEMA)
LOOP = ("training", "evaluation")
TOP = ("cli", "package", "watch", "chat", "diagnosis", "lm_eval")

# Room -> the other rooms that it may import. "package" is unmask/__init__.py itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "maskings": (),
    "maskings_trajectory": ("maskings",),
    "advantages": (),
    "likelihood": ("maskings",),
    "estimators": ("maskings", "maskings_trajectory", "likelihood"),
    "objectives": ("maskings", "likelihood", "advantages", "estimators"),
    "models": ("errors", *MATHEMATICS),
    "sampling": ("errors", *MATHEMATICS),
    "tasks": ("errors", *MATHEMATICS),
    "generation": ("errors", *MATHEMATICS, *PARTS),
    "schema": (),
    "config": ("errors", *MATHEMATICS, *PARTS, "schema"),
    "recipe": ("errors", *MATHEMATICS, *PARTS, "schema", "config"),
    "provenance": ("errors", "schema", "config", "recipe"),
    "evaluation": (*LIBRARY, *LOOP),
    "training": (*LIBRARY, *LOOP),
    "report": (*LIBRARY, *LOOP),
    "study": (*LIBRARY, *LOOP, "report"),
    "diagnosis": (*LIBRARY, *LOOP, "report"),
    "watch": (*LIBRARY, *LOOP),
    "lm_eval": (*LIBRARY, *LOOP),
    "chat": (*LIBRARY, *LOOP, "watch"),
    "cli": (*LIBRARY, *LOOP, "report", "study", *TOP),
    "package": (*LIBRARY, *LOOP, "report", "study", *TOP),
    "__main__": (*LIBRARY, *LOOP, "report", "study", *TOP),
}
ONLY_TORCH = frozenset(MATHEMATICS)
HEAVY = frozenset({"torch", "transformers", "accelerate", "datasets", "peft"})


def module_name(path: Path) -> str:
    """Dotted name of a file of the package, without `.__init__`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = frozenset(map(module_name, FILES))
KNOWN = MODULES | {f"unmask.{room}" for room in MAY_IMPORT}


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, inside functions and type-checking blocks too."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            # `from unmask import x` names a room where x is a module, and the package where not.
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if name in KNOWN else base
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"import_module", "importlib.import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def room_of(module: str) -> str:
    """The room of a module of the package: its first part below `unmask`."""
    _, *inner = module.split(".")
    return inner[0] if inner else "package"


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """One line for each import that the table forbids."""
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module} is in no room: say in MAY_IMPORT what it may import"]
    found = []
    for line, name in imported_modules(source, module, is_package):
        root = name.partition(".")[0]
        if root == "unmask":
            target = room_of(name)
            allowed = target == room or target in MAY_IMPORT[room]
        elif room in ONLY_TORCH:
            allowed = root == "torch" or root in sys.stdlib_module_names
        elif room == "errors":
            allowed = root in sys.stdlib_module_names
        else:
            allowed = room not in SCHEMA or root not in HEAVY
        if not allowed:
            found.append(f"{module}:{line} must not import {name}")
    return found


def test_the_package_has_files_to_check() -> None:
    assert {"unmask.maskings", "unmask.likelihood", "unmask.advantages"} <= MODULES


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_downward_only(path: Path) -> None:
    found = violations(path.read_text("utf-8"), module_name(path), path.name == "__init__.py")
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("unmask.models.loading", "import unmask.training"),
        ("unmask.models.loading", "from unmask import training"),
        ("unmask.models.loading", "from .. import config"),
        ("unmask.models.loading", "from ..sampling.orders import ORDERS"),
        ("unmask.models.loading", "def f():\n    from unmask.cli import main"),
        ("unmask.models.loading", "import importlib\nimportlib.import_module('unmask.tasks')"),
        ("unmask.models.loading", "if TYPE_CHECKING:\n    from unmask.evaluation import evaluate"),
        ("unmask.tasks.sudoku", "from unmask import Trainer"),
        ("unmask.training.loop", "from unmask.report.page import write_report"),
        ("unmask.likelihood", "from unmask.objectives.base import Objective"),
        ("unmask.maskings", "import numpy"),
        ("unmask.objectives.espo", "from unmask.errors import ConfigError"),
        ("unmask.config", "def f():\n    import torch.distributed"),
        ("unmask.config", "from unmask.recipe import find_recipe"),
        ("unmask.errors", "import torch"),
        ("unmask.attic", "import math"),
    ],
)
def test_a_forbidden_import_is_caught(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("unmask.models.loading", "from .families import FAMILIES\nfrom . import denoiser"),
        ("unmask.training.loop", "from unmask import config, tasks\nimport transformers"),
        ("unmask.objectives.espo", "import math\nimport torch\nfrom unmask.likelihood import f"),
        ("unmask.cli", "def train():\n    from unmask import Trainer\n    import torch"),
    ],
)
def test_a_downward_import_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_a_relative_import_in_a_package_starts_at_that_package() -> None:
    assert violations("from .sampler import sample", "unmask.sampling", is_package=True) == []
    assert violations("from .training import loop", "unmask", is_package=True) == []
    assert violations("from ..tasks import TASKS", "unmask.sampling", is_package=True) != []


@pytest.mark.parametrize("module", ["unmask.config", "unmask.cli"])
def test_a_wrong_config_can_be_reported_before_torch_is_loaded(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
