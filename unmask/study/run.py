"""A study from its recipe to its report: tune every method, run the reported seeds, write it up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmask.config import CompareConfig
from unmask.recipe import to_yaml
from unmask.study.plan import STUDY_FILE, make_plan
from unmask.study.report import report_study
from unmask.study.results import chosen_value
from unmask.study.runner import run_all
from unmask.training.interrupt import Interruption


def run_study(config: CompareConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run what has not finished yet, then write the report.

    Args:
        config: of the study.
        tell: gets a line of progress.

    Returns:
        The content of results.json.

    Raises:
        ConfigError: before anything runs, see `make_plan`.
        Preempted: after a signal; the same call goes on.
    """
    plan = make_plan(config)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STUDY_FILE).write_text(to_yaml(config), "utf-8")
    interruption = Interruption()
    with interruption.watch():
        if plan.tuning:
            tell(f"tuning: {len(plan.tuning)} runs")
            run_all(plan.tuning, config.processes, interruption, tell)
        chosen = {method: chosen_value(config, folder, method) for method in config.methods}
        runs = [
            run
            for run in plan.reported
            if run.value == chosen[run.method] and (run.value is not None or config.tune is None)
        ]
        tell(f"reported: {len(runs)} runs")
        run_all(runs, config.processes, interruption, tell)
    return report_study(folder)
