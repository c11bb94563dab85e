"""Rewards per second of every task, and what a sandboxed program and a symbolic comparison cost.

    python bench/rewards.py

Completions are right, nearly right and wrong in turn. Programs and symbolic answers are all
different, so that none is remembered. The goals are for two idle cores; the last column, of
processor time, depends less on what else the machine does. Of a program it cannot be told: the
processes end with their namespaces.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from unmask.tasks import get_task
from unmask.tasks.math_pool import shared_pool
from unmask.tasks.sandbox import Program, Sandbox, SandboxError, SandboxSettings
from unmask.tasks.show import example_row, graded_answers

# Rewards per second.
GOALS = {
    "countdown": 20_000,
    "sudoku": 20_000,
    "sudoku9": None,
    "gsm8k": None,
    "math-verify": 200,
    "code": 20,
}
Work = Callable[[], Any]


def text_task(name: str, rows: int) -> tuple[int, Work]:
    """Completions of one repeat, and the work."""
    task = get_task(name)
    prompt = task.prompts[0]
    row = example_row(task, prompt)
    graded = [text for _, text, _, _ in graded_answers(task, prompt)]
    texts = graded * (rows // len(graded))
    columns = {key: [value] * len(texts) for key, value in row.items() if key != "prompt"}
    return len(texts), lambda: task.reward(None, texts, **columns)


def symbolic_answers(rows: int) -> tuple[int, Work]:
    """Pairs of equal answers that are no plain numbers."""
    pool = shared_pool()
    numbers = iter(range(2, 10**9))

    def work() -> None:
        pairs = [(f"{n}\\sqrt{{2}}", f"\\sqrt{{{2 * n**2}}}") for n in islice(numbers, rows)]
        assert all(pool.equal(pairs))

    return rows, work


def code_task(rows: int) -> tuple[int, Work]:
    """The code task: programs of the packaged sample, made different."""
    task = get_task("code")
    sample = task.build("all", size=100, seed=0).to_dict()
    sample.pop("prompt")
    columns = {
        name: [values[i % len(values)] for i in range(rows)] for name, values in sample.items()
    }
    repeat = iter(range(10**6))

    def work() -> None:
        mark = next(repeat)
        texts = [
            f"```python\n{text if i % 2 else 'x = 1'}\nmark = {mark, i}\n```"
            for i, text in enumerate(columns["solution"])
        ]
        scores = task.reward(None, texts, **columns)
        assert scores[1::2] == [1.0] * (rows // 2)
        assert set(scores[::2]) == {0.0}

    return rows, work


def processor_seconds() -> float:
    """Of this process and of the workers that it has now."""
    workers = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return time.process_time() + sum(times.user + times.system for times in workers)


def start_milliseconds(repeats: int) -> float:
    """Median wall clock of one program that does nothing, from handing it in to its verdict.

    Each waits for the last one's verdict, so that the process which takes it has started.
    """
    program = Program("def f(): return 1", ("assert f() == 1",), names={"f": "f"})
    with Sandbox(SandboxSettings(workers=1)) as sandbox:
        seconds = []
        for _ in range(repeats + 1):
            seconds += [verdict.seconds for verdict in sandbox.run([program])]
            time.sleep(0.2)
        return statistics.median(seconds[1:]) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="completions of a text task")
    parser.add_argument("--answers", type=int, default=400, help="symbolic answers")
    parser.add_argument("--programs", type=int, default=48, help="programs of the code task")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    console = Console()
    table = Table("task", "rewards/s", "goal", "per processor second")
    elsewhere = {"math-verify": symbolic_answers(options.answers)}
    texts = {
        name: text_task(name, options.rows) for name in GOALS if name not in ("math-verify", "code")
    }
    try:
        elsewhere["code"] = code_task(options.programs)
        elsewhere["code"][1]()
        console.print(f"one program, start to verdict: {start_milliseconds(15):.0f} ms")
    except SandboxError as error:
        elsewhere.pop("code", None)
        console.print(str(error))
    for name, (rows, work) in {**texts, **elsewhere}.items():
        work()
        rates, own = [], []
        spend = processor_seconds if name == "math-verify" else time.process_time
        for _ in range(options.repeats):
            began, spent = time.perf_counter(), spend()
            work()
            rates.append(rows / (time.perf_counter() - began))
            own.append(rows / (spend() - spent))
        rate, alone = (f"{statistics.median(values):,.0f}" for values in (rates, own))
        goal = GOALS[name]
        table.add_row(name, rate, f"{goal:,}" if goal else "", "" if name == "code" else alone)
    console.print(table)
    load, count = os.getloadavg()[0], len(os.sched_getaffinity(0))
    console.print(f"{count} cores, load average {load:.1f} (all programs of this machine)")


if __name__ == "__main__":
    main()
