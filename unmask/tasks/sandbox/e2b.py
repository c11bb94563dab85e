"""Programs in e2b's remote machines, for those who have an account there (https://e2b.dev).

The program's process runs remotely, on a machine of its own, and its line is carried over the
command's input and output; the tests stay here, in a process of their own with the limits of the
`subprocess` backend.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import threading
from collections.abc import Sequence
from typing import Any

from unmask.tasks.sandbox.backends import INSIDE, Plain, Process
from unmask.tasks.sandbox.settings import SandboxError, SandboxSettings

FOLDER = "/tmp/unmask"
SCRIPTS = ("candidate", "limits", "wire")


class _Remote:
    """A command on a remote machine, and the threads that carry its line."""

    pid = 0

    def __init__(self, machine: Any, command: str, end: socket.socket, limit: float) -> None:
        self._machine, self._end = machine, end
        self._handle = machine.commands.run(command, background=True, stdin=True, timeout=limit)
        for carry in (self._carry_in, self._carry_out):
            threading.Thread(target=carry, daemon=True).start()

    def kill(self) -> None:
        """Give the machine back, and all that runs on it."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._machine.kill()

    def _carry_in(self) -> None:
        with contextlib.suppress(Exception):
            while data := self._end.recv(1 << 16):
                self._machine.commands.send_stdin(self._handle.pid, data.decode("ascii"))

    def _carry_out(self) -> None:
        with contextlib.suppress(Exception):
            for stdout, _, _ in self._handle:
                if stdout:
                    self._end.sendall(stdout.encode("ascii"))
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)


class E2B:
    """A remote machine for each program."""

    alone = False
    patient = False

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._local = Plain(settings)
        self._sandbox: Any = importlib.import_module("e2b").Sandbox

    def start(
        self,
        script: str,
        arguments: Sequence[str],
        end: socket.socket,
        slot: int,
        *,
        site: bool = False,
    ) -> Process:
        """See `Launcher.start`; everything but programs stays here.

        Raises:
            SandboxError: if no machine can be had.
        """
        if script != "candidate":
            return self._local.start(script, arguments, end, slot, site=site)
        limit = self._settings.time_limit + 5
        try:
            machine = self._sandbox.create(timeout=int(limit) + 60)
            for name in SCRIPTS:
                machine.files.write(f"{FOLDER}/{name}.py", (INSIDE / f"{name}.py").read_text())
            return _Remote(machine, self._command(), end.dup(), limit)
        except Exception as error:
            raise SandboxError(
                f"sandbox.backend=e2b gave no machine: {type(error).__name__}: {error}; see the "
                "state of the account and E2B_API_KEY"
            ) from error

    def _command(self) -> str:
        seconds = int(self._settings.time_limit) + 1
        memory, disk = self._settings.memory << 20, self._settings.disk << 20
        bounds = f"0 {seconds} {memory} {disk} {self._settings.processes}"
        return f"exec python3 -s -S {FOLDER}/candidate.py {bounds}"
