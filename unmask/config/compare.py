"""A study: a grid of runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from unmask.schema import Section


class TuneConfig(Section):
    """One small grid that every method of a study is tuned over.

    Args:
        key: the setting, with dots.
        values: tried by every method; of equal scores the first wins.
        seeds: of the tuning runs; none that is reported.
        eval_split: measured on while tuning; the other split than the reported one has no problem
            in common with it.
        overrides: for the tuning runs alone, such as fewer rounds.
    """

    key: str = "optimizer.lr"
    values: list[Any] = Field(min_length=2)
    seeds: list[int] = Field([101], min_length=1)
    eval_split: str = "train"
    overrides: dict[str, Any] = {}


class CompareConfig(Section):
    """A study: several methods, several seeds, one budget.

    Args:
        command: which command the recipe is for.
        base: the training recipe that all runs share, by name or path.
        overrides: settings that hold for all runs, nested or with dotted keys.
        methods: by name the settings that make a method; one that names another objective than
            the base's starts from that objective's paper instead of the base's estimator and
            advantage.
        seeds: of the reported runs.
        tune: the grid; null = each method as it is given.
        measure: the evaluation that is tuned and reported.
        processes: runs at once, one thread each.
        output_dir: the study folder; {recipe} is filled in.
    """

    command: Literal["compare"] = "compare"
    base: str = "sudoku-tiny"
    overrides: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}
    seeds: list[int] = Field([1, 2, 3], min_length=1)
    tune: TuneConfig | None = None
    measure: Literal["greedy", "sampled"] = "sampled"
    processes: int = Field(2, ge=1)
    output_dir: str = "runs/{recipe}"
