"""A conversation with a model in the terminal, every reply unmasked before one's eyes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch import Tensor

from unmask.config import TrainConfig
from unmask.generation import sample
from unmask.models.policy import Policy, load_policy
from unmask.recipe import parse_overrides, validate
from unmask.sampling.settings import Sampler
from unmask.watch import Frame, merge_sections, model_options

HELP = "empty line or /quit: leave; /new: forget the conversation"


def chat(
    model: str,
    overrides: Sequence[str],
    console: Console,
    delay: float,
    read: Callable[[str], str] = input,
) -> None:
    """Answer one message after the other until an empty line, /quit or the end of the input.

    The conversation so far is the prompt, through the model's chat template; where there is none,
    each message is a prompt by itself. The first messages are forgotten where the network has too
    few positions for all.

    Args:
        model: a folder, a packaged model's name, or a hub id.
        overrides: dotted keys of `model`, `sampler` and `seed`.
        console: where to draw.
        delay: seconds between steps on a terminal.
        read: asks for a message.

    Raises:
        ValueError: for a model, settings or a message that do not fit.
    """
    given = parse_overrides(overrides)
    policy = load_policy(model, **model_options(given))
    config = validate(TrainConfig, merge_sections(policy.defaults, given))
    assert isinstance(config, TrainConfig)
    console.print(Text(HELP, style="dim"))
    history: list[dict[str, str]] = []
    seed = config.seed
    while True:
        try:
            message = read("> ").strip()
        except EOFError:
            return
        if message in ("", "/quit"):
            return
        if message == "/new":
            history = []
            continue
        history.append({"role": "user", "content": message})
        history = fitting(policy, history, config.sampler.gen_length)
        # Equal messages need not get equal replies.
        reply = _answer(policy, history, config.sampler, seed, console, delay)
        console.print(Text(reply))
        history.append({"role": "assistant", "content": reply})
        seed += 1


def fitting(policy: Policy, history: list[dict[str, str]], gen_length: int) -> list[dict[str, str]]:
    """The conversation without as many first exchanges as the network has no positions for."""
    if policy.tokenizer.chat_template is None:
        return history[-1:]
    limit = getattr(policy.config, "max_position_embeddings", None)
    while limit and len(history) > 2 and len(policy.encode(history)) + gen_length > limit:
        history = history[2:]
    return history


def _answer(
    policy: Policy,
    history: list[dict[str, str]],
    sampler: Sampler,
    seed: int,
    console: Console,
    delay: float,
) -> str:
    prompt = history if policy.tokenizer.chat_template else history[-1]["content"]
    if not console.is_terminal:
        return sample(policy, [prompt], sampler, seed=seed)[0].text
    frame = Frame(policy, prompt, sampler)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def draw(step: int, canvas: Tensor, confidence: Tensor) -> None:
            live.update(frame.render(step, canvas[0], confidence[0]), refresh=True)
            time.sleep(delay)

        return sample(policy, [prompt], sampler, seed=seed, on_step=draw)[0].text
