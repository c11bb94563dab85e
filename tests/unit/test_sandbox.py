"""The sandbox's interface: order, limits, what tests may do with a program, and honest refusals."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from unmask.recipe import load_config
from unmask.tasks.sandbox import Program, Sandbox, SandboxError, SandboxSettings, seccomp
from unmask.tasks.sandbox.pool import OVERTIME

needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None,
    reason="bubblewrap is not installed (apt-get install bubblewrap)",
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(backend="bubblewrap", time_limit=4.0, workers=2)) as pool:
        yield pool


def passed(sandbox: Sandbox, code: str, *tests: str, **names: str) -> tuple[bool, ...]:
    [verdict] = sandbox.run([Program(code, tests, names=names or {"f": "f"})])
    return verdict.passed


@needs_bubblewrap
def test_verdicts_come_in_the_order_of_the_programs(sandbox: Sandbox) -> None:
    programs = [
        Program(f"def f(): return {i}", (f"assert f() == {i if i % 3 else -1}",), names={"f": "f"})
        for i in range(12)
    ]
    assert [v.solved for v in sandbox.run(programs)] == [i % 3 != 0 for i in range(12)]
    assert sandbox.run([]) == []


@needs_bubblewrap
def test_the_process_that_waits_for_a_program_is_fresh_and_replaced_where_it_died() -> None:
    keep = (
        "import os, pathlib\nold = os.path.exists('/tmp/kept')\npathlib.Path('/tmp/kept').touch()"
    )
    # No other test's: orphans are looked for too.
    memory = 300 + os.getpid() % 200
    settings = SandboxSettings(backend="bubblewrap", time_limit=4.0, workers=1, memory=memory)
    with Sandbox(settings) as pool:
        assert passed(pool, f"{keep}\ndef f(): return old", "assert f() is False") == (True,)
        waiting = candidates(settings)
        assert waiting
        assert passed(pool, f"{keep}\ndef f(): return old", "assert f() is False") == (True,)
        replaced = candidates(settings)
        assert replaced and not waiting & replaced
        for child in replaced:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        while candidates(settings, patience=0):
            time.sleep(0.05)
        # A process that ends gives up its memory, and so its name, before its end of a line.
        time.sleep(1.0)
        assert passed(pool, "def f(): return 1", "assert f() == 1") == (True,)
    assert candidates(settings, patience=0) == set()


def candidates(settings: SandboxSettings, patience: float = 20) -> set[psutil.Process]:
    """The processes that hold a program, or wait for one, with these limits."""
    limits = str(settings.memory << 20)
    deadline = time.monotonic() + patience
    found: set[psutil.Process] = set()
    while not found and time.monotonic() <= deadline:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                line = process.cmdline()
                if limits in line and any("import candidate" in word for word in line):
                    found.add(process)
    return found


@needs_bubblewrap
def test_tests_before_a_hang_count_and_those_behind_it_fail(sandbox: Sandbox) -> None:
    code = "def f(x):\n    while x == 2: pass\n    return x"
    tests = tuple(f"assert f({x}) == {x}" for x in (0, 1, 2, 3))
    [verdict] = sandbox.run([Program(code, tests, names={"f": "f"})])
    assert verdict.passed == (True, True, False, False)
    assert verdict.fraction == 0.5 and not verdict.solved
    assert verdict.reason == OVERTIME


@needs_bubblewrap
@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(x): return x[::-1]", "assert f((1, 'a', None)) == (None, 'a', 1)"),
        ("def f(x): return x", "for v in (1.5, 2**200, b'x', {1: [2]}, {3}, 1j): assert f(v) == v"),
        ("def f(x): return x", "import math; assert math.isnan(f(float('nan'))) and f(math.inf) > 0"),
        ("def f(x): return x", "assert f('é\\ud800😀') == 'é\\ud800😀'"),
        ("def f(x): return x", "assert f(True) is True and type(f(1)) is int"),
        ("from fractions import Fraction\ndef f(a, b): return Fraction(a, b)",
         "from fractions import Fraction\nassert f(2, 4) == Fraction(1, 2)"),
        ("from collections import Counter\ndef f(t): return Counter(t)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("import datetime\ndef f(y): return datetime.date(y, 1, 2)", "import datetime\nassert f(2020) == datetime.date(2020, 1, 2)"),
        ("def f(x): x.sort()", "x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]"),
        ("def f(g, x): return g(g(x))", "assert f(lambda x: x * 3, 2) == 18"),
        ("def f(g): return g(len)", "assert f(lambda h: h([1, 2])) == 2"),
        ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n        return n\n    return g",
         "g = f()\nassert [g(), g(), g()] == [1, 2, 3]"),
        ("async def f(x): return x + 1", "import asyncio\nassert asyncio.run(f(1)) == 2"),
        ("def f(x): raise KeyError('k')", "try: f(1)\nexcept KeyError as e: assert 'k' in str(e)\nelse: assert False"),
        ("def f(): return print", "assert f() is print"),
        ("f = lambda *a, k=0, **r: (a, k, r)", "assert f(1, 2, k=3, z=4) == ((1, 2), 3, {'z': 4})"),
    ],
)  # fmt: skip
def test_plain_data_exceptions_and_functions_cross(sandbox: Sandbox, code: str, test: str) -> None:
    assert passed(sandbox, code, test) == (True,)


STACK = """
class Empty(Exception): pass
class Stack:
    def __init__(self, items=()): self.items = list(items)
    def push(self, item): self.items.append(item); return self
    def pop(self):
        if not self.items: raise Empty("no items")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, i): return self.items[i]
    def __str__(self): return f"Stack({self.items})"
    def __enter__(self): return self
    def __exit__(self, *_): self.items.clear()
