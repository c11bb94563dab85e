"""The training display: what it says on a terminal and in a file, and what it leaves behind."""

import contextlib
import io
import math
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from unmask.training.display import LiveDisplay, PlainDisplay, make_display
from unmask.training.progress import Progress, evaluation_line, sparkline, training_line

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
EVALUATION = {
    "kind": "evaluation",
    "rollout": 0,
    "greedy": {"accuracy": 0.25, "low": 0.2, "high": 0.305, "n": 1024},
    "sampled": {"accuracy": 0.5, "low": 0.401, "high": 0.599, "n": 96},
}


def update(rollout: int, **values: Any) -> dict[str, Any]:
    return {"kind": "update", "rollout": rollout, **values}


def terminal() -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    return Console(
        file=file, force_terminal=True, force_interactive=True, color_system=None, width=100
    )


def drawn(console: Console) -> str:
    console.file.seek(0)
    return console.file.read()


def plain(*clock_readings: float) -> tuple[PlainDisplay, Callable[[], list[str]]]:
    file = io.StringIO()
    console = Console(file=file, force_interactive=False)
    display = PlainDisplay(console, clock=iter(clock_readings).__next__)
    return display, lambda: file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([0.0, 10.0, 5.0, 2.0], 8, "▁█▅▂"),  # 5 is level 3.5 of 7, 2 is level 1.4
        ([9.0, -1.0, 0.0, 1.0], 3, "▁▅█"),  # scaled to the values shown only
        ([3.0, 3.0], 8, "▅▅"),
        ([0.0, None, math.nan, math.inf, 1.0], 8, "▁   █"),
        ([None, math.nan], 8, "  "),
        ([1.0, 2.0], 0, ""),
        ([], 8, ""),
    ],
)
def test_sparkline_scales_the_last_values_to_eight_blocks(
    values: list[float | None], width: int, line: str
) -> None:
    assert sparkline(values, width) == line


def test_time_left_follows_the_pace_of_the_rounds() -> None:
    progress = Progress(total=10, began=100.0)
    assert progress.seconds_left(105.0) is None
    progress = progress.advance(update(1), now=110.0)
    assert progress.seconds_left(110.0) == 90.0
    assert progress.seconds_left(114.0) == 86.0
    progress = progress.advance(update(2), now=130.0)
    assert progress.seconds_left(130.0) == 120.0
    assert progress.seconds_left(1000.0) == 105.0  # seven rounds at 15 seconds
    assert progress.advance(update(10), now=1000.0).seconds_left(1000.0) == 0.0


def test_time_left_does_not_credit_rounds_done_before_a_resume() -> None:
    progress = Progress(total=10, began=100.0).advance(update(5), now=110.0)
    assert progress.seconds_left(110.0) == 50.0


def test_inner_updates_of_a_round_count_as_one_reward() -> None:
    progress = Progress(total=10)
    for row in (update(1, reward=0.1), update(1, reward=0.1), update(2, reward=0.4)):
        progress = progress.advance(row, now=1.0)
    assert progress.history == (0.1, 0.4)


def test_a_training_line_names_what_the_row_holds_and_nothing_else() -> None:
    row = update(
        12,
        step=96,
        reward=0.4123,
        solved=0.3125,
        kl=0.00123,
        clip_fraction=0.0031,
        loss=-0.25,
        grad_norm=None,
        tokens_per_second=12345.6,
    )
    progress = Progress(total=500, began=0.0).advance(row, now=70.0)
    assert training_line(progress, now=3670.0) == (
        "rollout 12/500  reward 0.412  solved 31.2%  KL 0.00123  clipped 0.3%  loss -0.25  "
        "tokens/s 12,346  1:01:10 elapsed  9:28:10 left"
    )


@pytest.mark.parametrize(
    ("rollout", "when"),
    [
        (0, "before training"),
        (50, "after rollout 50"),
        (500, "after training"),
        (None, "evaluation"),
    ],
)
def test_an_evaluation_line_gives_accuracies_with_size_and_interval(
    rollout: int | None, when: str
) -> None:
    assert evaluation_line({**EVALUATION, "rollout": rollout}, total=500) == (
        f"{when}:  greedy 25.0% of 1,024 [20.0%, 30.5%]  sampled 50.0% of 96 [40.1%, 59.9%]"
    )


def test_an_evaluation_line_leaves_out_what_was_not_measured() -> None:
    row = {"rollout": 0, "greedy": None, "sampled": {"accuracy": 0.5, "low": None}}
    assert evaluation_line(row, total=5) == "before training:  sampled 50.0%"


def test_plain_output_has_one_line_a_round_from_its_last_update() -> None:
    display, lines = plain(0, 10, 11, 20)
    display.start(2, "ESPO on sudoku")
    display.update(EVALUATION)
    display.update(update(1, kl=0.1))
    display.update(update(1, kl=0.2))
    assert len(lines()) == 2
    display.update(update(2, kl=0.3))
    display.stop()
    display.stop()
    assert lines() == [
        "ESPO on sudoku",
        evaluation_line(EVALUATION, total=2),
        "rollout 1/2  KL 0.2  0:00:11 elapsed  0:00:09 left",
        "rollout 2/2  KL 0.3  0:00:20 elapsed  0:00:00 left",
    ]


