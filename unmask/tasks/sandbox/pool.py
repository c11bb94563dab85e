"""A pool of sandboxes that keeps the cores busy: programs in, verdicts out, in the same order.

A program is run by two processes. One holds the program and is started afresh for it; the other
holds the tests. They share one socket; only the second has a line to us. Why a program cannot forge
its verdict is told in `inside/judge.py`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import itertools
import json
import math
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from unmask.tasks.sandbox.backends import Launcher, Process, launcher
from unmask.tasks.sandbox.settings import SandboxError, SandboxSettings

# What the judge may take after its candidate was stopped; starting a server, imports included.
GRACE = 2.0
START_LIMIT = 120.0
WATCH_EVERY = 0.05
OVERTIME = "the time limit passed"
# Bubblewrap's two, and the script itself.
SERVICE_PROCESSES = 3
HEADER = 8
MOST_REPLY = 1 << 24
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Program:
    """A program and what it is tested by.

    Attributes:
        code: Python, as the model wrote it.
        tests: pieces of Python, each one test, or several where it defines test functions or cases.
            They may `import solution` or `pytest` (its `raises`, `approx` and `parametrize`).
        setup: Python that runs before the tests, on their side: imports, helpers.
        names: what in the tests is the program's: {name in the tests: name in the program}.
    """

    code: str
    tests: tuple[str, ...]
    setup: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Attributes:
        passed: one boolean per test; False where it was not reached.
        reason: of the first failure, empty if all passed.
        seconds: of wall clock, its start included.
    """

    passed: tuple[bool, ...]
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def fraction(self) -> float:
        """Share of tests passed."""
        return sum(self.passed) / len(self.passed)

    @property
    def solved(self) -> bool:
        """Whether every test passed."""
        return all(self.passed)


@dataclass(frozen=True)
class Outcome:
    """What a scorer returned.

    Attributes:
        value: a finite number in [0, 1], or None if it gave none.
        reason: why there is no value.
    """

    value: float | None
    reason: str = ""


class Sandbox:
    """Runs programs and scorers apart from this process; close it, or use it in a `with`.

    Args:
        settings: backend and limits.
        modules: to be imported once, before any scorer runs, such as ("reasoning_gym",).

    Raises:
        SandboxError: if the backend is missing, refused or does not work.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, *, modules: Sequence[str] = ()
    ) -> None:
        self.settings = settings or SandboxSettings()
        self._launcher = launcher(self.settings)
        self._owner = os.getpid()
        count = self.settings.num_workers
        self._workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = [_Worker(self.settings, self._launcher, i, modules) for i in range(count)]
        for worker in self._all:
            self._workers.put(worker)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="sandbox")
        atexit.register(self.close)

    def run(self, programs: Sequence[Program]) -> list[Verdict]:
        """Test each program; the i-th verdict is the i-th program's.

        A program that hangs, or takes more than it may, fails and costs its own limit alone.
        """
        return self._map(_Worker.run, programs)

    def score(self, function: str, calls: Sequence[Sequence[Any]]) -> list[Outcome]:
        """Call a scorer of an installed package on each list of arguments, inside the sandbox.

        For scorers that are not safe on text a model wrote. Such a scorer shares its process with
        what it runs: the sandbox contains the damage and undoes it after each call, but it cannot
        vouch for the number, as it can for the verdict of a `Program`.

        Args:
            function: "module:name"; importable without the working directory.
            calls: arguments that JSON can carry.
        """
        return self._map(lambda worker, call: worker.score(function, call), calls)

    def close(self) -> None:
        """End all processes."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.close)
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._all:
            worker.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _map(
        self, work: Callable[[_Worker, ItemT], ResultT], items: Sequence[ItemT]
    ) -> list[ResultT]:
        if os.getpid() != self._owner:
            raise SandboxError("this sandbox belongs to another process: make one after the fork")

        def one(item: ItemT) -> ResultT:
            worker = self._workers.get()
            try:
                return work(worker, item)
            finally:
                self._workers.put(worker)

        return list(self._threads.map(one, items))