def make(): return Stack([7])
"""


@needs_bubblewrap
def test_tests_of_classes_work_over_handles(sandbox: Sandbox) -> None:
    tests = (
        "s = Stack()\ns.push(1).push(2)\nassert (len(s), s[0], s.pop(), list(s)) == (2, 1, 2, [1])",
        "assert str(Stack([1])) == 'Stack([1])' and 1 in Stack([1])",
        "assert isinstance(make(), Stack) and not isinstance(3, Stack)",
        "s = make()\ns.note = [4]\nassert s.note == [4] and s is not None",
        "with Stack([1]) as s: assert len(s) == 1\nassert len(s) == 0",
        "import pytest\nfrom solution import Empty\nwith pytest.raises(Empty, match='no'): Stack().pop()",
        "assert len(Stack([1])) == 2",
        "import pytest\nwith pytest.raises(ValueError): Stack().pop()",
    )
    names = {"Stack": "Stack", "make": "make"}
    assert passed(sandbox, STACK, *tests, **names) == (True,) * 6 + (False,) * 2


@needs_bubblewrap
def test_pytest_and_unittest_files_count_each_test(sandbox: Sandbox) -> None:
    test = """
import unittest, pytest
from solution import f
def test_right(): assert f(2) == 4
def test_wrong(): assert f(2) == 5
@pytest.mark.parametrize("x, y", [(1, 2), (3, 6), (4, 9)])
def test_rows(x, y): assert f(x) == y
class TestCase(unittest.TestCase):
    def test_a(self): self.assertEqual(f(5), 10)
    def test_b(self): self.assertAlmostEqual(f(0.5), 1.1)
class TestPlain:
    def test_c(self): assert f(0.1) == pytest.approx(0.2)
"""
    found = passed(sandbox, "def f(x): return 2 * x", test)
    assert found == (True, False, True, True, False, True, False, True)


@needs_bubblewrap
@pytest.mark.parametrize(
    "test",
    [
        "assert f(1)",
        "assert f(1).startswith('a')",
        "assert f(1).issubset({1})",
        "assert f(1) == f(1) + 1",
        "assert abs(f(1) - 3.14) < 1e-6",
        "assert 3.14 in [f(1)]",
        "assert f(1) < 4 and f(1) > 2",
        "import math; assert math.isclose(f(1), 3.14)",
        "assert f(1).inner.startswith('a')",
    ],
)
def test_an_object_that_agrees_with_everything_passes_nothing(sandbox: Sandbox, test: str) -> None:
    code = """
