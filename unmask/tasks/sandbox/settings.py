"""Settings of the sandbox and what to do where a backend is missing, importable without torch."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Backend = Literal["auto", "bubblewrap", "subprocess", "e2b"]
INSTALL_BUBBLEWRAP = (
    "apt-get install bubblewrap (Debian, Ubuntu), dnf install bubblewrap (Fedora, RHEL), or "
    "pacman -S bubblewrap (Arch)"
)


class SandboxError(ValueError):
    """A sandbox that cannot be had here, with what to install or set."""


@dataclass(frozen=True)
class SandboxSettings:
    """Where programs written by a model run, and what one of them may use.

    Args:
        backend: bubblewrap; e2b (remote, by the package of this name); subprocess (limits only);
            auto = bubblewrap where installed, else refuse.
        allow_unsafe: let the subprocess backend run, which hides neither files nor network.
        time_limit: seconds of wall clock for a program and its tests, and of CPU per process.
        memory: MiB of address space per process, and of memory for all of a program's processes.
        disk: MiB of its private /tmp, and of any one file.
        processes: processes and threads at once.
        workers: programs at once; null = one per core.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    backend: Backend = "auto"
    allow_unsafe: bool = False
    time_limit: float = 5.0
    memory: int = 1024
    disk: int = 16
    processes: int = 16
    workers: int | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not (math.isfinite(self.time_limit) and 0.1 <= self.time_limit <= 3600):
            raise ValueError(
                f"time_limit={self.time_limit}: give a program between 0.1 and 3600 seconds"
            )
        for name, least in (("memory", 64), ("disk", 1), ("processes", 1), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is too small: give at least {least}")

    @property
    def num_workers(self) -> int:
        """`workers` with null resolved."""
        return self.workers or len(os.sched_getaffinity(0))

    def resolve(self) -> str:
        """The backend that will run, looked for without starting it.

        Raises:
            SandboxError: if it is missing or refused; one line with the remedy.
        """
        name = self.backend
        if name in ("auto", "bubblewrap"):
            if shutil.which("bwrap"):
                return "bubblewrap"
            if name == "auto" and self.allow_unsafe:
                return "subprocess"
            raise SandboxError(
                f"sandbox.backend={name}: bubblewrap is not installed: {INSTALL_BUBBLEWRAP}; or "
                "set sandbox.allow_unsafe=true sandbox.backend=subprocess on a machine that holds "
                "nothing of value"
            )
        if name == "subprocess" and not self.allow_unsafe:
            raise SandboxError(
                "sandbox.backend=subprocess hides neither files nor network from programs that a "
                f"model wrote: {INSTALL_BUBBLEWRAP}, or set sandbox.allow_unsafe=true"
            )
        if name == "e2b":
            if importlib.util.find_spec("e2b") is None:
                raise SandboxError(
                    "sandbox.backend=e2b: the package e2b is not installed: pip install e2b"
                )
            if not os.environ.get("E2B_API_KEY"):
                raise SandboxError(
                    "sandbox.backend=e2b: the variable E2B_API_KEY is not set: export it"
                )
        return name
