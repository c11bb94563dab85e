"""Running the command line in processes of its own, and reading what it wrote."""

import json
import subprocess
import sys
import time
from pathlib import Path

TIMES = ("time", "seconds_rollout", "seconds_update", "tokens_per_second")


def unmask(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "unmask.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        check=False,
    )


def train_and_signal(arguments: list[object], folder: Path, after: int, number: int) -> int:
    """Start a run, send it a signal once it has made `after` updates; its exit code."""
    command = [sys.executable, "-m", "unmask.cli", "train", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(updates(folder)) >= after:
            process.send_signal(number)
            break
        time.sleep(0.005)
    return process.wait(timeout=120)


def rows(folder: Path) -> list[dict]:
    """Metrics without what depends on the clock."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        return []
    result = []
    for line in file.read_text().splitlines():
        row = json.loads(line)
        result.append({name: value for name, value in row.items() if name not in TIMES})
    return result


def updates(folder: Path) -> list[dict]:
    try:
        return [row for row in rows(folder) if row["kind"] == "update"]
    except json.JSONDecodeError:
        return []