class Yes:
    def __getattr__(self, name): return Yes()
    def __call__(self, *a, **k): return self
    def __bool__(self): return True
for name in "eq ne lt le gt ge add sub radd rsub abs contains float".split():
    setattr(Yes, f"__{name}__", lambda self, *a: True)
f = Yes()
"""
    assert passed(sandbox, code, test) == (False,)
    assert passed(sandbox, code.replace("f = Yes()", "def f(x): return Yes()"), test) == (False,)


@needs_bubblewrap
def test_a_program_does_not_see_its_tests_or_another_program(sandbox: Sandbox) -> None:
    code = """
import gc, os
open("/tmp/seen", "a").write("x")
def f(): return len(open("/tmp/seen").read()), os.listdir("/tmp"), sorted(os.environ)
"""
    test = "n, files, names = f()\nassert (n, files) == (1, ['seen'])\nassert 'HOME' in names and len(names) < 12"
    programs = [Program(code, (test,), names={"f": "f"})] * 4
    assert [verdict.reason for verdict in sandbox.run(programs)] == [""] * 4


@needs_bubblewrap
def test_a_scorer_gives_a_number_between_0_and_1_or_a_reason(sandbox: Sandbox) -> None:
    calls = [("0.25",), ("2",), ("nan",), ("x",), ("1",)]
    outcomes = sandbox.score("builtins:float", calls)
    assert [outcome.value for outcome in outcomes] == [0.25, None, None, None, 1.0]
    assert "outside of 0 to 1" in outcomes[1].reason
    assert outcomes[3].reason.startswith("ValueError")


@needs_bubblewrap
def test_a_scorer_that_hangs_or_dies_costs_its_call_alone(sandbox: Sandbox) -> None:
    texts = [
        "0.5",
        "__import__('time').sleep(99)",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "[0] * 10**12",
        "__import__('os')._exit(0)",
        "__import__('os').system('sleep 9971 &') or 0.125",
        "float(__import__('os').path.exists('/tmp/left'))",
        "open('/tmp/left', 'w').write('x') / 2",
        "float(__import__('os').path.exists('/tmp/left'))",
        "1.0",
    ]
    began = time.monotonic()
    values = [outcome.value for outcome in sandbox.score("builtins:eval", [(t,) for t in texts])]
    assert values == [0.5, None, None, None, None, 0.125, 0.0, 0.5, 0.0, 1.0]
    assert time.monotonic() - began < 25
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "sleep 9971" not in left.splitlines()


@needs_bubblewrap
def test_closing_ends_every_process() -> None:
    pool = Sandbox(SandboxSettings(backend="bubblewrap", workers=1))
    pool.run([Program("", ("pass",))])
    pids = [worker._server.pid for worker in pool._all if worker._server]
    assert len(pids) == 1 and os.path.exists(f"/proc/{pids[0]}")
    pool.close()
    assert not os.path.exists(f"/proc/{pids[0]}")


@needs_bubblewrap
def test_a_scorer_module_that_is_missing_is_named() -> None:
    with (
        Sandbox(SandboxSettings(workers=1), modules=["no_such_module"]) as pool,
        pytest.raises(SandboxError, match="no_such_module"),
    ):
        pool.score("no_such_module:f", [()])


def test_the_subprocess_backend_keeps_the_same_protocol() -> None:
    settings = SandboxSettings(backend="subprocess", allow_unsafe=True, time_limit=3, workers=1)
    code = "def f(x):\n    while x > 1: pass\n    return x"
    with Sandbox(settings) as pool:
        assert passed(pool, code, "assert f(1) == 1", "assert f(2) == 2") == (True, False)
        assert passed(pool, code + "\nexit()", "assert f(1) == 1") == (False,)


# --- refusals -----------------------------------------------------------------------------------


def test_a_missing_backend_names_the_package_and_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for backend in ("auto", "bubblewrap"):
        with pytest.raises(SandboxError, match="bubblewrap is not installed: apt-get install"):
            SandboxSettings(backend=backend).resolve()
    assert SandboxSettings(allow_unsafe=True).resolve() == "subprocess"
    with pytest.raises(SandboxError, match=r"set sandbox\.allow_unsafe=true"):
        SandboxSettings(backend="subprocess").resolve()
    monkeypatch.setitem(sys.modules, "e2b", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SandboxError, match="pip install e2b"):
        SandboxSettings(backend="e2b").resolve()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sandbox.backend=docker", "sandbox.backend='docker'"),
        ("sandbox.time_limit=0", "time_limit=0"),
        ("sandbox.time_limit=.inf", "time_limit"),
        ("sandbox.memory=1", "memory=1 is too small: give at least 64"),
        ("sandbox.workers=0", "workers=0 is too small: give at least 1"),
        ("sandbox.allow_unsave=true", "sandbox.allow_unsave is an unknown key"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        load_config(["sudoku-tiny", override], "train")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_that_needs_a_sandbox_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    recipe = tmp_path / "code.yaml"
    recipe.write_text("command: train\ntask: {name: code}\n")
    code = (
        "import shutil, sys\n"
        "shutil.which = lambda name: None\n"
        "from unmask.cli import main\n"
        "try:\n"
        f"    main(['train', {str(recipe)!r}])\n"
        "except SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert "apt-get install bubblewrap" in " ".join(done.stderr.split())


def test_the_filter_is_known_for_two_machines_and_refused_for_others() -> None:
    lengths = [len(seccomp.program(machine)) for machine in ("x86_64", "aarch64")]
    assert lengths[0] == lengths[1] and lengths[0] % 8 == 0 and lengths[0] // 8 < 4096
    with pytest.raises(ValueError, match="'riscv64' has no system call filter"):
        seccomp.program("riscv64")


# --- e2b ----------------------------------------------------------------------------------------


class FakeMachine:
    """The part of e2b's `Sandbox` that is used, with a local process for the remote one."""

    killed = 0

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.files = self.commands = self

    def write(self, path: str, text: str) -> None:
        target = self.folder / path.rpartition("/")[2]
        target.write_text(text)

    def run(self, command: str, *, background: bool, stdin: bool, timeout: float) -> Any:
        assert background and stdin and timeout > 0
        command = command.replace("/tmp/unmask", str(self.folder)).replace(
            "python3", sys.executable
        )
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, shell=True, stdin=pipe, stdout=pipe)
        output = self.process.stdout
        assert output is not None
        stream = ((line.decode(), None, None) for line in iter(output.readline, b""))
        return _Handle(self.process.pid, stream)

    def send_stdin(self, pid: int, text: str) -> None:
        assert pid == self.process.pid and self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def kill(self) -> None:
        FakeMachine.killed += 1
        self.process.kill()


