"""Which completions travel with the page, and that packing loses nothing of them."""

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from unmask.report import completions as module
from unmask.report.completions import denoising_steps, sampled_completions, spread_over
from unmask.report.run_folder import RunRecord


def row(index: int, **fields: Any) -> dict[str, Any]:
    return {
        "rollout": 7,
        "group": index // 2,
        "sequence": index,
        "prompt": f"prompt {index // 2}",
        "completion": "a b",
        "tokens": ["a", " b", "<eos>", "<eos>"],
        "completion_ids": [1, 2, 0, 0],
        "step_map": [1, 0, 4, 4],
        "confidence": [0.5, 0.987, None, 0.1],
        "rewards": {"correct": 1.0, "format": None},
        "reward": 1.0,
        "advantage": -0.5,
        "solved": 1,
    } | fields


def run_with(folder: Path, files: dict[int, list[dict[str, Any]]], config: str = "") -> RunRecord:
    paths = []
    for rollout, rows in files.items():
        path = folder / f"{rollout:06d}.jsonl.gz"
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(one) + "\n" for one in rows)
        paths.append(path)
    return RunRecord(folder=folder, name="run", config=config, rollout_files=paths)


def test_a_packed_row_unpacks_to_what_was_recorded(tmp_path: Path) -> None:
    run = run_with(tmp_path, {7: [row(0), row(1), row(2)]}, "sampler:\n  steps: 4\n")
    packed = sampled_completions(run)
    first = packed["rows"][0]
    assert [packed["vocabulary"][token] for token in first["tokens"]] == row(0)["tokens"]
    assert [packed["prompts"][one["prompt"]] for one in packed["rows"]] == [
        "prompt 0",
        "prompt 0",
        "prompt 1",
    ]
    assert len(packed["prompts"]) == 2
    assert first["step_map"] == [1, 0, 4, 4]
    assert first["confidence"] == [50, 99, None, 10]
    assert first["rewards"] == {"correct": 1, "format": None}
    assert (first["reward"], first["advantage"], first["solved"]) == (1, -0.5, 1)
    assert packed["steps"] == 4


def test_the_files_are_spread_over_the_run_with_first_and_last(tmp_path: Path) -> None:
    paths = [Path(str(index)) for index in range(100)]
    chosen = spread_over(paths, 8)
    assert len(chosen) == 8
    assert (chosen[0], chosen[-1]) == (paths[0], paths[99])
    gaps = [int(b.name) - int(a.name) for a, b in pairwise(chosen)]
    assert set(gaps) == {14, 15}
    assert spread_over(paths[:3], 8) == paths[:3]


def test_a_file_gives_64_rows_and_says_how_many_it_has(tmp_path: Path) -> None:
    run = run_with(tmp_path, {7: [row(index) for index in range(100)]})
    packed = sampled_completions(run)
    assert packed["rollouts"] == [{"rollout": 7, "shown": 64, "total": 100}]
    assert [one["sequence"] for one in packed["rows"]] == list(range(64))


def test_the_budget_holds_and_every_rollout_keeps_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 40_000)
    rng = random.Random(0)
    files = {
        rollout: [
            row(i, tokens=[f"w{rng.randrange(9999)}" for _ in range(64)], step_map=list(range(64)))
            for i in range(40)
        ]
        for rollout in range(4)
    }
    packed = sampled_completions(run_with(tmp_path, files))
    assert len(json.dumps(packed, separators=(",", ":"))) < 42_000
    assert all(4 <= part["shown"] < 40 for part in packed["rollouts"])


def test_a_row_without_a_usable_step_map_is_listed_without_tokens(tmp_path: Path) -> None:
    broken = [
        row(0, step_map=[0, 1]),
        row(1, tokens=None),
        row(2, step_map=[0, None, 1, 2]),
        {"completion": "only text"},
    ]
    packed = sampled_completions(run_with(tmp_path, {7: broken}))
    assert [one["tokens"] for one in packed["rows"]] == [[], [], [], []]
    assert packed["rows"][3]["completion"] == "only text"
    assert packed["rows"][3]["rollout"] == 7


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ("sampler:\n  gen_length: 64\n  steps: 32\n  cache: none\nseed: 1\n", 32),
        ("seed: 1\nsampler: {gen_length: 64, steps: 16}\n", 16),
        ("optimizer:\n  warmup_steps: 5\nsampler:\n  warmup_steps: 3\n", None),
        ("training:\n  steps: 9\nsampler:\n  steps: null\n", None),
        ("", None),
    ],
)
def test_the_sampler_steps_are_read_from_the_config(config: str, steps: int | None) -> None:
    assert denoising_steps(config) == steps
