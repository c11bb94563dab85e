"""Choose which completions travel with the page, and pack them small.

A run can write gigabytes of completions; the page holds a spread over training of at most
`MAX_BYTES`, with prompts and token texts stored once.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.report.run_folder import Row, RunRecord, number, read_rollout_rows
from unmask.report.series import rounded

MAX_FILES = 8
MAX_ROWS_PER_FILE = 64
MAX_BYTES = 2_000_000
MAX_CHARACTERS = 8_000


def sampled_completions(run: RunRecord) -> dict[str, Any]:
    """Return the completions of at most eight rollouts, first and last included.

    Returns:
        `rows`: one dict per completion; its `prompt` indexes `prompts` and its `tokens` index
        `vocabulary`; `confidence` is in whole percent. `steps`: denoising steps of the sampler,
        or None when config.yaml does not say. `rollouts`: for each file its `rollout` number, how
        many rows are `shown` and how many it has in `total`.
    """
    packer = _Packer()
    chosen = spread_over(run.rollout_files, MAX_FILES)
    rollouts = []
    for index, path in enumerate(chosen):
        rows = read_rollout_rows(path, run.notes)
        before = len(packer.rows)
        budget = MAX_BYTES * (index + 1) // len(chosen)
        for row in rows[:MAX_ROWS_PER_FILE]:
            packer.add(row, _rollout_number(path), budget)
        rollouts.append(
            {
                "rollout": _rollout_number(path),
                "shown": len(packer.rows) - before,
                "total": len(rows),
            }
        )
    return {
        "rows": packer.rows,
        "prompts": list(packer.prompts),
        "vocabulary": list(packer.vocabulary),
        "rollouts": rollouts,
        "files": len(run.rollout_files),
        "steps": denoising_steps(run.config or ""),
    }


def spread_over(items: Sequence[Path], count: int) -> list[Path]:
    """Return `count` of `items`, evenly spaced, with the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def denoising_steps(config: str) -> int | None:
    """Return `sampler.steps` of a resolved config given as YAML text, None where it is not set.

    A step-map value that reaches this number marks a token that was never denoised.
    """
    section = re.search(r"^sampler:(.*(?:\n[ \t]+.*)*)", config, flags=re.MULTILINE)
    steps = re.search(r"\bsteps:[ \t]*(\d{1,9})\b", section.group(1)) if section else None
    return int(steps.group(1)) if steps else None


class _Packer:
    """Packed rows, the tables that they index, and the bytes that all of it will take."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.prompts: dict[str, int] = {}
        self.vocabulary: dict[str, int] = {}
        self.num_bytes = 0

    def add(self, row: Row, rollout: int | None, budget: int) -> None:
        """Pack `row` unless that would take the total over `budget` bytes."""
        prompt = shortened(_as_text(row.get("prompt")))
        tokens = [_as_text(token) for token in _as_list(row.get("tokens"))]
        step_map = [number(step) for step in _as_list(row.get("step_map"))]
        confidence = [number(value) for value in _as_list(row.get("confidence"))]
        if len(step_map) != len(tokens) or None in step_map:
            tokens, step_map = [], []
        if len(confidence) != len(tokens):
            confidence = [None] * len(tokens)
        new = {text for text in tokens if text not in self.vocabulary}
        packed: Row = {
            "rollout": rollout if number(row.get("rollout")) is None else int(row["rollout"]),
            "group": number(row.get("group")),
            "sequence": number(row.get("sequence")),
            "completion": shortened(_as_text(row.get("completion"))),
            "step_map": rounded(step_map),
            "confidence": [None if c is None else round(100 * c) for c in confidence],
            "rewards": _rewards(row.get("rewards")),
            **{
                key: rounded([number(row.get(key))])[0] for key in ("reward", "advantage", "solved")
            },
        }
        num_bytes = _json_bytes(packed) + _json_bytes(sorted(new)) + 6 * len(tokens)
        num_bytes += 0 if prompt in self.prompts else _json_bytes(prompt)
        if self.num_bytes + num_bytes > budget:
            return
        self.num_bytes += num_bytes
        packed["prompt"] = self.prompts.setdefault(prompt, len(self.prompts))
        packed["tokens"] = [
            self.vocabulary.setdefault(token, len(self.vocabulary)) for token in tokens
        ]
        self.rows.append(packed)


def shortened(text: str) -> str:
    """Return `text` cut to `MAX_CHARACTERS`, saying how many characters were left out."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … [{len(text) - MAX_CHARACTERS} more characters]"


def _rewards(value: Any) -> dict[str, float | None]:
    rewards = value if isinstance(value, dict) else {}
    return {str(name): rounded([number(reward)])[0] for name, reward in rewards.items()}


def _rollout_number(path: Path) -> int | None:
    digits = path.name.split(".")[0]
    return int(digits) if digits.isdecimal() else None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":")))