class _Handle:
    def __init__(self, pid: int, stream: Iterator[Any]) -> None:
        self.pid, self._stream = pid, stream

    def __iter__(self) -> Iterator[Any]:
        return self._stream


def test_e2b_carries_the_line_to_a_machine_per_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    created = []

    def create(timeout: int) -> FakeMachine:
        created.append(FakeMachine(tmp_path_factory.mktemp("machine")))
        return created[-1]

    module: Any = types.ModuleType("e2b")
    module.Sandbox = types.SimpleNamespace(create=create)
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "e2b", module)
    monkeypatch.setenv("E2B_API_KEY", "none")
    with Sandbox(SandboxSettings(backend="e2b", workers=1, time_limit=3)) as pool:
        assert passed(pool, "def f(x): return x + 1", "assert f(1) == 2") == (True,)
        assert passed(pool, "import os\nos._exit(0)", "assert f(1) == 2") == (False,)
    assert len(created) == FakeMachine.killed == 2


def test_sockets_are_all_that_a_program_is_given() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        settings = SandboxSettings(backend="subprocess", allow_unsafe=True, workers=1)
        code = "import os\ndef f(): return [fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}')]"
        with Sandbox(settings) as pool:
            assert passed(pool, code, "assert len(f()) <= 3") == (True,)
