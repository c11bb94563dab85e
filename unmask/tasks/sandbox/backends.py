"""How a script of `inside/` is started: in bubblewrap, or as a plain process with limits.

A start gives a process whose descriptor 0 is one end of a socket; that socket is all it shares with
us. Bubblewrap runs in one of two ways. As root we keep root for bubblewrap alone, and the script
becomes a user of its own before it reads anything, since the process limit does not bind root. As
anybody else it gets a user namespace, in which limits are counted apart.
"""

from __future__ import annotations

import contextlib
import functools
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from socket import socket
from typing import Protocol

from unmask.tasks.sandbox import seccomp
from unmask.tasks.sandbox.settings import INSTALL_BUBBLEWRAP, SandboxError, SandboxSettings

INSIDE = Path(__file__).parent / "inside"
MOUNTED = "/unmask"
# Installed packages get a place of their own: an environment under /tmp would be covered.
SITE = "/site"
_START = (
    "import sys; sys.path[0] = {folder!r}; sys.path += {site!r}; "
    "import {script}; {script}.main(sys.argv[1:])"
)
# A process limit that does not bind (a global root's) would let one program take the machine.
_PROBE = """
import os, resource, sys, typing
user = int(sys.argv[1])
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
open("/tmp/probe", "w").close()
open("/dev/null").close()
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    child = os.fork()
except OSError:
    sys.exit(0)
if child == 0:
    os._exit(0)
sys.exit("the process limit does not bind its user")
"""
MIB = 1 << 20


class Process(Protocol):
    """A started script."""

    pid: int

    def kill(self) -> None:
        """End it with all that it started, and wait for that."""
        ...


class Launcher(Protocol):
    """Starts scripts of `inside/`.

    Attributes:
        alone: whether a script sees no processes but its own.
        patient: whether a started script may wait for its program at no cost.
    """

    alone: bool
    patient: bool

    def start(
        self, script: str, arguments: Sequence[str], end: socket, slot: int, *, site: bool = False
    ) -> Process:
        """Start a script with `end` as its descriptor 0.

        Args:
            script: module of `inside/`.
            arguments: before those of `limits.confine`.
            end: of a socket pair.
            slot: of the pool, so that no two running scripts share a user.
            site: whether installed packages can be imported.
        """
        ...


class _Started:
    """A process in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes], group: bool) -> None:
        self._process, self._group = process, group
        self.pid = process.pid

    def kill(self) -> None:
        if self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, 9)
        elif self._end_namespace():
            # Bubblewrap then ends too, having reaped it: an orphan would stay a zombie wherever
            # process 1 reaps none, as in many containers.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._process.kill()
        self._process.wait()

    def _end_namespace(self) -> bool:
        """Kill the first process of the namespace, and with it all others."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii")
            for child in children.split():
                os.kill(int(child), 9)
        except (OSError, ValueError):
            return False
        return bool(children.split())


class Plain:
    """Resource limits and nothing else: files, network and other processes are in reach."""

    alone = False
    patient = True

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        _compile_scripts()

    def start(
        self, script: str, arguments: Sequence[str], end: socket, slot: int, *, site: bool = False
    ) -> Process:
        """See `Launcher.start`."""
        # Other processes of this user count too, so the process limit would bind the wrong one.
        command = [
            *_python(script, str(INSIDE), _site() if site else []),
            *arguments,
            *_bounds(self._settings, user=0, processes=0),
        ]
        process = subprocess.Popen(
            command,
            stdin=end.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(_environment()),
            cwd="/tmp",
            start_new_session=True,
        )
        return _Started(process, group=True)


