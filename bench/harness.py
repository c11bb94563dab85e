"""What the benches share: measuring in fresh processes that alternate, medians, tables."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

CPU = torch.device("cpu")
# glibc keeps freed memory in a pool per thread, by chance more or less of it.
STEADY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
SHAPE = ("device", "vocabulary", "hidden", "layers")


def parser(doc: str, *, vocabulary: int, hidden: int, layers: int) -> argparse.ArgumentParser:
    """The options that all benches have: the random model's shape, repeats and rounds."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--variant", help="measure one variant here and print JSON")
    made.add_argument("--device", default="cpu")
    made.add_argument("--vocabulary", type=int, default=vocabulary)
    made.add_argument("--hidden", type=int, default=hidden)
    made.add_argument("--layers", type=int, default=layers)
    made.add_argument("--repeats", type=int, default=1, help="measurements per process")
    made.add_argument("--rounds", type=int, default=1, help="fresh processes per variant")
    return made


def measure(
    work: Callable[[], Any],
    repeats: int,
    device: torch.device = CPU,
    warm_up: Callable[[], Any] | None = None,
) -> dict[str, float]:
    """Median seconds of `work` after a warm-up, and the peak memory that it takes in MiB.

    Memory is counted from before the warm-up, so that imports and weights are left out: resident
    memory on a CPU, torch's own count on a GPU. The warm-up is `work` itself unless given.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = _used(device)
    (warm_up or work)()
    seconds = [seconds_of(work, device) for _ in range(repeats)]
    return {"seconds": statistics.median(seconds), "peak_mib": _peak(device) - before}


def seconds_of(work: Callable[[], Any], device: torch.device = CPU) -> float:
    """Seconds that `work` takes once."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def report(result: dict[str, float]) -> None:
    """Hand a child's result to the parent."""
    sys.stdout.write(json.dumps(result) + "\n")


def run_variants(
    script: str, variants: Sequence[dict[str, Any]], *, rounds: int, steady: bool = False
) -> list[dict[str, float]]:
    """Run a script once per variant and round, in turn; medians over the rounds.

    Args:
        script: path of the bench.
        variants: command-line options of each; True = a flag.
        rounds: fresh processes per variant.
        steady: make the allocator give memory back at once, for steady figures of memory; it
            costs time.
    """
    results: list[list[dict[str, float]]] = [[] for _ in variants]
    environment = {**os.environ, **(STEADY if steady else {})}
    for _ in range(rounds):
        for found, options in zip(results, variants, strict=True):
            command = [sys.executable, script]
            for name, value in options.items():
                if value is not False and value is not None:
                    flag = f"--{name.replace('_', '-')}"
                    command += [flag] if value is True else [flag, str(value)]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return [
        {key: statistics.median(run[key] for run in runs) for key in runs[0]} for runs in results
    ]


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def compare(title: str, names: Sequence[str], results: Sequence[dict[str, float]]) -> None:
    """Print seconds and peak memory with their ratios to the first."""
    first = results[0]
    rows = [
        (
            name,
            f"{row['seconds']:.3f}",
            f"{first['seconds'] / row['seconds']:.2f}x",
            f"{row['peak_mib']:.0f}",
            f"{row['peak_mib'] / max(first['peak_mib'], 1e-9):.2f}x",
        )
        for name, row in zip(names, results, strict=True)
    ]
    print_table(title, ("variant", "seconds", "speed", "peak MiB", "memory"), rows)


def shared(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that a child gets from its parent: the shape, the repeats and those named."""
    return {name: getattr(args, name) for name in (*SHAPE, "repeats", *names)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _used(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    return _peak(device)


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
