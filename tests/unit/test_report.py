"""The page as a file: made from any state of a run, self-contained, and inert to its text."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unmask.report import write_report
from unmask.report.page import json_block

HOSTILE = "</script><img src=x onerror=alert(1)><!-- <script> & \u2028\u2029 \ud800 ]]>"


def measured(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "n": 200}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return the folder of a finished run of three rollouts with two updates each."""
    folder = tmp_path / "tiny-run"
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text("sampler:\n  steps: 4\nseed: 42\n")
    (folder / "environment.json").write_text('{"torch": "2.13", "gpu": {"name": "none"}}')
    results = {
        "before": {"greedy": measured(0.1), "sampled": measured(0.08)},
        "after": {"greedy": measured(0.9), "sampled": measured(0.85)},
        "seconds": 60.0,
        "rollouts": 3,
        "completions": 12,
        "peak_memory_bytes": 2**31,
        "config_hash": "abc",
    }
    (folder / "results.json").write_text(json.dumps(results))
    rows: list[dict[str, Any]] = [{"kind": "evaluation", "rollout": 0, "step": 0, "time": 0.0}]
    rows += [
        {"kind": "update", "rollout": step // 2, "step": step, "time": 9.0 * step, "reward": 0.5}
        for step in range(6)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with gzip.open(folder / "rollouts" / "000002.jsonl.gz", "wt") as file:
        file.write(json.dumps(completion("b")) + "\n")
    return folder


def completion(text: str) -> dict[str, Any]:
    return {
        "rollout": 2,
        "group": 0,
        "sequence": 0,
        "prompt": "a",
        "completion": text,
        "tokens": [text, "<eos>"],
        "step_map": [1, 0],
        "confidence": [0.5, 0.75],
        "rewards": {"correct": 1.0},
        "reward": 1.0,
        "advantage": 0.5,
        "solved": 1,
    }


def data_of(page: Path) -> dict[str, Any]:
    blocks = re.findall(
        r'<script type="application/json" id="run-data">(.*?)</script>', page.read_text(), re.S
    )
    assert len(blocks) == 1
    data: dict[str, Any] = json.loads(blocks[0])
    return data


def test_the_page_holds_what_the_run_recorded(run_folder: Path) -> None:
    page = write_report(run_folder)
    assert page == run_folder / "report.html"
    data = data_of(page)
    assert data["name"] == "tiny-run"
    greedy, sampled = data["headline"]["modes"]
    assert (greedy["before"]["accuracy"], greedy["after"]["accuracy"]) == (0.1, 0.9)
    assert sampled["after"]["low"] == pytest.approx(0.8)
    assert data["headline"]["source"] == "results"
    assert data["headline"]["facts"]["peak_memory_bytes"] == 2**31
    assert data["headline"]["facts"]["updates"] == 6
    assert data["config"] == "sampler:\n  steps: 4\nseed: 42\n"
    assert data["environment"] == [["torch", "2.13"], ["gpu.name", "none"]]
    assert data["completions"]["rows"][0]["advantage"] == 0.5
    assert data["notes"] == []


def test_a_run_without_results_is_judged_by_its_first_and_latest_evaluation(
    run_folder: Path,
) -> None:
    (run_folder / "results.json").unlink()
    with (run_folder / "metrics.jsonl").open("w") as file:
        for step, accuracy in ((0, 0.1), (10, 0.3), (20, 0.6)):
            row = {"kind": "evaluation", "rollout": step, "step": step, "time": 7.0 * step}
            file.write(json.dumps(row | {"greedy": measured(accuracy)}) + "\n")
    headline = data_of(write_report(run_folder))["headline"]
    assert headline["source"] == "evaluations"
    (greedy,) = headline["modes"]
    assert (greedy["before"]["accuracy"], greedy["after"]["accuracy"]) == (0.1, 0.6)
    assert headline["facts"]["seconds"] == 140.0


@pytest.mark.parametrize(
    "missing",
    ["config.yaml", "environment.json", "results.json", "metrics.jsonl", "rollouts"],
)
def test_a_page_is_made_whatever_single_part_is_missing(run_folder: Path, missing: str) -> None:
    (run_folder / missing).rename(run_folder.parent / missing)
    notes = data_of(write_report(run_folder))["notes"]
    assert any(note.startswith(missing) for note in notes)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "results.json"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"[1, 2", b'"text"', b"[]"])
