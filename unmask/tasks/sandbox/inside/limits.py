"""Limits of this process and of all that it starts, taken before anything untrusted is read."""

from __future__ import annotations

import os
import resource


def confine(
    user: int, seconds: int, memory: int, file_size: int, processes: int, files: int = 64
) -> None:
    """Become an unprivileged user where asked to, then lower every limit for good.

    Args:
        user: numeric user and group id to become; 0 = stay who we are.
        seconds: of CPU time, per process.
        memory: bytes of address space, per process.
        file_size: bytes of any one file.
        processes: processes and threads of this user; 0 = as it is.
        files: open file descriptors.
    """
    # The process limit does not bind root, so it comes after the change of user.
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: files,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if processes:
        bounds[resource.RLIMIT_NPROC] = processes
    for limit, value in bounds.items():
        _, most = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            value = min(value, most)
        # One second between the soft and the hard limit lets SIGXCPU come before SIGKILL.
        hard = value + 1 if limit == resource.RLIMIT_CPU and most == -1 else value
        resource.setrlimit(limit, (value, hard))
    os.umask(0o077)
