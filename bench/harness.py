"""Runs variants of a bench in fresh processes, alternating, and prints medians and ratios."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table

CPU = torch.device("cpu")


def measure(work: Callable[[], None], repeats: int, device: torch.device = CPU) -> dict[str, float]:
    """Median seconds of `work` after one warm-up, and the peak memory that it takes in MiB.

    Memory is counted from before the warm-up, so that imports and weights are left out: resident
    memory on a CPU, torch's own count on a GPU.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = _used(device)
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "peak_mib": _peak(device) - before}


def report(result: dict[str, float]) -> None:
    """Hand a child's result to the parent."""
    sys.stdout.write(json.dumps(result) + "\n")


def compare(
    script: str, variants: Sequence[str], options: Sequence[str], *, rounds: int, tokens: int
) -> None:
    """Run `script --variant NAME` for each variant in turn, `rounds` times; print the table.

    Args:
        script: path of the bench.
        variants: the first is the baseline.
        options: passed on to the child.
        rounds: fresh processes per variant.
        tokens: work of one repeat, for tokens per second.
    """
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name in variants:
            command = [sys.executable, script, "--variant", name, *options]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
    }
    baseline = medians[variants[0]]
    table = Table("variant", "seconds", "tokens/s", "peak MiB", "speed", "memory")
    for name, row in medians.items():
        table.add_row(
            name,
            f"{row['seconds']:.3f}",
            f"{tokens / row['seconds']:,.0f}",
            f"{row['peak_mib']:.0f}",
            f"{baseline['seconds'] / row['seconds']:.2f}x",
            f"{row['peak_mib'] / max(baseline['peak_mib'], 1e-9):.2f}x",
        )
    Console().print(table)


def _used(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    return _peak(device)


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
