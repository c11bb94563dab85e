"""The files of a run: config, environment, metrics, rollouts, results. One process writes them."""

from __future__ import annotations

import gzip
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("unmask", "torch", "transformers", "accelerate", "peft", "datasets", "numpy")


class RunFolder:
    """Writes a run's files, each whole or not at all; metrics line by line.

    Args:
        path: created if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    @property
    def metrics_file(self) -> Path:
        """One JSON object per update and per evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def write_text(self, name: str, text: str) -> None:
        """Replace a file in one move."""
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, "utf-8")
        temporary.replace(self.path / name)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file in one move; what is not finite becomes null."""
        self.write_text(name, json.dumps(finite(value), indent=2) + "\n")

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(finite(row)) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget rows behind a checkpoint that the run is resumed from."""
        if not self.metrics_file.is_file():
            return
        kept = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line that was cut off
            if row.get("step", 0) <= step:
                kept.append(line)
        self.write_text("metrics.jsonl", "".join(line + "\n" for line in kept))

    def write_rollouts(self, rollout: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """One compressed JSON Lines file per rollout round."""
        folder = self.path / "rollouts"
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{rollout:06d}.tmp"
        # No time stamp: the same rollouts give the same bytes.
        with temporary.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
            for row in rows:
                file.write((json.dumps(finite(row)) + "\n").encode())
        temporary.replace(folder / f"{rollout:06d}.jsonl.gz")


def finite(value: Any) -> Any:
    """A copy that JSON can hold: NaN and infinities become None, tensors become lists."""
    if isinstance(value, torch.Tensor):
        return finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def describe_environment(num_processes: int) -> dict[str, Any]:
    """Versions, source revision and hardware of a run."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        "num_processes": num_processes,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def peak_memory_bytes() -> int:
    """Most memory this process ever held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
