"""The report, drawn by a real browser: charts and viewer stand, and hostile text stays text.

The run is synthetic but as long and as varied as a real one, so that the screenshot taken here
shows what a user's page looks like.
"""

import functools
import gzip
import html
import http.server
import json
import math
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!-- \u2028 <script>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed"),
]

NUM_ROLLOUTS, NUM_ITERATIONS, STEPS, CANVAS = 120, 4, 32, 72
ANSWERS = {
    "[4, 9, 25], make 61": ["25 + 4 * 9", "25 * 4 - 9", "(25 - 9) * 4", "9 * 4 + 25"],
    "[3, 8, 50], make 74": ["50 + 3 * 8", "50 + 8 - 3", "8 * 3 + 50", "(50 - 8) * 3"],
    "[2, 6, 75], make 63": ["75 - 2 * 6", "75 - 6 - 2", "75 - 6 * 2", "(75 + 6) - 2"],
}


def tokens_of(equation: str) -> list[str]:
    """Return a completion of `CANVAS` tokens that ends in padding."""
    text = f"<reasoning>\nI try {equation} and check it.\n</reasoning>\n<answer>{equation}</answer>"
    tokens = re.findall(r"</?\w+>| ?\w+| ?[^\w\s]|\n", text)
    return (tokens + ["<|endoftext|>"] * CANVAS)[:CANVAS]


