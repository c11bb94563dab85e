"""One run's surroundings: its folder, processes, trackers and display."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from unmask.config import SFTConfig, TrainConfig
from unmask.models.policy import Policy
from unmask.recipe import decisive_settings, flatten, to_yaml
from unmask.training import checkpoint
from unmask.training.display import make_display
from unmask.training.run_folder import RunFolder, describe_environment, finite


class Run:
    """Decides the run folder on rank 0, then writes to it from there only.

    Args:
        config: the run's.
        show: draw progress on the terminal.

    Raises:
        ValueError: if a tracker is not installed, the folder already holds a run, or there is
            nothing to resume.
    """

    def __init__(self, config: TrainConfig | SFTConfig, *, show: bool) -> None:
        self.config = config
        for tracker in config.logging.trackers:
            _require_tracker(tracker)
        found: list[Any] = [None, None]
        # Without an accelerator, accelerate joins the processes only where it is told so.
        cpu = not torch.accelerator.is_available()
        state = PartialState(cpu=cpu)
        _require_share(config, state.num_processes)
        if state.is_main_process:
            found = _find_folder(config)
        broadcast_object_list(found)
        path, self.resume_from = found
        if isinstance(path, ValueError):
            raise path
        self.folder = RunFolder(path)
        self.accelerator = Accelerator(
            cpu=cpu,
            log_with=config.logging.trackers or None,
            project_config=ProjectConfiguration(
                project_dir=str(path), logging_dir=str(path / "tensorboard")
            ),
        )
        self.is_main = state.is_main_process
        self._display = make_display(show and self.is_main)

    def start(self, step: int) -> None:
        """Write what a run knows of itself before the first update.

        Args:
            step: where a resumed run goes on; metrics behind it are forgotten.
        """
        config = self.config
        if config.logging.trackers:
            settings = _for_trackers(config.model_dump(mode="json"))
            self.accelerator.init_trackers("unmask", config=settings)
        if not self.is_main:
            return
        self.folder.drop_metrics_after(step)
        self.folder.write_text("config.yaml", to_yaml(config))
        environment = describe_environment(self.accelerator.num_processes)
        self.folder.write_json("environment.json", environment)
        if isinstance(config, TrainConfig):
            self._display.start(
                config.training.num_rollouts,
                f"{type(config.objective).__name__} on {config.model.path} -> {self.folder.path}",
                config.training.num_iterations,
            )
        else:
            self._display.start(config.training.num_steps, f"sft -> {self.folder.path}")

    def log(self, row: Mapping[str, Any]) -> None:
        """One row to metrics.jsonl, the display and the trackers."""
        if self.is_main:
            self.folder.append_metrics(row)
            self._display.update(finite(row))
        if self.config.logging.trackers:
            numbers = {
                name: value
                for name, value in _for_trackers(row).items()
                if isinstance(value, int | float)
            }
            self.accelerator.log(numbers, step=row["step"])

    def message(self, text: str) -> None:
        """A line above the display."""
        if self.is_main:
            self._display.message(text)

    def close(self) -> None:
        """Give the terminal back and flush the trackers."""
        self._display.stop()
        self.accelerator.end_training()

    def write_rollouts(self, rollout: int, records: Sequence[Mapping[str, Any]]) -> None:
        """A round's completions."""
        if self.is_main:
            self.folder.write_rollouts(rollout, records)

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file of the run."""
        if self.is_main:
            self.folder.write_json(name, value)

    def write_checkpoint(
        self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """A checkpoint after `step` updates; other ranks wait until it stands."""
        if self.is_main:
            checkpoint.write_checkpoint(
                self.folder.checkpoints / f"step-{step:06d}",
                state,
                tensors,
                keep=self.config.checkpoint.keep,
            )
        self.accelerator.wait_for_everyone()

    def save_model(self, policy: Policy, model: nn.Module, name: str = "model") -> None:
        """Write a folder in one move, full weights, loadable by transformers alone."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=options)
        if self.is_main:
            final, temporary = self.folder.path / name, self.folder.path / f".{name}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            policy.save(temporary, cast(dict[str, Tensor], weights))
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        self.accelerator.wait_for_everyone()

    def identity(self) -> dict[str, Any]:
        """What a checkpoint is checked against before a run goes on from it."""
        return {
            "settings": decisive_settings(self.config),
            "num_processes": self.accelerator.num_processes,
        }

    def require_same_run(self, state: Mapping[str, Any]) -> None:
        """Refuse to go on under settings that would not give the same run."""
        then, now = flatten(state["settings"]), flatten(decisive_settings(self.config))
        changed = sorted(
            name for name in then.keys() | now.keys() if then.get(name) != now.get(name)
        )
        if changed:
            raise ValueError(
                f"{self.resume_from} was written under another {', '.join(changed)}: resume with "
                f"the recipe {self.folder.path / 'config.yaml'}, or start anew with resume=never"
            )
        if state["num_processes"] != self.accelerator.num_processes and any(
            self.resume_from.glob("pending-*")
        ):
            raise ValueError(
                f"{self.resume_from} was written in the middle of a round by "
                f"{state['num_processes']} processes, now there are "
                f"{self.accelerator.num_processes}: use as many"
            )


