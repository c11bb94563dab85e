"""From a study's recipe to its runs: every one resolved and checked before the first begins."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.config import CompareConfig, TrainConfig
from unmask.models.paths import find_local_model
from unmask.recipe import (
    ConfigError,
    config_hash,
    flatten,
    load_config,
    renamed,
    replaced_sections,
    validate,
)
from unmask.tasks import get_task

STUDY_FILE = "study.yaml"


@dataclass(frozen=True)
class StudyRun:
    """One training run of a study.

    Attributes:
        method: its name in the recipe.
        value: of the tuned setting; None where nothing is tuned.
        seed: of the run.
        folder: where it writes.
        config: resolved.
    """

    method: str
    value: Any
    seed: int
    folder: Path
    config: TrainConfig

    @property
    def label(self) -> str:
        """Name in messages."""
        value = "" if self.value is None else f" {show(self.value)}"
        return f"{self.method}{value} seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its results stand."""
        return read_results(self.folder) is not None


@dataclass(frozen=True)
class Plan:
    """All runs that a study may need.

    Attributes:
        tuning: those of the grid; empty where nothing is tuned.
        reported: those of the reported seeds, at every value that the tuning may choose.
    """

    tuning: list[StudyRun]
    reported: list[StudyRun]


def make_plan(config: CompareConfig) -> Plan:
    """Resolve and check every run of a study.

    Raises:
        ConfigError: one line, for the first run that the schema refuses, a task or model that does
            not exist, or a folder that holds other runs.
    """
    _check(config)
    base = _base(config)
    tune = config.tune
    values = [None] if tune is None else tune.values
    tuning, reported = [], []
    for method in config.methods:
        for value in values:
            for seed in tune.seeds if tune else []:
                tuning.append(_run(config, base, method, value, seed, tuning=True))
            for seed in config.seeds:
                reported.append(_run(config, base, method, value, seed, tuning=False))
    for run in [*tuning, *reported]:
        _require_measured(config, run)
        _require_same(run)
    for run, other in zip(tuning, reported, strict=False):
        _require_other_problems(run, other)
    return Plan(tuning, reported)


def run_folder(study: Path, method: str, value: Any, seed: int) -> Path:
    """Where a run of a study writes."""
    name = f"seed{seed}" if value is None else f"{_slug(show(value))}-seed{seed}"
    return study / "runs" / _slug(method) / name


def read_results(folder: Path) -> dict[str, Any] | None:
    """What a run's results.json holds; None where it is missing or broken, so the run goes on."""
    try:
        results = json.loads((folder / "results.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return results if isinstance(results, dict) else None


def show(value: Any) -> str:
    """A value of the grid as short text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def expanded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        nested = expanded(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            nested = {part: nested}
        result = merged(result, nested)
    return result


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, key by key; a section that gets another `name` is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not renamed(below, value):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def _check(config: CompareConfig) -> None:
    if not config.methods:
        raise ConfigError(
            "methods is empty: a study compares some; give methods: {NAME: {KEY: VALUE}}"
        )
    folders: dict[str, str] = {}
    for method in config.methods:
        other = folders.setdefault(_slug(method), method)
        if other != method or not _slug(method):
            raise ConfigError(
                f"methods: {method!r} and {other!r} would share the folder {_slug(method)!r}: "
                "give each a name of its own letters and digits"
            )
    if "{time}" in config.output_dir:
        raise ConfigError(
            f"output_dir={config.output_dir!r}: a stopped study is found again by its folder; "
            "leave {time} out"
        )
    _require_free(config)
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds={config.seeds}: a seed counts once; leave out what repeats")
    if config.tune is None:
        return
    shared = sorted({*config.seeds} & {*config.tune.seeds})
    if shared:
        raise ConfigError(
            f"tune.seeds={config.tune.seeds}: {shared[0]} is reported too, and what is tuned on "
            "must not be; give seeds of their own"
        )
    if len({_slug(show(value)) for value in config.tune.values}) < len(config.tune.values):
        raise ConfigError(
            f"tune.values={config.tune.values}: a value counts once; leave out what repeats"
        )


def _require_free(config: CompareConfig) -> None:
    """Refuse settings that the study itself gives to every run."""
    tuning = {} if config.tune is None else config.tune.overrides
    layers = {"overrides": config.overrides, "tune.overrides": tuning}
    layers |= {f"methods.{name}": settings for name, settings in config.methods.items()}
    for where, settings in layers.items():
        given = flatten(expanded(settings))
        for key in ("seed", "output_dir", "checkpoint.resume"):
            if key in given:
                raise ConfigError(
                    f"{where} sets {key}, which a study gives to each of its runs: leave it out"
                )


def _base(config: CompareConfig) -> dict[str, Any]:
    """The base recipe, resolved; a study's runs keep no rollouts, trackers or best models."""
    base = load_config([config.base], "train").model_dump(mode="json")
    quiet = {
        "logging": {"trackers": [], "rollouts": False},
        "evaluation": {"keep_best": False},
    }
    return merged(merged(base, quiet), {"checkpoint": {"resume": "auto"}})


def _run(
    config: CompareConfig,
    base: Mapping[str, Any],
    method: str,
    value: Any,
    seed: int,
    *,
    tuning: bool,
) -> StudyRun:
    raw = dict(base)
    settings = expanded(config.methods[method])
    for section in replaced_sections(raw, settings):
        del raw[section]
    layers = [expanded(config.overrides), settings]
    if config.tune is not None:
        layers.append(expanded({config.tune.key: value}))
        if tuning:
            split = {"task": {"eval_split": config.tune.eval_split}}
            layers += [split, expanded(config.tune.overrides)]
    folder = run_folder(Path(config.output_dir), method, value, seed)
    layers.append({"seed": seed, "output_dir": str(folder)})
    for layer in layers:
        raw = merged(raw, layer)
    return StudyRun(method, value, seed, folder, _validated(raw, method, value))


def _validated(raw: Mapping[str, Any], method: str, value: Any) -> TrainConfig:
    where = f"methods.{method}" + ("" if value is None else f" at {show(value)}")
    try:
        config = validate(TrainConfig, raw)
        find_local_model(config.model.path)
        get_task(config.task.name, config.sandbox, **config.task.options)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return config


def _require_measured(config: CompareConfig, run: StudyRun) -> None:
    if not getattr(run.config.evaluation, config.measure):
        raise ConfigError(
            f"measure={config.measure}: methods.{run.method} has evaluation.{config.measure}=false;"
            " set it to true or measure the other way"
        )


def _require_other_problems(run: StudyRun, reported: StudyRun) -> None:
    if run.config.task.eval_split == reported.config.task.eval_split:
        raise ConfigError(
            f"tune.eval_split={run.config.task.eval_split!r}: these problems are reported too, and "
            "what is tuned on must not be; name another split"
        )


def _require_same(run: StudyRun) -> None:
    """Refuse a folder whose run had other settings."""
    results, recipe = read_results(run.folder), run.folder / "config.yaml"
    wanted = config_hash(run.config)
    found: str | None = wanted
    if results is not None:
        found = results.get("config_hash")
    elif recipe.is_file():
        try:
            found = config_hash(load_config([str(recipe)], "train"))
        except ConfigError as error:
            raise ConfigError(
                f"output_dir: {run.folder} holds a run that cannot be read ({error}): remove that "
                "folder, or give another output_dir"
            ) from None
    if found != wanted:
        raise ConfigError(
            f"output_dir: {run.folder} holds a run with other settings: a study goes on with the "
            "ones it began with; give another output_dir, or remove that folder"
        )


def _slug(text: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