def completion_row(rng: random.Random, rollout: int, index: int) -> dict[str, Any]:
    """Return one row of a rollout file; every third completion stopped early."""
    target = list(ANSWERS)[index // 8 % len(ANSWERS)]
    progress = rollout / NUM_ROLLOUTS
    solved = int(rng.random() < 0.15 + 0.75 * progress)
    tokens = tokens_of(rng.choice(ANSWERS[target][::2] if solved else ANSWERS[target][1::2]))
    order = sorted(range(CANVAS), key=lambda position: position / 24 // 1 + rng.random() * 0.999)
    step_map = [0] * CANVAS
    for rank, position in enumerate(order):
        step_map[position] = rank * STEPS // CANVAS
    if index % 3 == 0:
        step_map = [STEPS if step >= 26 else step for step in step_map]
    sure = [min(1.0, rng.betavariate(2 + 6 * progress, 1.2) + step / 90) for step in step_map]
    format_reward = float(rng.random() < 0.5 + 0.5 * progress)
    return {
        "rollout": rollout,
        "group": index // 8,
        "sequence": index,
        "prompt": f"Using the numbers {target}. Use each number once. Answer in <answer> tags.",
        "completion": "".join(tokens).replace("<|endoftext|>", ""),
        "tokens": tokens,
        "completion_ids": list(range(CANVAS)),
        "step_map": step_map,
        "confidence": sure,
        "rewards": {"correct": float(solved), "format": 0.1 * format_reward},
        "reward": solved + 0.1 * format_reward,
        "advantage": round(solved - 0.15 - 0.75 * progress, 4),
        "solved": solved,
    }


def wilson(share: float, n: int) -> dict[str, float]:
    """Return accuracy, 95 % Wilson interval and count."""
    centre = (share + 1.9208 / n) / (1 + 3.8416 / n)
    half = 1.96 / (1 + 3.8416 / n) * math.sqrt(share * (1 - share) / n + 0.9604 / n**2)
    return {"accuracy": share, "low": centre - half, "high": centre + half, "n": n}


def metric_rows(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield the rows of metrics.jsonl: evaluations every 20 rollouts, updates in between."""
    for rollout in range(NUM_ROLLOUTS + 1):
        level = 0.14 + 0.74 / (1 + math.exp(-(rollout - 45) / 14))
        if rollout % 20 == 0:
            greedy, sampled = (
                wilson(round(level * 256) / 256, 256),
                wilson(round((level - 0.05) * 256) / 256, 256),
            )
            yield {
                "kind": "evaluation",
                "rollout": rollout,
                "step": rollout * NUM_ITERATIONS,
                "time": rollout * 21.5,
                "greedy": greedy | {"reward": greedy["accuracy"] + 0.08},
                "sampled": sampled | {"reward": sampled["accuracy"] + 0.08},
            }
        if rollout == NUM_ROLLOUTS:
            return
        shared = {
            "reward": level + 0.08 + rng.gauss(0, 0.05),
            "reward_std": 0.42 - 0.2 * level,
            "solved": min(1.0, max(0.0, level + rng.gauss(0, 0.05))),
            "frac_zero_std": min(1.0, max(0.0, abs(level - 0.5) + rng.gauss(0, 0.06))),
            "completion_length": 46 + rng.gauss(0, 1.5) - 6 * level,
            "confidence": 0.7 + 0.2 * level + rng.gauss(0, 0.01),
            "tokens_per_second": 2150 + rng.gauss(0, 70),
            "seconds_rollout": 12 + rng.gauss(0, 0.4),
            "rewards/correct": level + rng.gauss(0, 0.04),
            "rewards/format": 0.05 + 0.05 * level,
        }
        for update in range(NUM_ITERATIONS):
            yield shared | {
                "kind": "update",
                "rollout": rollout,
                "step": rollout * NUM_ITERATIONS + update + 1,
                "time": rollout * 21.5 + 13 + 2 * update,
                "loss": rng.gauss(-0.01 * update, 0.02),
                "kl": None if rollout == 70 else abs(rng.gauss(0.002 * rollout, 0.02)) + 0.001,
                "ratio": 1 + rng.gauss(0, 0.004) * update,
                "ratio_min": 1 - abs(rng.gauss(0, 0.05)) * update,
                "ratio_max": 1 + abs(rng.gauss(0, 0.06)) * update,
                "clip_fraction": max(0.0, 0.02 * update + rng.gauss(0, 0.01)),
                "grad_norm": math.exp(rng.gauss(-1.2, 0.4)),
                "learning_rate": 3e-6 * min(1.0, (rollout + 1) / 10),
                "seconds_update": 2 + rng.gauss(0, 0.1),
                "skipped_updates": 0,
            }


def write_run(folder: Path) -> Path:
    """Write a finished run of 120 rollouts into `folder`."""
    rng = random.Random(0)
    (folder / "rollouts").mkdir(parents=True)
    rows = list(metric_rows(rng))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    results = {
        "before": {mode: evaluations[0][mode] for mode in ("greedy", "sampled")},
        "after": {mode: evaluations[-1][mode] for mode in ("greedy", "sampled")},
        "seconds": NUM_ROLLOUTS * 21.5,
        "rollouts": NUM_ROLLOUTS,
        "completions": NUM_ROLLOUTS * 24,
        "peak_memory_bytes": 11_400_000_000,
        "config_hash": "5f0c1be27a9d4e83",
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    (folder / "config.yaml").write_text(
        f"task:\n  name: countdown\nsampler:\n  gen_length: {CANVAS}\n  steps: {STEPS}\n"
        "objective:\n  name: espo\n  beta: 0.003\n"
    )
    (folder / "environment.json").write_text(
        json.dumps({"python": "3.11", "git_commit": "0" * 40, "hardware": {"cpus": 16}})
    )
    for rollout in range(0, NUM_ROLLOUTS, 10):
        with gzip.open(folder / "rollouts" / f"{rollout:06d}.jsonl.gz", "wt") as file:
            for index in range(24):
                file.write(json.dumps(completion_row(rng, rollout, index)) + "\n")
    return folder


def browse(address: str, scratch: Path, *arguments: str) -> str:
    """Open `address` in a headless browser with a new profile and return what it prints."""
    scratch.mkdir()
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={scratch}",
        "--virtual-time-budget=4000",
        *arguments,
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def after(page: Path, folder: Path, actions: str) -> Any:
    """Run `actions`, an async JavaScript body, in a copy of `page`; give its value.

    The copy has no content security policy, which would rightly refuse the added script.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    run = f"(async () => {{ {ACTIONS} {actions} }})()"
    added = f"<script>{run}.then((value) => {{ document.title = JSON.stringify(value); }})</script>"
    copy = folder / "driven.html"
    copy.write_text(text.replace("</body>", f"{added}</body>"))
    dom = browse(copy.as_uri(), folder / "profile", "--dump-dom")
    title = re.findall(r"<title>([^<]*)</title>", dom)[0]
    return json.loads(html.unescape(title))


ACTIONS = """
const all = (selector) => [...document.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);
const press = (element, key) => element.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const change = (element, value, type) => {
  element.value = value;
  element.dispatchEvent(new Event(type, { bubbles: true }));
};
const column = (index) => all(".completions tbody tr")
  .map((row) => row.children[index].textContent.replace("−", "-"));
const revealed = () => all(".tokens .token:not(.hidden)").length;
"""


def elements(dom: str, tag: str, name: str) -> list[str]:
    """Return the opening tags of `tag` whose classes include `name`."""
    return re.findall(rf'<{tag}\b[^>]*class="(?:[^"]* )?{name}(?: [^"]*)?"[^>]*>', dom)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a finished run."""
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "countdown-espo"))


@pytest.fixture(scope="module")
def dom(page: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page's document after its script has run."""
    return browse(page.as_uri(), tmp_path_factory.mktemp("browser") / "dom", "--dump-dom")


def test_the_page_draws_to_its_end_without_an_error(dom: str) -> None:
    opening = re.search(r"<html[^>]*>", dom)
    assert opening is not None
    assert 'data-ready="true"' in opening.group(0)
    assert "data-error" not in opening.group(0)


def test_every_usual_curve_is_drawn_with_ticks_and_an_evaluation_has_whiskers(dom: str) -> None:
    training = dom[dom.index('id="training"') : dom.index('id="completions"')]
    titles = re.findall(r"<h3>([^<]*)</h3>", training)
    assert titles[:9] == [
        "Reward",
        "Solved",
        "KL",
        "Ratio",
        "Clip fraction",
        "Gradient norm",
        "Loss",
        "Learning rate",
        "Tokens per second",
    ]
    curves = re.findall(r'<path class="curve" d="(M[^"]+)"', training)
    assert len(curves) >= 13
    assert all(len(curve) > 200 for curve in curves)
    assert len(elements(training, "path", "whisker")) == 14
    assert len(elements(training, "line", "grid-line")) >= 3 * 13


def test_a_value_that_was_not_finite_leaves_a_gap_in_its_curve(dom: str) -> None:
    chart = dom[dom.index("<h3>KL</h3>") :]
    curve = re.search(r'<path class="curve" d="([^"]+)"', chart)
    assert curve is not None
    assert curve.group(1).count("M") == 2


def test_the_viewer_stands_between_all_masked_and_all_revealed(dom: str) -> None:
    canvas = dom[dom.index('class="tokens"') : dom.index('class="token-key"')]
    tiles = elements(canvas, "span", "token")
    hidden = elements(canvas, "span", "hidden")
    assert len(tiles) == CANVAS
    assert 0 < len(hidden) < CANVAS
    revealed = re.search(r"(\d+) of 72 tokens revealed", dom)
    assert revealed is not None
    assert int(revealed.group(1)) == CANVAS - len(hidden)
    assert len(elements(dom, "rect", "done")) > 0


def test_the_headline_and_the_table_say_what_the_run_recorded(dom: str) -> None:
    figures = re.findall(r'<span class="(?:before|after)">([^<]*)</span>', dom)
    assert figures == ["16.8\u202f%", "87.5\u202f%", "11.7\u202f%", "82.8\u202f%"]
    assert "192 of 192 completions, from 8 of the run's 12 recorded rollouts" in html.unescape(dom)
    assert len(re.findall(r"<tr aria-selected", dom)) == 192


def test_text_from_the_run_never_becomes_markup(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    row = completion_row(random.Random(1), 0, 0) | {"prompt": HOSTILE, "completion": HOSTILE}
    row |= {"tokens": [HOSTILE] * CANVAS, "rewards": {HOSTILE: 1.0, "b": 0.0}}
    with gzip.open(run / "rollouts" / "000000.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n")
    for path in sorted((run / "rollouts").glob("*"))[1:]:
        path.unlink()
    update = {"kind": "update", "rollout": 200, "step": 900, "time": 3000.0, HOSTILE: 1.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(update) + "\n")
    (run / "config.yaml").write_text(HOSTILE)
    (run / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    dom = browse(write_report(run).as_uri(), tmp_path / "browser", "--dump-dom")
    assert "data-ready" in dom
    assert "<img" not in dom
    assert "owned" not in re.findall(r"<title>([^<]*)</title>", dom)[0]
    assert dom.count("<script") == 2
    assert html.escape(HOSTILE, quote=False) in dom


def test_the_page_asks_the_network_for_nothing(page: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    class Recorder(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Recorder, directory=str(page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/report.html"
        browse(address, tmp_path / "browser", "--dump-dom")
        server.shutdown()
    assert asked == ["/report.html"]


def test_the_table_sorts_by_reward_and_back(page: Path, tmp_path: Path) -> None:
    down, up, said = after(
        page,
        tmp_path,
        """
        const head = all(".completions th button")[1];
        head.click();
        const down = column(1);
        head.click();
        return [down, column(1), head.parentElement.getAttribute("aria-sort")];
        """,
    )
    rewards = [float(value) for value in down]
    assert rewards == sorted(rewards, reverse=True)
    assert [float(value) for value in up] == rewards[::-1]
    assert set(rewards) == {0.0, 0.1, 1.0, 1.1}
    assert said == "ascending"


def test_the_table_filters_by_rollout_and_by_text(page: Path, tmp_path: Path) -> None:
    rollouts, previews = after(
        page,
        tmp_path,
        """
        change(one(".table-filters select"), "50", "change");
        const rollouts = column(0);
        change(one(".table-filters input"), "75 - 2 * 6", "input");
        return [rollouts, column(4)];
        """,
    )
    assert rollouts == ["50"] * 24
    assert 0 < len(previews) < 24
    assert all("75 - 2 * 6" in preview for preview in previews)


def test_a_row_opens_its_completion_and_the_keys_step_through_it(
    page: Path, tmp_path: Path
) -> None:
    title, counts, text, fresh = after(
        page,
        tmp_path,
        """
        all(".completions tbody tr")[1].click();
        const viewer = one(".viewer");
        press(viewer, "Home");
        const counts = [revealed()];
        for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft"]) {
          press(viewer, key);
          counts.push(revealed());
        }
        const fresh = all(".tokens .fresh").length;
        press(viewer, "End");
        counts.push(revealed());
        return [one(".viewer h3").textContent, counts, one(".position").textContent, fresh];
        """,
    )
    assert title == "rollout 110 · group 0 · sequence 1"
    # 72 tokens in 32 steps: step 0 reveals ranks 0..2, step 1 ranks 3 and 4.
    assert counts == [0, 3, 5, 3, 72]
    assert fresh == 3
    assert text == "denoising step 32 of 32 · 72 of 72 tokens revealed"


def test_tokens_left_over_by_an_early_stop_are_shown_as_never_denoised(
    page: Path, tmp_path: Path
) -> None:
    filled, text, before = after(
        page,
        tmp_path,
        """
        all(".completions tbody tr")[0].click();
        press(one(".viewer"), "End");
        const filled = all(".tokens .filled").length;
        const text = one(".position").textContent;
        press(one(".viewer"), "ArrowLeft");
        return [filled, text, revealed()];
        """,
    )
    # Steps 26 to 31 hold the ranks from ceil(26 * 72 / 32) = 59 up to 71.
    assert filled == 13
    assert text == "stopped early, 13 tokens never denoised · 72 of 72 tokens revealed"
    assert before == 59


def test_playing_starts_over_and_stops_when_all_is_revealed(page: Path, tmp_path: Path) -> None:
    playing, early, late, stopped = after(
        page,
        tmp_path,
        """
        const [viewer, button] = [one(".viewer"), one(".player .primary")];
        const wait = (time) => new Promise((resume) => { setTimeout(resume, time); });
        press(viewer, "End");
        button.click();
        const playing = button.textContent;
        await wait(500);
        const early = revealed();
        await wait(1000);
        press(viewer, " ");
        press(viewer, "End");
        press(viewer, "ArrowLeft");
        press(viewer, " ");
        await wait(300);
        return [playing, early, revealed(), button.textContent];
        """,
    )
    assert playing == "Pause"
    assert 0 < early < CANVAS / 2
    assert (late, stopped) == (CANVAS, "Play")


def test_pointing_at_one_chart_reads_out_all_of_them(page: Path, tmp_path: Path) -> None:
    tip, crosshairs, at_the_end, log = after(
        page,
        tmp_path,
        """
        const drawing = all(".chart svg")[1];
        drawing.focus();
        press(drawing, "ArrowRight");
        const tip = all(".tip:not([hidden])").map((each) => each.textContent);
        const crosshairs = all(".crosshair").length;
        drawing.dispatchEvent(new PointerEvent("pointerleave"));
        const end = all(".tip:not([hidden])").length;
        const log = all(".chart .log")[0];
        log.click();
        return [tip, crosshairs, end, log.getAttribute("aria-pressed")];
        """,
    )
    assert len(tip) == 1
    assert tip[0].startswith("rollout 0training")
    assert "greedy evaluation16.8\u202f% [12.7\u202f%, 21.9\u202f%]" in tip[0]
    assert crosshairs == 13
    assert at_the_end == 0
    assert log == "true"


def test_without_smoothing_the_raw_line_is_the_curve(page: Path, tmp_path: Path) -> None:
    raw, curve, behind = after(
        page,
        tmp_path,
        """
        const raw = one(".chart .curve.raw").getAttribute("d");
        change(one("#smoothing"), "0", "input");
        return [raw, one(".chart .curve").getAttribute("d"), all(".chart .curve.raw").length];
        """,
    )
    assert raw == curve
    assert behind == 0


def test_the_curves_can_be_drawn_over_time(page: Path, tmp_path: Path) -> None:
    units = after(
        page,
        tmp_path,
        """
        change(one("#axis"), "time", "change");
        return all(".chart-grid svg text:last-of-type").map((text) => text.textContent);
        """,
    )
    assert set(units[:13]) == {"min"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1320, 500])
def test_the_page_follows_the_colour_scheme_and_fits_its_window(
    page: Path, tmp_path: Path, scheme: str, width: int
) -> None:
    flags = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    picture = tmp_path / "report.png"
    browse(
        page.as_uri(),
        tmp_path / "profile",
        f"--screenshot={picture}",
        f"--window-size={width},2400",
        *flags,
    )
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20]) == width
    assert len(content) > 60_000


def test_nothing_is_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page.read_text())
    frame = '<iframe id="f" src="report.html" style="width:360px;height:800px"></iframe>'
    reading = (
        "onload = () => { const d = f.contentDocument.documentElement;"
        "document.title = `${d.scrollWidth} ${d.clientWidth} ${d.dataset.ready}`; }"
    )
    (tmp_path / "frame.html").write_text(f"<title></title>{frame}<script>{reading}</script>")
    address = (tmp_path / "frame.html").as_uri()
    dom = browse(address, tmp_path / "profile", "--dump-dom", "--allow-file-access-from-files")
    (title,) = re.findall(r"<title>([^<]*)</title>", dom)
    scroll_width, client_width, ready = title.split()
    assert ready == "true"
    assert int(scroll_width) <= int(client_width)
