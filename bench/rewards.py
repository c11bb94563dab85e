"""Rewards per second of each task, and what a sandboxed program costs.

    python bench/rewards.py

Completions are right and wrong in turn. Programs are all different, so that none is remembered.
The goals are for two idle cores. What else the machine does shows in the load average; the last
column, processor time of this process alone, does not depend on it (programs run in others).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from unmask.tasks import get_task
from unmask.tasks.sandbox import Program, Sandbox, SandboxError, SandboxSettings

GOALS = {"countdown": 20_000, "sudoku": 20_000, "code": 20}


def text_task(name: str, rows: int) -> tuple[int, Callable[[], Any]]:
    """Work of one repeat of a task that generates problems with solutions."""
    task = get_task(name)
    columns = task.build("train", size=rows, seed=0).to_dict()
    columns.pop("prompt")
    texts = [
        f"<answer>{text if index % 2 else text[::-1]}</answer>"
        for index, text in enumerate(columns["solution"])
    ]
    return rows, lambda: task.reward(None, texts, **columns)


def code_task(rows: int) -> tuple[int, Callable[[], Any]]:
    """Work of one repeat of the code task: programs of the packaged sample, made different."""
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


def start_milliseconds(repeats: int) -> float:
    """Median wall clock of one program that does nothing, from nothing to its verdict."""
    program = Program("def f(): return 1", ("assert f() == 1",), names={"f": "f"})
    with Sandbox(SandboxSettings(workers=1)) as sandbox:
        sandbox.run([program])
        return statistics.median(v.seconds for v in sandbox.run([program] * repeats)) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="completions of a text task")
    parser.add_argument("--programs", type=int, default=48, help="programs of the code task")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    console = Console()
    table = Table("task", "rewards/s", "goal", "per processor second")
    works = {name: text_task(name, options.rows) for name in ("countdown", "sudoku")}
    try:
        works["code"] = code_task(options.programs)
        works["code"][1]()
        console.print(f"one program, start to verdict: {start_milliseconds(15):.0f} ms")
    except SandboxError as error:
        works.pop("code", None)
        console.print(str(error))
    for name, (rows, work) in works.items():
        work()
        rates, own = [], []
        for _ in range(options.repeats):
            began, spent = time.perf_counter(), time.process_time()
            work()
            rates.append(rows / (time.perf_counter() - began))
            own.append(rows / (time.process_time() - spent))
        rate, alone = (f"{statistics.median(values):,.0f}" for values in (rates, own))
        table.add_row(name, rate, f"{GOALS[name]:,}", "" if name == "code" else alone)
    console.print(table)
    load, count = os.getloadavg()[0], len(os.sched_getaffinity(0))
    console.print(f"{count} cores, load average {load:.1f} (all programs of this machine)")


if __name__ == "__main__":
    main()
