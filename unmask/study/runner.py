"""Runs of a study as processes of their own, a few at a time; a stop reaches them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from unmask.errors import Preempted
from unmask.recipe import to_yaml
from unmask.study.plan import StudyRun
from unmask.training.interrupt import Interruption

LOG_FILE = "log.txt"
POLL_SECONDS = 0.1
TRAIN = (sys.executable, "-m", "unmask.cli", "train")


def run_all(
    runs: Sequence[StudyRun],
    processes: int,
    interruption: Interruption,
    tell: Callable[[str], None],
    command: Sequence[str] = TRAIN,
) -> None:
    """Bring every run to its end that has not reached it; what fails does not stop the others.

    Args:
        runs: finished ones are left alone, interrupted ones go on from their checkpoint.
        processes: at once.
        interruption: says when to stop.
        tell: gets a line for each run that ends.
        command: starts a run, given its recipe.

    Raises:
        Preempted: after a signal, once every process has saved and left.
    """
    waiting = [run for run in runs if not run.finished]
    done = len(runs) - len(waiting)
    if done:
        tell(f"{done} of {len(runs)} runs are finished already")
    active: list[tuple[StudyRun, subprocess.Popen[bytes], float]] = []
    try:
        while (waiting or active) and not interruption.requested:
            while waiting and len(active) < processes:
                run = waiting.pop(0)
                active.append((run, _start(run, command), time.monotonic()))
            for entry in [entry for entry in active if entry[1].poll() is not None]:
                run, process, began = entry
                active.remove(entry)
                done += 1
                seconds = time.monotonic() - began
                ending = f"{seconds:.0f} s"
                if process.returncode or not run.finished:
                    ending = f"failed: {last_error(run.folder)}"
                tell(f"[{done}/{len(runs)}] {run.label}: {ending}")
            time.sleep(POLL_SECONDS)
    finally:
        for _, process, _ in active:
            process.send_signal(signal.SIGTERM)
        for _, process, _ in active:
            process.wait()
    if interruption.requested:
        left = sum(not run.finished for run in runs)
        raise Preempted(f"{left} of {len(runs)} runs are not finished")


def last_error(folder: Path) -> str:
    """The last line that a run wrote, which is its error where it failed."""
    try:
        lines = (folder / LOG_FILE).read_text("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return "not started"
    told = [line.strip() for line in lines if line.strip()]
    return told[-1].removeprefix("unmask: ") if told else "no message"


def _start(run: StudyRun, command: Sequence[str]) -> subprocess.Popen[bytes]:
    run.folder.mkdir(parents=True, exist_ok=True)
    # What stands there is broken, or the run would have finished; it must go on, not begin anew.
    (run.folder / "results.json").unlink(missing_ok=True)
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(to_yaml(run.config), "utf-8")
    with (run.folder / LOG_FILE).open("ab") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then asks each to save.
        return subprocess.Popen(
            [*command, str(recipe)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
