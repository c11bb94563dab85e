"""math-verify in worker processes: whatever an answer does, it costs its time limit at most."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

WORKER = Path(__file__).with_name("math_worker.py")
TIME_LIMIT = 3.0
START_LIMIT = 120.0
# Pairs whose result is kept: the completions of a group repeat each other's answers.
REMEMBERED = 16_384
INSTALL = "pip install 'unmask[math]'"


class MathPool:
    """Compares pairs of LaTeX answers; start is lazy, results come in order.

    Args:
        num_workers: processes; None = the cores there are.
        time_limit: seconds for one pair; beyond it the pair is not equal.

    Raises:
        ValueError: if math-verify is not installed.
    """

    def __init__(self, num_workers: int | None = None, time_limit: float = TIME_LIMIT) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError(f"math-verify is not installed, which this task needs: {INSTALL}")
        self._count = num_workers or len(os.sched_getaffinity(0))
        self._time_limit = time_limit
        self._workers: list[_Worker] = []
        self._known: dict[tuple[str, str], bool] = {}
        atexit.register(self.close)

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the second answer of each pair has the first one's value.

        A pair is compared once; one that got no answer in time is compared again the next time.
        """
        results: dict[tuple[str, str], bool | None] = dict.fromkeys(pairs)
        results |= {pair: self._known[pair] for pair in results if pair in self._known}
        new = [pair for pair, result in results.items() if result is None]
        results |= zip(new, self._run(new), strict=True)
        self._known |= {pair: result for pair in new if (result := results[pair]) is not None}
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return [results[pair] is True for pair in pairs]

    def readable(self, answers: Sequence[str]) -> list[bool]:
        """Whether each can be read at all."""
        return [result is True for result in self._run([(answer, None) for answer in answers])]

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _run(self, jobs: Sequence[tuple[str, str | None]]) -> list[bool | None]:
        results: list[bool | None] = [None] * len(jobs)
        waiting = list(range(len(jobs) - 1, -1, -1))
        while len(self._workers) < min(self._count, len(jobs)):
            self._workers.append(_Worker())
        running: dict[_Worker, int] = {}
        while waiting or running:
            for place, worker in enumerate(self._workers):
                if waiting and worker not in running:
                    if not worker.send(jobs[waiting[-1]], self._time_limit):
                        worker.kill()
                        worker = self._workers[place] = _Worker()
                        worker.send(jobs[waiting[-1]], self._time_limit)
                    running[worker] = waiting.pop()
            soonest = min(worker.deadline for worker in running)
            ready, _, _ = select.select(list(running), [], [], max(0.0, soonest - time.monotonic()))
            for worker in list(running):
                answered, result = (
                    worker.receive(self._time_limit) if worker in ready else (False, None)
                )
                if answered:
                    results[running.pop(worker)] = result
                elif worker.dead or time.monotonic() >= worker.deadline:
                    worker.kill()
                    del running[worker]
                    self._workers[self._workers.index(worker)] = _Worker()
        return results


class _Worker:
    """One process with at most one pair in hand."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name in _KEPT},
        )
        self._buffer = b""
        self._started = False
        self.deadline = 0.0
        self.dead = False

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def send(self, job: tuple[str, str | None], limit: float) -> bool:
        assert self._process.stdin is not None
        self.deadline = time.monotonic() + (limit if self._started else START_LIMIT)
        try:
            self._process.stdin.write((json.dumps(job) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def receive(self, limit: float) -> tuple[bool, bool | None]:
        """(True, result) if the answer is there; a first line says that the process is ready."""
        data = os.read(self.fileno(), 65_536)
        self.dead = not data
        self._buffer += data
        if not self._started and b"\n" in self._buffer:
            _, _, self._buffer = self._buffer.partition(b"\n")
            self._started = True
            self.deadline = time.monotonic() + limit
        if not self._started or b"\n" not in self._buffer:
            return False, None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            result = json.loads(line)
        except ValueError:
            return True, None
        return True, result

    def kill(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # a request that was never read
                    continue
        self._process.wait()


# Nothing secret reaches a process that reads model text.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


@functools.cache
def _pool(process: int) -> MathPool:
    return MathPool()


def shared_pool() -> MathPool:
    """The one pool of this process.

    Raises:
        ValueError: if math-verify is not installed.
    """
    return _pool(os.getpid())