def test_broken_files_do_not_stop_the_page(run_folder: Path, name: str, content: bytes) -> None:
    (run_folder / name).write_bytes(content)
    assert data_of(write_report(run_folder))["name"] == "tiny-run"


def test_a_cut_at_any_byte_of_the_metrics_still_gives_a_page(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    content = path.read_bytes()
    for cut in range(0, len(content), 37):
        path.write_bytes(content[:cut])
        assert data_of(write_report(run_folder))["name"] == "tiny-run"


def test_nonsense_values_do_not_stop_the_page(run_folder: Path) -> None:
    nonsense = {"before": 3, "after": {"greedy": "high", "sampled": {"accuracy": "x"}}}
    (run_folder / "results.json").write_text(json.dumps(nonsense))
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "update", "rollout": "x", "step": null, "reward": NaN, "kl": 1e999}\n')
        file.write('{"kind": "evaluation", "greedy": [1], "sampled": {"accuracy": null}}\n')
        file.write("[1, 2]\n")
    assert data_of(write_report(run_folder))["headline"]["modes"] == []


def test_text_from_the_run_cannot_leave_the_data_block(run_folder: Path) -> None:
    with gzip.open(run_folder / "rollouts" / "000002.jsonl.gz", "wt") as file:
        file.write(json.dumps(completion(HOSTILE) | {"rewards": {HOSTILE: 1.0}}) + "\n")
    (run_folder / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (run_folder / "results.json").write_text(json.dumps({"recipe": HOSTILE}))
    page = write_report(run_folder)
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<img" not in text
    data = data_of(page)
    assert data["name"] == HOSTILE
    assert data["completions"]["rows"][0]["completion"] == HOSTILE
    assert data["completions"]["vocabulary"][0] == HOSTILE
    assert data["environment"] == [[HOSTILE, HOSTILE]]


def test_the_json_block_escapes_markup_and_parses_back() -> None:
    block = json_block({"text": HOSTILE})
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == {"text": HOSTILE}


def test_the_page_refers_to_nothing_outside_itself(run_folder: Path) -> None:
    text = write_report(run_folder).read_text()
    assert re.findall(r"<[^>]*\s(?:src|href|srcset|action|data|style)\s*=", text) == []
    assert re.findall(r"fetch\(|XMLHttpRequest|WebSocket|import\(", text) == []
    assert re.findall(r"url\((?!#)", text) == []
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_the_one_script_and_style_by_hash_and_nothing_else(
    run_folder: Path,
) -> None:
    text = write_report(run_folder).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    for directive, pattern in (
        ("script-src", r"<script>(.*?)</script>"),
        ("style-src", r"<style>(.*?)</style>"),
    ):
        (content,) = re.findall(pattern, text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[directive] == f"'sha256-{digest}'"


def test_a_run_of_long_completions_stays_within_three_megabytes(run_folder: Path) -> None:
    words = [f"word{index} " for index in range(512)]
    row = completion("".join(words)) | {"tokens": words, "step_map": list(range(512))}
    row["confidence"] = [0.5] * 512
    for rollout in range(12):
        with gzip.open(run_folder / "rollouts" / f"{rollout:06d}.jsonl.gz", "wt") as file:
            for index in range(70):
                file.write(json.dumps(row | {"sequence": index, "rollout": rollout}) + "\n")
    page = write_report(run_folder)
    assert page.stat().st_size < 3_000_000
    shown = [part["shown"] for part in data_of(page)["completions"]["rollouts"]]
    assert len(shown) == 8
    assert min(shown) >= 20


def test_a_second_report_replaces_the_first_and_leaves_nothing_beside_it(run_folder: Path) -> None:
    before = {path.name for path in run_folder.iterdir()}
    first = write_report(run_folder).read_text()
    assert write_report(run_folder).read_text() == first
    assert {path.name for path in run_folder.iterdir()} == before | {"report.html"}


def test_the_report_room_needs_the_standard_library_alone() -> None:
    code = (
        "import sys, unmask.report.page\n"
        "roots = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "assert not roots & {'torch', 'numpy', 'yaml', 'matplotlib', 'jinja2'}, roots"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