def _require_share(config: TrainConfig | SFTConfig, num_processes: int) -> None:
    shared = "batch_size" if isinstance(config, SFTConfig) else "prompts_per_rollout"
    count = getattr(config.training, shared)
    if count < num_processes:
        raise ValueError(
            f"training.{shared}={count}: each of {num_processes} processes needs one; "
            "raise it or start fewer processes"
        )


def _find_folder(config: TrainConfig | SFTConfig) -> list[Any]:
    """[run folder, checkpoint to resume from or None], or [the error, None]."""
    template = config.output_dir
    path = Path(template.replace("{time}", time.strftime("%Y%m%d-%H%M%S"))).expanduser()
    resume = config.checkpoint.resume
    try:
        if resume == "auto":
            candidates = [path]
            if "{time}" in template:
                whole = Path(template.replace("{time}", "*")).expanduser()
                candidates = sorted(whole.parent.glob(whole.name), reverse=True)
            for candidate in candidates:
                saved = checkpoint.list_checkpoints(candidate / "checkpoints")
                if saved and not (candidate / "results.json").is_file():
                    return [candidate, saved[-1]]
        elif resume != "never":
            return _explicit(Path(resume).expanduser())
        if (path / "metrics.jsonl").is_file() and resume == "never":
            raise ValueError(
                f"output_dir={path} already holds a run: choose another folder, or go on with "
                "resume=auto"
            )
    except ValueError as error:
        return [error, None]
    return [path, None]


def _explicit(path: Path) -> list[Any]:
    if (path / "checkpoints").is_dir():
        saved = checkpoint.list_checkpoints(path / "checkpoints")
        if saved:
            return [path, saved[-1]]
    if (path / checkpoint.STATE_FILE).is_file():
        return [path.resolve().parent.parent, path]
    raise ValueError(
        f"checkpoint.resume={str(path)!r} holds no checkpoint: give a run folder, one of its "
        "checkpoints/step-… folders, auto or never"
    )


def _require_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(
            f"logging.trackers: {name!r} is unknown: choose "
            f"{', '.join(sorted(LOGGER_TYPE_TO_CLASS))}"
        )
    if importlib.util.find_spec(name) is None and name != "comet_ml":
        raise ValueError(
            f"logging.trackers: {name} is not installed: pip install {name}, or leave it out"
        )


def _for_trackers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat, and only what every tracker can hold."""
    flat = flatten(values, separator="/")
    simple = int | float | str | bool
    return {name: v if isinstance(v, simple) else str(v) for name, v in flat.items()}