class Bubblewrap:
    """No network, no /proc, a read-only root, a private /tmp of bounded size, no privileges.

    Raises:
        SandboxError: if no way of running bubblewrap works on this machine.
    """

    alone = True
    patient = True

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._program = shutil.which("bwrap") or "bwrap"
        _compile_scripts()
        if not seccomp.supported():
            seccomp.program()
        reasons = []
        for own_user in (True, False):
            self._users = _user_range() if own_user else None
            if own_user and self._users is None:
                continue
            reason = self._probe()
            if not reason:
                return
            reasons.append(reason)
        raise SandboxError(
            f"bubblewrap does not work here ({'; '.join(reasons)}): version 0.7 or newer is "
            f"needed, with user namespaces or root ({INSTALL_BUBBLEWRAP}); in a container allow "
            "user namespaces, or set sandbox.allow_unsafe=true sandbox.backend=subprocess"
        )

    def start(
        self, script: str, arguments: Sequence[str], end: socket, slot: int, *, site: bool = False
    ) -> Process:
        """See `Launcher.start`."""
        user = 0
        if self._users is not None:
            first, count = self._users
            user = first + (os.getpid() * 512 + slot) % count
        bounds = _bounds(self._settings, user, self._settings.processes)
        packages = [f"{SITE}/{number}" for number in range(len(_site()))] if site else []
        inner = [*_python(script, MOUNTED, packages), *arguments, *bounds]
        return _Started(self._popen(inner, end.fileno(), site), group=False)

    def _popen(
        self, inner: Sequence[str], end: int, site: bool, errors: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        filter_file = os.memfd_create("seccomp", 0)
        try:
            os.write(filter_file, seccomp.program())
            os.lseek(filter_file, 0, os.SEEK_SET)
            return subprocess.Popen(
                [*self._command(filter_file, site), *inner],
                stdin=end,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[filter_file],
                env={},
            )
        finally:
            os.close(filter_file)

    def _command(self, filter_file: int, site: bool) -> list[str]:
        size = str(self._settings.disk * MIB)
        command = [self._program, "--die-with-parent", "--new-session", "--clearenv"]
        command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        if self._users is None:
            command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
        else:
            command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        for name, value in _environment():
            command += ["--setenv", name, value]
        # What bubblewrap makes on the way is closed to the script's user.
        for folder in ("/dev", "/etc"):
            command += ["--perms", "0755", "--dir", folder]
        command += _mounts(site)
        command += ["--ro-bind", str(INSIDE), MOUNTED]
        for device in ("null", "zero", "urandom"):
            command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        command += ["--perms", "1777", "--size", size, "--tmpfs", "/tmp", "--remount-ro", "/"]
        return [*command, "--seccomp", str(filter_file), "--chdir", "/tmp", "--"]

    def _probe(self) -> str:
        """Why bubblewrap cannot run, or nothing."""
        user = self._users[0] if self._users else 0
        inner = [_interpreter(), "-I", "-S", "-c", _PROBE, str(user)]
        try:
            done = self._popen(inner, subprocess.DEVNULL, False, subprocess.PIPE)
            _, errors = done.communicate(timeout=30)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"
        lines = errors.decode(errors="replace").strip().splitlines()
        return "" if done.returncode == 0 else (lines or ["it gives no reason"])[-1][:200]


def launcher(settings: SandboxSettings) -> Launcher:
    """The launcher of a backend, checked to work.

    Raises:
        SandboxError: if it is missing, refused or does not work.
    """
    name = settings.resolve()
    if name == "e2b":
        from unmask.tasks.sandbox.e2b import E2B

        return E2B(settings)
    return Bubblewrap(settings) if name == "bubblewrap" else Plain(settings)


def _bounds(settings: SandboxSettings, user: int, processes: int) -> list[str]:
    seconds = int(settings.time_limit) + 1
    sizes = (settings.memory * MIB, settings.disk * MIB)
    return [str(value) for value in (user, seconds, *sizes, processes)]


def _environment() -> Iterable[tuple[str, str]]:
    # Sets have the same order in every run, so that a reward is a function of the text.
    yield from {
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }.items()


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _site() -> list[str]:
    paths = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return [path for path in dict.fromkeys(paths) if path and Path(path).is_dir()]


def _python(script: str, folder: str, site: Sequence[str]) -> list[str]:
    start = _START.format(folder=folder, site=site, script=script)
    # Neither `site` nor user packages are loaded: that is most of the time of a start.
    return [_interpreter(), "-s", "-S", "-B", "-c", start]


@functools.cache
def _mounts(site: bool) -> tuple[str, ...]:
    """The interpreter, the system's libraries and, for a scorer, installed packages; read-only."""
    found: list[str] = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64", "lib32", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            found += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            found += ["--ro-bind", str(path), str(path)]
    found += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    prefixes = {str(Path(_interpreter()).parents[1]), os.path.realpath(sys.base_prefix)}
    for prefix in sorted(prefixes):
        if not prefix.startswith("/usr/") and prefix not in ("/", "/usr"):
            # A home is closed to others, and its name here would be so too.
            for parent in reversed(Path(prefix).parents[:-1]):
                found += ["--perms", "0755", "--dir", str(parent)]
            found += ["--ro-bind", prefix, prefix]
    if site:
        found += ["--perms", "0755", "--dir", SITE]
        for number, packages in enumerate(_site()):
            found += ["--ro-bind", packages, f"{SITE}/{number}"]
    return tuple(found)


def _user_range() -> tuple[int, int] | None:
    """First of a range of unused user ids and its size, where we are root and may become them."""
    if os.geteuid() != 0:
        return None
    lines = Path("/proc/self/uid_map").read_text("ascii").splitlines()
    extents = [tuple(map(int, line.split())) for line in lines]
    first, _, count = max(extents, key=lambda extent: extent[2])
    if count < 2:
        return None
    # The upper half, short of the last id, which means "nobody can be this" to some tools.
    span = min(count // 2 - 1, 1 << 28)
    return (first + count // 2, span) if span > 0 else None


def _compile_scripts() -> None:
    """Byte code beside the scripts, since a sandbox cannot write it."""
    for path in INSIDE.glob("*.py"):
        try:
            py_compile.compile(str(path), doraise=False, quiet=2)
        except OSError:
            return
