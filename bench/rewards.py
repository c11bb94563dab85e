"""Rewards per second of every task, on completions that are right, nearly right and wrong.

python bench/rewards.py         # prints one line per task
"""

from __future__ import annotations

import argparse
import sys
import time

from unmask.tasks import get_task
from unmask.tasks.math_pool import shared_pool
from unmask.tasks.show import example_row, graded_answers


def rate(name: str, seconds: float, **options: object) -> float:
    task = get_task(name, **options)
    prompt = task.prompts[0]
    row = example_row(task, prompt)
    texts = [text for _, text, _, _ in graded_answers(task, prompt)] * 20
    columns = {key: [value] * len(texts) for key, value in row.items() if key != "prompt"}
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        task.reward(None, texts, **columns)
        count += len(texts)
    return count / (time.perf_counter() - began)


def symbolic_rate(count: int) -> float:
    """Pairs of answers that are no plain numbers, each one other than those before."""
    pool = shared_pool()
    pool.equal([("2", "3")])
    pairs = [(f"{n + 2}\\sqrt{{2}}", f"\\sqrt{{{2 * (n + 2) ** 2}}}") for n in range(count)]
    began = time.perf_counter()
    assert all(pool.equal(pairs))
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    for name in ("countdown", "sudoku", "sudoku9", "gsm8k"):
        sys.stdout.write(f"{name:<12} {rate(name, seconds):>10,.0f} rewards/s\n")
    sys.stdout.write(f"{'math-verify':<12} {symbolic_rate(400):>10,.0f} pairs/s\n")


if __name__ == "__main__":
    main()
