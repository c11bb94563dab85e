"""Where a run shows its progress: a live panel on a terminal, plain lines anywhere else."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live

from unmask.training.progress import Progress, Row, evaluation_line, panel, training_line

Clock = Callable[[], float]

REFRESHES_PER_SECOND = 4
PLAIN_SFT_LINES = 100


class Display(Protocol):
    """Where a training loop reports; `stop` may be called at any time, and more than once."""

    def start(self, total: int, title: str, updates_per_rollout: int | None = None) -> None:
        """Begin a run.

        Args:
            total: rollout rounds, or optimizer steps for supervised fine-tuning.
            title: one line that says what is being trained.
            updates_per_rollout: rows of metrics that a rollout round brings. Where it is None,
                plain output learns that a round is over when the next one begins.
        """

    def update(self, row: Row) -> None:
        """Show a row of metrics.

        Args:
            row: its `kind` is "update" (`rollout`, `step`, `reward`, `solved`, `kl`,
                `clip_fraction`, `loss`, `grad_norm`, `tokens_per_second`), "evaluation"
                (`rollout`, and `greedy` and `sampled`, each with `accuracy`, `low`, `high`, `n`)
                or "sft" (`step`, `loss`). Rollouts and steps count from 1; rollout 0 is the state
                before training. Fractions are in [0, 1]. Missing and None values are left out.
        """

    def message(self, text: str) -> None:
        """Show a line of text."""

    def stop(self) -> None:
        """End the display and give the terminal back as it was."""


def make_display(enabled: bool, console: Console | None = None) -> Display:
    """The display that suits the place where the output goes.

    Args:
        enabled: False on every rank but the first: nothing is shown.
        console: where to draw; by default standard output.
    """
    if not enabled:
        return PlainDisplay(Console(quiet=True))
    if console is None:
        # FORCE_COLOR makes rich take a file for a terminal; moving a cursor in one helps nobody.
        console = Console(force_interactive=None if sys.stdout.isatty() else False)
    return LiveDisplay(console) if console.is_interactive else PlainDisplay(console)


class LiveDisplay:
    """A panel that is redrawn in place a few times a second; other lines are printed above it."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._progress = Progress()
        self._live: Live | None = None

    def start(self, total: int, title: str, updates_per_rollout: int | None = None) -> None:
        """See `Display.start`."""
        self.stop()
        self._progress = Progress(total=total, title=title, began=self._clock())
        self._live = Live(
            console=self._console,
            get_renderable=self._panel,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stderr=sys.stderr.isatty(),
        )
        # The cursor is hidden from here on: a caller that dies without stop() must not keep it.
        atexit.register(self.stop)
        self._live.start()

    def update(self, row: Row) -> None:
        """See `Display.update`."""
        if row.get("kind") == "evaluation":
            self.message(evaluation_line(row, self._progress.total))
        else:
            self._progress = self._progress.advance(row, self._clock())

    def message(self, text: str) -> None:
        """See `Display.message`."""
        self._console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """See `Display.stop`."""
        live, self._live = self._live, None
        if live is None:
            return
        try:
            live.stop()
        finally:
            self._console.show_cursor()
            atexit.unregister(self.stop)

    def _panel(self) -> RenderableType:
        blocks = not self._console.options.ascii_only
        return panel(self._progress, self._clock(), self._console.width, blocks)


class PlainDisplay:
    """One line a rollout round, from its last update, and one line an evaluation."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._progress = Progress()
        self._updates_per_rollout: int | None = None
        self._updates = 0
        self._pending: str | None = None

    def start(self, total: int, title: str, updates_per_rollout: int | None = None) -> None:
        """See `Display.start`."""
        self.stop()
        self._progress = Progress(total=total, title=title, began=self._clock())
        self._updates_per_rollout = updates_per_rollout
        self._updates = 0
        self.message(title)

    def update(self, row: Row) -> None:
        """See `Display.update`."""
        if row.get("kind") == "evaluation":
            self.message(evaluation_line(row, self._progress.total))
            return
        now = self._clock()
        before, self._progress = self._progress, self._progress.advance(row, now)
        line = training_line(self._progress, now)
        if self._progress.supervised:
            self._show_step(line)
        else:
            self._show_update(line, begins_round=self._progress.done != before.done)

    def message(self, text: str) -> None:
        """See `Display.message`."""
        self._flush()
        self._print(text)

    def stop(self) -> None:
        """See `Display.stop`."""
        self._flush()

    def _show_step(self, line: str) -> None:
        done, total = self._progress.done, self._progress.total
        if done == total or done % max(total // PLAIN_SFT_LINES, 1) == 0:
            self._print(line)

    def _show_update(self, line: str, begins_round: bool) -> None:
        if begins_round:
            self._flush()
            self._updates = 0
        self._updates += 1
        expected = self._updates_per_rollout
        if expected is None or self._updates <= expected:
            self._pending = line
        if self._updates == expected:
            self._flush()

    def _flush(self) -> None:
        line, self._pending = self._pending, None
        if line is not None:
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