class _Worker:
    """One lane of the pool: a server for tests and scorers, and a program at a time."""

    def __init__(
        self, settings: SandboxSettings, launcher: Launcher, slot: int, modules: Sequence[str]
    ) -> None:
        self._settings, self._launcher, self._slot = settings, launcher, slot
        self._modules = tuple(modules)
        self._server: Process | None = None
        # The next program's process, which has read nothing yet, and our end of its line.
        self._spare: tuple[Process, socket.socket] | None = None
        self._control: socket.socket | None = None

    def run(self, program: Program) -> Verdict:
        failed = (False,) * max(1, len(program.tests))
        self._require_server()
        began = time.monotonic()
        job = {
            "function": "judge",
            "code": program.code,
            "setup": program.setup,
            "tests": list(program.tests),
            "names": dict(program.names),
            "seconds": self._settings.time_limit + GRACE,
        }
        candidate, ours = self._take_candidate()
        try:
            with ours:
                self._send(job, [ours.fileno()])
            answer, reason = self._wait(candidate)
        finally:
            candidate.kill()
        seconds = time.monotonic() - began
        if self._launcher.patient:
            # Nothing of the last program is left, so the user that the next one becomes is free.
            with contextlib.suppress(OSError):
                self._spare = self._start_candidate()
        if answer is None or not isinstance(answer.get("result"), dict):
            reason = reason or str((answer or {}).get("error", "no verdict"))
            return Verdict(failed, reason, seconds)
        result = answer["result"]
        passed = tuple(map(bool, result["passed"])) or failed
        return Verdict(passed, reason or str(result["reason"]), seconds)

    def score(self, function: str, arguments: Sequence[Any]) -> Outcome:
        self._require_server()
        limit = self._settings.time_limit
        job = {"function": function, "arguments": list(arguments), "seconds": limit}
        self._send(job, [])
        answer, reason = self._wait(None)
        if answer is None or "error" in answer:
            return Outcome(None, reason or str((answer or {}).get("error", "no answer")))
        value = answer.get("result")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Outcome(None, f"it returned {repr(value)[:80]}, which is no number")
        if not (math.isfinite(value) and 0 <= value <= 1):
            return Outcome(None, f"it returned {value}, which is outside of 0 to 1")
        return Outcome(float(value))

    def _take_candidate(self) -> tuple[Process, socket.socket]:
        """The process that waits, or a new one: a candidate that can be read from has ended."""
        spare, self._spare = self._spare, None
        if spare is not None and not select.select([spare[1]], [], [], 0)[0]:
            return spare
        if spare is not None:
            self._drop(spare)
        return self._start_candidate()

    def _start_candidate(self) -> tuple[Process, socket.socket]:
        ours, theirs = socket.socketpair()
        try:
            return self._launcher.start("candidate", [], theirs, 2 * self._slot + 1), ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    @staticmethod
    def _drop(candidate: tuple[Process, socket.socket]) -> None:
        process, line = candidate
        line.close()
        process.kill()

    def close(self) -> None:
        if self._spare is not None:
            self._drop(self._spare)
            self._spare = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            self._server.kill()
            self._server = None

    def _require_server(self) -> None:
        """A server that answers; started where there is none or it died."""
        if self._control is not None and not select.select([self._control], [], [], 0)[0]:
            return
        self.close()
        self._control, theirs = socket.socketpair()
        alone = "1" if self._launcher.alone else "0"
        try:
            self._server = self._launcher.start(
                "server", [alone, ",".join(self._modules)], theirs, 2 * self._slot, site=True
            )
        finally:
            theirs.close()
        self._send({"function": "ping"}, [])
        answer = self._receive(time.monotonic() + START_LIMIT)
        if answer is None:
            self.close()
            raise SandboxError(
                "the sandbox's server did not start: raise sandbox.memory, or see whether the "
                f"modules can be imported ({', '.join(self._modules) or 'none asked for'})"
            )
        if answer["result"]:
            self.close()
            reasons = "; ".join(answer["result"])
            raise SandboxError(f"a scorer's module cannot be imported in the sandbox: {reasons}")

    def _send(self, job: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        assert self._control is not None
        data = json.dumps(job).encode()
        head = len(data).to_bytes(HEADER, "big")
        ancillary = []
        if descriptors:
            rights = array.array("i", descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        # A dead server is noticed where its answer is waited for.
        with contextlib.suppress(OSError):
            self._control.sendmsg([head], ancillary)
            self._control.sendall(data)

    def _wait(self, candidate: Process | None) -> tuple[dict[str, Any] | None, str]:
        """The server's answer, and why the job was stopped if it was.

        The candidate is stopped first: its judge then sees the line close and can still say which
        tests had passed. Only a judge or scorer that hangs itself costs the server.
        """
        limit = time.monotonic() + self._settings.time_limit
        reason, patience = "", math.inf
        watched = candidate or self._server
        assert self._control is not None and watched is not None
        while True:
            now = time.monotonic()
            if not reason:
                reason = OVERTIME if now >= limit else self._excess(watched.pid)
                if reason and candidate is not None:
                    candidate.kill()
                    patience = now + 2 * GRACE
                elif reason:
                    # The server ends a scorer that takes too long, but not one that takes too much.
                    patience = now + GRACE if reason == OVERTIME else now
            if select.select([self._control], [], [], WATCH_EVERY)[0]:
                answer = self._receive(limit + 2 * GRACE)
                if answer is not None:
                    return answer, reason
            elif now < patience:
                continue
            self.close()
            return None, reason or "it ended without a verdict"

    def _excess(self, pid: int) -> str:
        """What a group of processes has too much of together, or nothing.

        The kernel holds each process to its own limits; this holds their sum.
        """
        most = self._settings.processes + SERVICE_PROCESSES
        group = list(itertools.islice(_descendants(pid), most + 1))
        if len(group) > most:
            return "the process limit passed"
        if _memory(group) > self._settings.memory << 20:
            return "the memory limit passed"
        return ""

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        data = b""
        size = HEADER
        assert self._control is not None
        while len(data) < size:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._control], [], [], left)[0]:
                return None
            try:
                part = self._control.recv(min(1 << 16, size - len(data)))
            except OSError:
                return None
            if not part:
                return None
            data += part
            if size == HEADER and len(data) == HEADER:
                size += int.from_bytes(data, "big")
                if size > MOST_REPLY:
                    return None
        try:
            answer = json.loads(data[HEADER:])
        except (ValueError, RecursionError):
            return None
        return answer if isinstance(answer, dict) else None


def _memory(processes: Iterable[int]) -> int:
    """Bytes of memory of processes that no file backs."""
    total = 0
    for process in processes:
        try:
            with open(f"/proc/{process}/status") as status:
                fields = dict(line.split(":", 1) for line in status)
        except (OSError, ValueError):
            continue
        for name in ("RssAnon", "RssShmem"):
            total += int(fields.get(name, "0 kB").split()[0]) << 10
    return total


def _descendants(pid: int) -> Iterator[int]:
    pending = [pid]
    while pending:
        process = pending.pop()
        yield process
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{task}/children") as children:
                    pending += map(int, children.read().split())
        except OSError:
            continue


_shared: dict[tuple[int, SandboxSettings, tuple[str, ...]], Sandbox] = {}
_lock = threading.Lock()


def shared_sandbox(settings: SandboxSettings, modules: Sequence[str] = ()) -> Sandbox:
    """One sandbox per process, settings and modules, made at the first call.

    Raises:
        SandboxError: if the backend is missing, refused or does not work.
    """
    key = (os.getpid(), settings, tuple(modules))
    with _lock:
        if key not in _shared:
            _shared[key] = Sandbox(settings, modules=modules)
        return _shared[key]
