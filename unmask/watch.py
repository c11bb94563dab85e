"""Watching one completion being unmasked in the terminal, coloured by confidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text
from torch import Tensor

from unmask.config import TrainConfig
from unmask.generation import prompt_text, sample
from unmask.models.policy import Policy, Prompt, load_policy
from unmask.recipe import ConfigError, parse_overrides, validate
from unmask.sampling.settings import Sampler
from unmask.tasks import get_task

HIDDEN = "░░"
# From unsure to sure.
COLOURS = ("#d7301f", "#fc8d59", "#fdcc8a", "#c7e9b4", "#7fcdbb", "#2ca25f")


def watch_completion(
    model: str, prompt: str | None, overrides: Sequence[str], console: Console, delay: float
) -> None:
    """Sample one completion and draw every denoising step; off a terminal, only the last.

    Args:
        model: a folder, a packaged model's name, or a hub id.
        prompt: a user's message; None = a held-out problem of the model's task.
        overrides: dotted keys of `model`, `sampler`, `task` and `seed`.
        console: where to draw.
        delay: seconds between steps on a terminal.

    Raises:
        ValueError: for a model or settings that do not fit.
    """
    given = parse_overrides(overrides)
    policy = load_policy(model, **model_options(given))
    config = validate(TrainConfig, merge_sections(policy.defaults, given))
    assert isinstance(config, TrainConfig)
    messages = _problem(policy, config) if prompt is None else _as_prompt(policy, prompt)
    steps = config.sampler.steps
    frame = Frame(policy, messages, config.sampler)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:

            def draw(step: int, canvas: Tensor, confidence: Tensor) -> None:
                live.update(frame.render(step, canvas[0], confidence[0]), refresh=True)
                time.sleep(delay)

            completion = sample(policy, [messages], config.sampler, seed=config.seed, on_step=draw)[
                0
            ]
    else:
        last: list[Panel] = []

        def keep(step: int, canvas: Tensor, confidence: Tensor) -> None:
            last[:] = [frame.render(step, canvas[0], confidence[0])]

        completion = sample(policy, [messages], config.sampler, seed=config.seed, on_step=keep)[0]
        console.print(*last)
    used = len({step for step in completion.step_map if step < steps})
    console.print(Text(f"{completion.text}\n"), Text(f"{used} of {steps} steps", style="dim"))


class Frame:
    """Draws a canvas: hidden tokens as blocks, the others coloured by confidence."""

    def __init__(self, policy: Policy, prompt: Prompt, sampler: Sampler) -> None:
        self._policy = policy
        self._prompt = prompt_text(prompt)
        self._sampler = sampler

    def render(self, step: int, canvas: Tensor, confidence: Tensor) -> Panel:
        """One step of one completion.

        Args:
            step: number of the step, from 0.
            canvas: int64 [L].
            confidence: float32 [L], the probability of each token when it was revealed.
        """
        text = Text()
        mask_id = self._policy.family.mask_token_id
        tokens = self._policy.token_texts(canvas.tolist())
        for token, token_id, sure in zip(tokens, canvas.tolist(), confidence.tolist(), strict=True):
            if token_id == mask_id:
                text.append(f"{HIDDEN} ", style="dim")
            else:
                colour = COLOURS[min(int(sure * len(COLOURS)), len(COLOURS) - 1)]
                text.append(f"{token.strip() or token} ", style=colour)
        title = f"step {step + 1} of {self._sampler.steps}"
        # As text: a prompt may have brackets, which rich takes for markup.
        prompt = Text(self._prompt[-200:])
        return Panel(text, title=prompt, subtitle=title, title_align="left")


def _problem(policy: Policy, config: TrainConfig) -> Prompt:
    if "task" not in policy.defaults:
        raise ConfigError(
            f"{policy.source} does not say which task it was trained on: give a prompt, as in "
            "unmask sample MODEL 'a question'"
        )
    task = get_task(config.task.name, config.sandbox, **config.task.options)
    prompt = config.task.prompt or task.prompts[0]
    return task.build("heldout", size=1, seed=config.seed, prompt=prompt)[0]["prompt"]


def _as_prompt(policy: Policy, text: str) -> Prompt:
    if policy.tokenizer.chat_template is None:
        return text
    return [{"role": "user", "content": text}]


def model_options(given: dict[str, Any]) -> dict[str, Any]:
    """What overrides ask of `load_policy`, without what is for training alone.

    Raises:
        ConfigError: for keys that `model` has not, and a second path.
    """
    section = given.get("model", {})
    options = validate(TrainConfig, {"model": section}).model.for_use
    if "path" in section:
        raise ConfigError(f"model.path={section['path']} beside MODEL: name the model once")
    del options["path"]
    return options


def merge_sections(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Sections of a config with what is given in place of the defaults, key by key."""
    merged = dict(defaults)
    for section, value in given.items():
        both = isinstance(value, dict) and isinstance(merged.get(section), dict)
        merged[section] = {**merged[section], **value} if both else value
    return merged
