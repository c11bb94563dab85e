"""A study's results, figures, table and page, from folders with made-up runs."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from unmask.cli import main
from unmask.config import CompareConfig
from unmask.recipe import to_yaml, validate
from unmask.study.curves import held_out_curves, training_curves
from unmask.study.plan import STUDY_FILE, run_folder
from unmask.study.report import markdown_table, report_study
from unmask.study.results import chosen_value, collect, read_study

HOSTILE = "</script><b>& | wd1"


def measured(accuracy: float | None, reward: float = 0.0) -> dict[str, Any]:
    return {"sampled": {"accuracy": accuracy, "low": 0, "high": 1, "n": 8, "reward": reward}}


def write_run(folder: Path, scores: list[float | None], forwards: int = 100) -> None:
    """Two updates a round of 8 completions; one evaluation before the first and after each."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for rollout, score in enumerate(scores):
        for half in (1, 2) if rollout else ():
            rows.append(
                {
                    "kind": "update",
                    "rollout": rollout,
                    "step": 2 * rollout - 2 + half,
                    "time": 10.0 * (rollout - 1) + 5 * half,
                    "forwards": forwards * (rollout - 1) + forwards * half // 2,
                    "solved": rollout / 10,
                    "reward": rollout / 5,
                }
            )
        rows.append(
            {
                "kind": "evaluation",
                "rollout": rollout,
                "step": 2 * rollout,
                "time": 10.0 * rollout,
                "forwards": forwards * rollout,
                **measured(score, reward=rollout),
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = len(scores) - 1
    results = {
        "before": measured(scores[0]),
        "after": measured(scores[-1], reward=last),
        "seconds": 10.0 * last,
        "rollouts": last,
        "completions": 8 * last,
        "forwards": forwards * last,
        "peak_memory_bytes": 2**28,
    }
    (folder / "results.json").write_text(json.dumps(results))


def write_study(folder: Path, **settings: Any) -> CompareConfig:
    config: CompareConfig = validate(
        CompareConfig,
        {
            "methods": {"ESPO": {}, HOSTILE: {"objective": {"name": "wd1"}}},
            "seeds": [1, 2],
            "tune": {"values": [1e-4, 1e-3, 1e-2], "seeds": [7]},
            "output_dir": str(folder),
            **settings,
        },
    )
    folder.mkdir(parents=True)
    (folder / STUDY_FILE).write_text(to_yaml(config))
    return config


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """ESPO is best at 1e-3, the other at 1e-2, the end of the grid; ESPO costs twice as much."""
    folder = tmp_path / "study"
    write_study(folder)
    for value, espo, other in ((1e-4, 0.2, 0.1), (1e-3, 0.5, 0.2), (1e-2, 0.5, 0.3)):
        write_run(run_folder(folder, "ESPO", value, 7), [0.1, espo])
        write_run(run_folder(folder, HOSTILE, value, 7), [0.1, other])
    write_run(run_folder(folder, "ESPO", 1e-3, 1), [0.1, 0.3, 0.8], forwards=200)
    write_run(run_folder(folder, "ESPO", 1e-3, 2), [0.3, 0.5, 0.6], forwards=200)
    write_run(run_folder(folder, HOSTILE, 1e-2, 1), [0.1, 0.2, 0.4])
    return folder


def test_the_best_value_of_the_grid_is_chosen_and_the_first_of_equals(study: Path) -> None:
    config = read_study(study)
    assert chosen_value(config, study, "ESPO") == 1e-3
    assert chosen_value(config, study, HOSTILE) == 1e-2
    results, _ = collect(study)
    espo, other = results["methods"].values()
    assert [point["mean"] for point in espo["grid"]] == [0.2, 0.5, 0.5]
    assert (espo["at_edge"], other["at_edge"]) == (False, True)


def test_a_value_with_a_failed_run_cannot_win_and_is_told(study: Path) -> None:
    failed = run_folder(study, "ESPO", 1e-3, 7)
    (failed / "results.json").unlink()
    (failed / "log.txt").write_text("begun\nunmask: 5 updates in a row had a non-finite loss\n\n")
    results, _ = collect(study)
    assert results["methods"]["ESPO"]["value"] == 1e-2
    assert results["methods"]["ESPO"]["grid"][1]["mean"] is None
    assert (
        "ESPO at 0.001, seed 7: 5 updates in a row had a non-finite loss" in results["unfinished"]
    )


@pytest.mark.parametrize("broken", ["", '{"after": ', "[]", '{"after": 3, "before": [1]}'])
def test_broken_results_are_no_score_and_stop_no_report(study: Path, broken: str) -> None:
    (run_folder(study, "ESPO", 1e-3, 7) / "results.json").write_text(broken)
    results = report_study(study)
    assert results["methods"]["ESPO"]["value"] == 1e-2
    assert results["methods"]["ESPO"]["grid"][1]["mean"] is None


def test_scores_costs_and_missing_runs_are_those_of_the_reported_seeds(study: Path) -> None:
    results = report_study(study)
    assert results == json.loads((study / "results.json").read_text())
    espo, other = results["methods"].values()
    assert {seed: run["after"] for seed, run in espo["runs"].items()} == {"1": 0.8, "2": 0.6}
    assert espo["score"] == pytest.approx({"iqm": 0.7, "low": 0.6, "high": 0.8})
    assert espo["costs"]["forwards"] == 400
    assert other["score"] == {"iqm": 0.4, "low": 0.4, "high": 0.4}
    assert results["unfinished"] == [f"{HOSTILE} at 0.01, seed 2: not started"]
    # The cheaper method took 200 forwards in all, after which ESPO stood at its first evaluation.
    assert results["equal_forwards"] == 200
    assert espo["at_equal_forwards"] == pytest.approx(0.4)
    assert other["at_equal_forwards"] == pytest.approx(0.4)


def test_curves_are_means_over_seeds_against_each_budget(study: Path) -> None:
    _, methods = collect(study)
    espo = held_out_curves(methods, "sampled", "accuracy")[0]
    assert espo.mean.tolist() == pytest.approx([0.2, 0.4, 0.7])
    assert espo.low.tolist() == pytest.approx([0.1, 0.3, 0.6])
    assert espo.high.tolist() == pytest.approx([0.3, 0.5, 0.8])
    assert espo.spent["completions"].tolist() == [0, 8, 16]
    assert espo.spent["forwards"].tolist() == [0, 200, 400]
    assert espo.spent["time"].tolist() == [0, 10, 20]


def test_a_rounds_metric_stands_at_what_was_spent_before_it(study: Path) -> None:
    _, methods = collect(study)
    espo = training_curves(methods, "solved")[0]
    assert espo.mean.tolist() == pytest.approx([0.1, 0.2])
    assert espo.spent["completions"].tolist() == [0, 8]
    assert espo.spent["forwards"].tolist() == [0, 200]
    assert training_curves(methods, "kl") == []


def test_without_a_verifier_the_reward_is_compared(tmp_path: Path) -> None:
    write_study(tmp_path / "study", tune=None)
    for method in ("ESPO", HOSTILE):
        for seed in (1, 2):
            write_run(run_folder(tmp_path / "study", method, None, seed), [None, None])
    results = report_study(tmp_path / "study")
    assert results["quantity"] == "reward"
    assert results["methods"]["ESPO"]["score"]["iqm"] == 1.0
    assert results["methods"]["ESPO"]["value"] is None
    assert (tmp_path / "study" / "plots" / "reward-by-forwards.svg").is_file()


def test_the_table_has_a_row_for_each_method(study: Path) -> None:
    report_study(study)
    head, rule, *rows = (study / "table.md").read_text().splitlines()
    assert rows[0] == (
        "| ESPO | 0.001 | 70.0 % | 60.0 % to 80.0 % | 40.0 % | 400 | 0.3 min | 256 MiB |"
    )
    assert rows[1].startswith("| </script><b>& \\| wd1 | 0.01 (edge of the grid) | 40.0 % |")
    assert len({re.sub(r"\\\|", "", line).count("|") for line in (head, rule, *rows)}) == 1


def test_a_study_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    results = report_study(tmp_path / "study")
    assert len(results["unfinished"]) == 6
    lines = markdown_table(results).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_figures_are_drawn_to_scale_and_escape_names(study: Path) -> None:
    report_study(study)
    names = {path.stem for path in (study / "plots").iterdir()}
    by = {f"solved-by-{budget}" for budget in ("completions", "forwards", "seconds")}
    assert names == by | {"solved-final"}
    space = "{http://www.w3.org/2000/svg}"
    for path in (study / "plots").iterdir():
        figure = ElementTree.parse(path).getroot()
        texts = [text.text for text in figure.iter(f"{space}text")]
        assert {"ESPO", HOSTILE} <= set(texts)
        assert "http" not in path.read_text().replace("http://www.w3.org/2000/svg", "")
    figure = ElementTree.parse(study / "plots" / "solved-by-forwards.svg").getroot()
    points = [
        (float(circle.get("cx", 0)), float(circle.get("cy", 0)))
        for circle in figure.iter(f"{space}circle")
    ][:3]
    # ESPO at 0, 200 and 400 forwards with 20, 40 and 70 %.
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    rise = (points[1][1] - points[2][1]) / (points[0][1] - points[1][1])
    assert rise == pytest.approx(1.5, abs=0.01)


def test_the_page_is_self_contained_and_inert(study: Path) -> None:
    main_report(study)
    page = (study / "report.html").read_text()
    assert HOSTILE not in page
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    block = re.search(r'<script type="application/json" id="run-data">(.*?)</script>', page, re.S)
    assert block is not None
    data = json.loads(block[1])
    assert [line["name"] for line in data["panels"][0]["charts"][0]["points"]] == ["ESPO", HOSTILE]
    assert data["axes"]["ESPO/held out"]["forwards"] == [0, 200, 400]


def main_report(folder: Path) -> None:
    try:
        main(["report", str(folder)])
    except SystemExit as done:
        assert not done.code


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml"):
        report_study(tmp_path)
