"""Hostile programs end within their limit, score 0, and leave nothing behind."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_programs import ANSWER, ESCAPES, FORGERIES, GREEDY

from unmask.tasks.sandbox import Program, Sandbox, SandboxSettings, Verdict

TESTS = ("assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add(10, 20) == 30")
NAMES = {"add": "add"}
PROGRAMS = {
    **{name: attack + ANSWER for name, attack in ESCAPES.items()},
    **GREEDY,
    **FORGERIES,
}
SECRET, MARK = "hunter2-of-the-owner", "unmask-was-here"
# Several test processes may run this module at once, and each more than once.
ABSTRACT = f"unmask-abstract-{os.getpid()}"
LIMIT = 2.0
# Stopping and tearing down take time on a loaded machine, which is no time for the program.
LEEWAY = 6.0
# MiB; by it are the processes of this sandbox told from those of others.
MEMORY = 512 + os.getpid() % 256


def running() -> dict[int, str]:
    """Command lines of all processes of this machine but those of test processes beside this."""
    lines, parents = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                lines[int(entry)] = Path(f"/proc/{entry}/cmdline").read_text("utf-8", "replace")
                status = Path(f"/proc/{entry}/stat").read_text("utf-8", "replace")
                parents[int(entry)] = int(status.rpartition(")")[2].split()[1])
            except OSError:
                continue

    def beside(pid: int) -> bool:
        while pid in parents:
            if parents[pid] == os.getppid():
                return pid != os.getpid()
            pid = parents[pid]
        return False

    return {pid: line for pid, line in lines.items() if not beside(pid)}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Verdict]]:
    """Verdicts of all programs, run side by side, honest ones between them."""
    folder = tmp_path_factory.mktemp("owner")
    (folder / "secret").write_text(SECRET)
    os.chmod(folder / "secret", 0o644)
    os.environ["UNMASK_TEST_SECRET"] = SECRET
    reached: list[str] = []
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    abstract = f"{ABSTRACT}-{folder.name}"
    servers[1].bind(f"\0{abstract}")
    servers[1].listen()

    def accept(server: socket.socket) -> None:
        while True:
            try:
                server.accept()
            except OSError:
                return
            reached.append(str(server.family))

    for server in servers:
        threading.Thread(target=accept, args=(server,), daemon=True).start()

    def filled(code: str) -> str:
        code = code.replace("SECRET_FILE", str(folder / "secret")).replace("SECRET", SECRET)
        code = code.replace("MARK", MARK).replace("ABSTRACT", abstract)
        return code.replace("PORT", str(servers[0].getsockname()[1]))

    programs = {name: Program(filled(code), TESTS, names=NAMES) for name, code in PROGRAMS.items()}
    honest = Program("def add(a, b): return a + b", TESTS, names=NAMES)
    order = [item for program in programs.values() for item in (program, honest)]
    settings = SandboxSettings(backend="bubblewrap", time_limit=LIMIT, memory=MEMORY)
    with Sandbox(settings) as sandbox:
        verdicts = sandbox.run(order)
    for server in servers:
        # Closing alone would leave the thread in accept(), and the address taken.
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    del os.environ["UNMASK_TEST_SECRET"]
    result = dict(zip(programs, verdicts[::2], strict=True))
    result["reached"] = Verdict(tuple(False for _ in reached))
    for index, verdict in enumerate(verdicts[1::2]):
        result[f"honest {index}"] = verdict
    yield result


def test_there_are_enough_of_them() -> None:
    assert len(PROGRAMS) >= 150
    assert len({code for code in PROGRAMS.values()}) == len(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_scores_0_within_its_limit(
    name: str, outcome: dict[str, Verdict]
) -> None:
    verdict = outcome[name]
    assert verdict.passed in ((False,), (False,) * 3), verdict
    assert verdict.reason
    assert verdict.seconds < LIMIT + LEEWAY


def test_honest_programs_beside_them_are_right(outcome: dict[str, Verdict]) -> None:
    honest = [verdict for name, verdict in outcome.items() if name.startswith("honest")]
    assert len(honest) == len(PROGRAMS)
    assert [verdict for verdict in honest if verdict.passed != (True,) * 3] == []


def test_nobody_outside_was_reached(outcome: dict[str, Verdict]) -> None:
    assert outcome["reached"].passed == ()


def test_no_process_is_left(outcome: dict[str, Verdict]) -> None:
    deadline = time.monotonic() + 10
    while True:
        left = {
            pid: line
            for pid, line in running().items()
            if ("9973" in line and "sleep" in line)
            # Processes of other sandboxes wait for programs while this test runs.
            or ("import candidate" in line and str(MEMORY << 20) in line)
        }
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert left == {}


def test_no_file_is_left(outcome: dict[str, Verdict]) -> None:
    folders = ("/", "/tmp", "/usr", "/etc", "/root", "/home", "/var/tmp", "/dev", "/dev/shm")
    found = []
    for folder in folders:
        if os.access(folder, os.R_OK):
            found += [path for path in os.listdir(folder) if MARK in path or path == "left"]
    assert found == []


@pytest.mark.parametrize(
    "name", ["tcp to this machine", "abstract unix socket", "read a file of the user's"]
)
def test_the_attacks_work_where_nothing_holds_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as local,
        Sandbox(SandboxSettings(backend="subprocess", allow_unsafe=True, workers=1)) as sandbox,
    ):
        local.bind(f"\0{ABSTRACT}-open")
        local.listen()
        code = PROGRAMS[name].replace("SECRET_FILE", str(tmp_path / "secret"))
        code = code.replace("SECRET", SECRET).replace("ABSTRACT", f"{ABSTRACT}-open")
        code = code.replace("PORT", str(tcp.getsockname()[1]))
        [verdict] = sandbox.run([Program(code, TESTS, names=NAMES)])
    assert verdict.solved, verdict


def test_a_test_that_must_pass_can_pass_and_one_that_must_fail_fails() -> None:
    program = Program("def add(a, b): return a + b", ("assert add(1, 1) == 3", *TESTS), names=NAMES)
    with Sandbox(SandboxSettings(workers=1)) as sandbox:
        [verdict] = sandbox.run([program])
    assert verdict.passed == (False, True, True, True)
