"""Waits inside a sandbox and forks a child for each job, so that imports are paid once.

A job names a function; the child runs it and its return value is the result. When the child is
done, or its time is over, everything that it left running is killed and its files are removed
before the result is handed out, so that one job cannot reach the next.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any

import frameworks
import judge
import limits

HEADER = 8
MOST_RESULT = 1 << 20


def main(arguments: list[str]) -> None:
    """Serve jobs from descriptor 0 until it closes.

    Args:
        arguments: "1" where this process has a process namespace of its own, then modules to
            import, joined by commas, then those of `limits.confine`.
    """
    alone, modules, *bounds = arguments
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    # CPU time is limited per child: the server itself lives on.
    user, seconds, *others = map(int, bounds)
    limits.confine(user, 1 << 30, *others)
    failures = _import([name for name in modules.split(",") if name])
    frameworks.install()
    while True:
        received = _receive(control)
        if received is None:
            return
        job, descriptors = received
        if job["function"] == "ping":
            _reply(control, {"result": failures})
            continue
        _reply(control, _run(control, job, descriptors, seconds, alone == "1"))


def _import(names: list[str]) -> list[str]:
    failures = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
    return failures


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    head, descriptors, _, _ = socket.recv_fds(control, HEADER, 4)
    if not head:
        return None
    head += _exactly(control, HEADER - len(head))
    return json.loads(_exactly(control, int.from_bytes(head, "big"))), descriptors


def _exactly(control: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = control.recv(min(size, 1 << 16))
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _reply(control: socket.socket, result: dict[str, Any]) -> None:
    data = json.dumps(result).encode()
    control.sendall(len(data).to_bytes(HEADER, "big") + data)


def _run(
    control: socket.socket, job: dict[str, Any], descriptors: list[int], seconds: int, alone: bool
) -> dict[str, Any]:
    deadline = time.monotonic() + job["seconds"]
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        control.close()
        os.close(source)
        _child(job, descriptors, sink, seconds)
    os.close(sink)
    for descriptor in descriptors:
        os.close(descriptor)
    text = _read(source, deadline)
    os.close(source)
    _clean(child, alone)
    if text is None:
        return {"error": "the time limit passed"}
    try:
        result = json.loads(text)
        return result if isinstance(result, dict) else {"error": "no result"}
    except (ValueError, RecursionError):
        return {"error": "it ended without a result"}


def _child(job: dict[str, Any], descriptors: list[int], sink: int, seconds: int) -> None:
    """Run the job's function and end; never returns."""
    import resource

    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if job["function"] == "judge":
            outcome: dict[str, Any] = {"result": judge.run_tests(job, descriptors[0])}
        else:
            module, _, name = job["function"].partition(":")
            function = getattr(importlib.import_module(module), name)
            outcome = {"result": function(*job["arguments"])}
        text = json.dumps(outcome)
    except BaseException as error:
        text = json.dumps({"error": _describe(error)})
    try:
        with os.fdopen(sink, "w") as stream:
            stream.write(text + "\n")
        code = 0
    finally:
        os._exit(code)


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:
        return type(error).__name__


def _read(source: int, deadline: float) -> bytes | None:
    """The child's line; what it leaves running may hold the pipe open for as long as it likes."""
    text = b""
    while len(text) <= MOST_RESULT and not text.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([source], [], [], left)[0]:
            return None
        part = os.read(source, 1 << 16)
        if not part:
            break
        text += part
    return text


def _clean(child: int, alone: bool) -> None:
    """Nothing of the job is left: no process, no file."""
    try:
        if alone:
            # Every process that can be seen, except this one and the first of the namespace.
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if alone:
        for entry in os.scandir("/tmp"):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


if __name__ == "__main__":
    main(sys.argv[1:])