def test_plain_output_is_prompt_where_the_updates_of_a_round_are_known() -> None:
    display, lines = plain(0, 10, 11, 12)
    display.start(2, "ESPO", updates_per_rollout=2)
    display.update(update(1, kl=0.1))
    assert len(lines()) == 1
    display.update(update(1, kl=0.2))
    assert lines()[1:] == ["rollout 1/2  KL 0.2  0:00:11 elapsed  0:00:09 left"]
    display.update(update(1, kl=0.3))
    display.stop()
    assert len(lines()) == 2


def test_plain_output_of_fine_tuning_has_a_line_every_hundredth_of_the_steps() -> None:
    display, lines = plain(*range(1, 503))
    display.start(501, "sft")
    for step in range(1, 502):
        display.update({"kind": "sft", "step": step, "loss": 2.5})
    display.stop()
    assert len(lines()) == 102
    assert lines()[1] == "step 5/501  loss 2.5  0:00:05 elapsed  0:08:16 left"
    assert lines()[-1] == "step 501/501  loss 2.5  0:08:21 elapsed  0:00:00 left"


def test_output_that_is_no_terminal_gets_plain_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    display = make_display(True)
    display.start(1, "a [bold]title[/bold] longer than a line of eighty characters " + 40 * "-")
    display.update(update(1, reward=0.5))
    display.stop()
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out
    assert "a [bold]title[/bold]" in captured.out
    assert captured.out.count("\n") == 2
    assert captured.err == ""


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    display = make_display(False)
    display.start(1, "title")
    display.update(update(1))
    display.update(EVALUATION)
    display.message("text")
    display.stop()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_progress_curve_and_metrics_with_evaluations_above() -> None:
    console = terminal()
    display = make_display(True, console)
    display.start(8, "ESPO on sudoku")
    for rollout, reward in enumerate((0.0, 0.7, 0.2), start=1):
        display.update(update(rollout, reward=reward, solved=0.25, kl=None))
    display.update(EVALUATION)
    display.stop()
    screen = drawn(console)
    for text in ("ESPO on sudoku", "rollout 3/8", "▁█▃", "25.0%", "elapsed", "left"):
        assert text in screen
    assert "KL" not in screen
    assert screen.index("before training") < screen.rindex("rollout 3/8")


def test_a_terminal_shows_the_loss_curve_of_fine_tuning() -> None:
    console = terminal()
    display = make_display(True, console)
    display.start(2, "sft")
    display.update({"kind": "sft", "step": 1, "loss": 3.0})
    display.update({"kind": "sft", "step": 2, "loss": 2.0})
    display.stop()
    assert "step 2/2" in drawn(console)
    assert "█▁" in drawn(console)


def test_a_terminal_is_redrawn_a_few_times_a_second_only() -> None:
    console = terminal()
    display = make_display(True, console)
    display.start(10**6, "title")
    began, rollout = time.monotonic(), 0
    while time.monotonic() < began + 0.5:
        rollout += 1
        display.update(update(rollout, reward=0.5))
    seconds = time.monotonic() - began
    display.stop()
    assert rollout > 100
    assert drawn(console).count("title") <= 3 + 8 * seconds


STRANGE_ROWS: list[dict[str, Any]] = [
    {},
    {"kind": "update"},
    update(1, reward=math.nan, kl="n/a", loss=None),
    {"kind": "update", "rollout": math.nan, "reward": 1},
    {"kind": "evaluation", "greedy": {}},
]


def test_missing_and_strange_values_are_left_out_of_plain_lines() -> None:
    display, lines = plain(*range(5))
    display.start(3, "title")
    for row in STRANGE_ROWS:
        display.update(row)
    display.stop()
    assert lines() == [
        "title",
        "rollout 0/3  0:00:02 elapsed",
        "rollout 1/3  reward 1.000  0:00:04 elapsed  0:00:05 left",
        "evaluation:",
    ]


def test_missing_and_strange_values_do_not_stop_the_live_panel() -> None:
    console = terminal()
    display = LiveDisplay(console)
    display.update({})
    display.start(3, "title")
    for row in STRANGE_ROWS:
        display.update(row)
    display.stop()
    assert "rollout 1/3" in drawn(console)
    assert "reward 1.000" in drawn(console)
    assert "n/a" not in drawn(console)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_stop_gives_the_cursor_back_after_an_exception(error: type[BaseException]) -> None:
    console = terminal()
    display = make_display(True, console)

    def train() -> None:
        display.start(1, "title")
        try:
            raise error
        finally:
            display.stop()

    with pytest.raises(error):
        train()
    display.stop()
    screen = drawn(console)
    assert HIDE_CURSOR in screen
    assert screen.rindex(SHOW_CURSOR) > screen.rindex(HIDE_CURSOR)


def read_to_end(terminal_fd: int) -> str:
    chunks = []
    # A pseudo-terminal whose other side is closed ends with an error, not with an empty read.
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal_fd, 4096):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_an_interrupted_process_that_never_calls_stop_gives_the_cursor_back() -> None:
    script = (
        "import time\n"
        "from unmask.training.display import make_display\n"
        "make_display(True).start(1, 'waiting')\n"
        "time.sleep(30)\n"
    )
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(child)
    screen = ""
    while "waiting" not in screen:
        screen += os.read(parent, 4096).decode()
    process.send_signal(signal.SIGINT)
    screen += read_to_end(parent)
    os.close(parent)
    process.wait(timeout=20)
    assert screen.rindex(SHOW_CURSOR) > screen.rindex(HIDE_CURSOR)
