"""Runs as processes of their own: resumed, failed, stopped; a small script stands for training."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.config import CompareConfig
from unmask.errors import Preempted
from unmask.recipe import validate
from unmask.study.plan import StudyRun, make_plan
from unmask.study.runner import last_error, run_all
from unmask.training.interrupt import Interruption

# Reads the run's folder and seed from its recipe, as training would.
STAND_IN = """
import os, pathlib, re, signal, sys, time
text = pathlib.Path(sys.argv[1]).read_text()
folder = pathlib.Path(re.search("^output_dir: (.*)$", text, re.M).group(1))
seed = int(re.search("^seed: (.*)$", text, re.M).group(1))
def stop(*_):
    (folder / "saved").touch()
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
with (folder / "starts").open("a") as file:
    file.write(os.environ["OMP_NUM_THREADS"])
if seed == 13:
    print("some line")
    sys.exit("unmask: the run diverged\\n")
if seed == 99:
    time.sleep(60)
(folder / "results.json").write_text("{}")
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    return [sys.executable, str(script)]


def runs(tmp_path: Path, *seeds: int) -> list[StudyRun]:
    raw: dict[str, Any] = {"methods": {"espo": {}}, "seeds": list(seeds)}
    raw["output_dir"] = str(tmp_path / "study")
    return make_plan(validate(CompareConfig, raw)).reported


def starts(run: StudyRun) -> str:
    file = run.folder / "starts"
    return file.read_text() if file.is_file() else ""


@pytest.fixture
def watched() -> Iterator[Interruption]:
    interruption = Interruption()
    with interruption.watch():
        yield interruption


def test_each_run_is_a_process_with_one_thread_and_finished_ones_stay(
    tmp_path: Path, command: list[str]
) -> None:
    three = runs(tmp_path, 1, 2, 3)
    run_all(three[:1], 2, Interruption(), lambda _: None, command)
    told: list[str] = []
    run_all(three, 2, Interruption(), told.append, command)
    assert [starts(run) for run in three] == ["1", "1", "1"]
    assert all(run.finished for run in three)
    assert told[0] == "1 of 3 runs are finished already"
    assert sorted(line.partition(":")[0][6:] for line in told[1:]) == ["espo seed 2", "espo seed 3"]


def test_a_failure_is_told_by_its_last_line_and_does_not_stop_the_others(
    tmp_path: Path, command: list[str]
) -> None:
    bad, good = runs(tmp_path, 13, 2)
    told: list[str] = []
    run_all([bad, good], 1, Interruption(), told.append, command)
    assert told[0] == "[1/2] espo seed 13: failed: the run diverged"
    assert good.finished
    assert not bad.finished
    assert last_error(bad.folder) == "the run diverged"
    assert last_error(tmp_path) == "not started"


def test_broken_results_do_not_keep_a_run_from_going_on(tmp_path: Path, command: list[str]) -> None:
    (run,) = runs(tmp_path, 13)
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").write_text('{"before": ')
    run_all([run], 1, Interruption(), lambda _: None, command)
    assert starts(run) == "1"
    assert not (run.folder / "results.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_process_save_and_starts_no_more(
    tmp_path: Path, command: list[str], watched: Interruption, number: int
) -> None:
    running, waiting = runs(tmp_path, 99, 1)

    def send() -> None:
        while not starts(running):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Preempted, match="2 of 2 runs are not finished"):
        run_all([running, waiting], 1, watched, lambda _: None, command)
    thread.join()
    assert (running.folder / "saved").is_file()
    assert starts(waiting) == ""


def test_the_recipe_of_a_run_is_the_resolved_one(tmp_path: Path, command: list[str]) -> None:
    from unmask.recipe import load_config

    (run,) = runs(tmp_path, 5)
    run_all([run], 1, Interruption(), lambda _: None, command)
    assert load_config([str(run.folder / "recipe.yaml")], "train") == run.config
    assert json.loads((run.folder / "results.json").read_text()) == {}
