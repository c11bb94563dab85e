"""How far a run has come, and how that reads: pure functions from rows of metrics to text.

Rows are the ones of `metrics.jsonl`. What a row lacks is left out; no metric is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

BLOCKS = "▁▂▃▄▅▆▇█"
HISTORY = 120
PACE_WINDOW = 20
# Row key, label, format: the order is the order on the screen.
METRICS = (
    ("reward", "reward", "{:.3f}"),
    ("solved", "solved", "{:.1%}"),
    ("kl", "KL", "{:.3g}"),
    ("clip_fraction", "clipped", "{:.1%}"),
    ("loss", "loss", "{:.4g}"),
    ("grad_norm", "grad norm", "{:.3g}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
)


@dataclass(frozen=True)
class Progress:
    """What is known of a run; replaced as a whole, since another thread draws it.

    Attributes:
        total: rollout rounds, or steps for supervised fine-tuning.
        title: what is being trained.
        began: clock reading at the start, in seconds.
        row: the newest row of metrics.
        done: number of the round (or step) that `row` belongs to.
        history: one reward (or loss) a round, the newest last.
        marks: (clock reading, done) at the first row of each of the newest rounds.
    """

    total: int = 0
    title: str = ""
    began: float = 0.0
    row: Row = field(default_factory=dict)
    done: int = 0
    history: tuple[float | None, ...] = ()
    marks: tuple[tuple[float, int], ...] = ()

    @property
    def supervised(self) -> bool:
        """Whether the run counts steps of supervised fine-tuning, not rollout rounds."""
        return self.row.get("kind") == "sft"

    def advance(self, row: Row, now: float) -> Progress:
        """The progress after one more row of training metrics, at clock reading `now`."""
        supervised = row.get("kind") == "sft"
        position = number(row, "step" if supervised else "rollout")
        value = number(row, "loss" if supervised else "reward")
        if position is None or not math.isfinite(position):
            return replace(self, row=row)
        done = int(position)
        if self.marks and done == self.done:
            return replace(self, row=row, history=(*self.history[:-1], value))
        # A resumed run did not do the rounds before its first row.
        marks = self.marks or ((self.began, done - 1),)
        return replace(
            self,
            row=row,
            done=done,
            history=(*self.history, value)[-HISTORY:],
            marks=(*marks, (now, done))[-PACE_WINDOW:],
        )

    def seconds_left(self, now: float) -> float | None:
        """Time to the end at the pace of the newest rounds; None before the first."""
        if not self.marks:
            return None
        (first_time, first_done), (last_time, last_done) = self.marks[0], self.marks[-1]
        pace = (last_time - first_time) / max(last_done - first_done, 1)
        # A slow round says nothing of the ones after it.
        in_this_round = min(now - last_time, pace)
        return max(pace * (self.total - last_done) - in_this_round, 0.0)


def number(row: Row, key: str) -> float | None:
    """A value of a row as a float; None where there is none or it is no number."""
    try:
        return float(row[key])
    except (KeyError, TypeError, ValueError):
        return None


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as one block character each, scaled from their least to their most.

    Values that are None, infinite or not a number leave a gap; equal values stand at half height.
    """
    shown = values[-width:] if width > 0 else []
    finite = [value for value in shown if value is not None and math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    low, span = min(finite), max(finite) - min(finite)
    top = len(BLOCKS) - 1

    def block(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        share = (value - low) / span if span > 0 else 0.5
        return BLOCKS[int(share * top + 0.5)]

    return "".join(map(block, shown))


def training_line(progress: Progress, now: float) -> str:
    """One line of plain text on the newest row."""
    done, elapsed, left = _position(progress, now)
    values = [f"{label} {value}" for label, value in _labelled_metrics(progress.row)]
    return "  ".join(filter(None, [done, *values, elapsed, left]))


def evaluation_line(row: Row, total: int) -> str:
    """One line on an evaluation: when, and each accuracy with its sample size and interval."""
    rollout = number(row, "rollout")
    if rollout is None:
        when = "evaluation"
    elif rollout <= 0:
        when = "before training"
    else:
        when = "after training" if rollout == total else f"after rollout {rollout:.0f}"
    results = [_accuracy(name, row.get(name)) for name in ("greedy", "sampled")]
    return "  ".join(filter(None, [f"{when}:", *results]))


def panel(progress: Progress, now: float, width: int, blocks: bool) -> RenderableType:
    """The live panel: title, progress, reward curve (loss curve in sft) and newest metrics.

    Args:
        progress: of the run.
        now: clock reading, in seconds.
        width: of the terminal, in columns.
        blocks: whether the terminal can show block characters; if not, there is no curve.
    """
    done, elapsed, left = _position(progress, now)
    bar = ProgressBar(
        total=max(progress.total, 1),
        completed=progress.done,
        width=max(width - len(done) - len(elapsed) - len(left) - 8, 10),
    )
    position = Table.grid(padding=(0, 2, 0, 0))
    position.add_row(Text(done, style="bold"), bar, Text(elapsed), Text(left))
    lines: list[RenderableType] = [
        Text(progress.title, style="bold", no_wrap=True, overflow="ellipsis"),
        position,
    ]
    if blocks and any(value is not None for value in progress.history):
        label = "loss  " if progress.supervised else "reward  "
        curve = sparkline(progress.history, max(width - len(label), 1))
        lines.append(Text.assemble((label, "dim"), (curve, "green"), no_wrap=True))
    values = Text()
    for label, value in _labelled_metrics(progress.row):
        values.append(f"{label} ", "dim").append(f"{value}   ")
    return Group(*lines, values)


def _position(progress: Progress, now: float) -> tuple[str, str, str]:
    unit = "step" if progress.supervised else "rollout"
    left = progress.seconds_left(now)
    return (
        f"{unit} {progress.done}/{progress.total}",
        f"{duration(now - progress.began)} elapsed",
        "" if left is None else f"{duration(left)} left",
    )


def _labelled_metrics(row: Row) -> Iterator[tuple[str, str]]:
    for key, label, form in METRICS:
        value = number(row, key)
        if value is not None:
            yield label, form.format(value)


def _accuracy(name: str, result: object) -> str:
    if not isinstance(result, Mapping):
        return ""
    accuracy, low, high, n = (number(result, key) for key in ("accuracy", "low", "high", "n"))
    if accuracy is None:
        return ""
    size = "" if n is None else f" of {n:,.0f}"
    interval = "" if low is None or high is None else f" [{low:.1%}, {high:.1%}]"
    return f"{name} {accuracy:.1%}{size}{interval}"
