"""Put a run's data and the page's own style and script into one HTML file.

Everything that comes from the run is untrusted text. It enters the page only as JSON in a data
block and is drawn with `textContent`; the content security policy names the page's one script and
one style by hash and forbids everything else, the network included.
"""

import base64
import hashlib
import html
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from unmask.report.charts import chart_panels
from unmask.report.completions import sampled_completions
from unmask.report.headline import environment_rows, headline
from unmask.report.run_folder import RunRecord, read_run

STYLES = ("theme.css", "layout.css", "charts.css", "completions.css")
SCRIPTS = ("core.js", "headline.js", "scale.js", "chart.js", "board.js", "table.js", "viewer.js",
           "provenance.js", "main.js")  # fmt: skip


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into `run_folder` and return its path.

    The page needs no network and nothing beside itself. It can be made while the run is going, and
    from what a killed run left behind; it then says what is missing.

    Args:
        run_folder: the folder that training wrote; at least metrics.jsonl or results.json is there.

    Raises:
        ValueError: if `run_folder` is no directory or holds neither of the two.
        OSError: if the page cannot be written.
    """
    run = read_run(Path(run_folder))
    page = render(run)
    path = run.folder / "report.html"
    unfinished = path.with_suffix(".html.tmp")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def render(run: RunRecord) -> str:
    """Return the whole page of `run` as HTML."""
    return assemble(run.name, payload(run), STYLES, SCRIPTS)


def assemble(
    name: str, data: dict[str, Any], styles: Sequence[str], scripts: Sequence[str]
) -> str:  # fmt: skip
    """Return a page of its data, and of the assets that draw it, as HTML.

    Args:
        name: the title, any text.
        data: JSON values.
        styles: names of CSS files in `assets`.
        scripts: names of scripts in `assets`, run in this order as one.
    """
    style = _joined(styles)
    script = f'(() => {{"use strict";\n{_joined(scripts)}}})();\n'
    policy = (
        f"default-src 'none'; script-src '{csp_hash(script)}'; style-src '{csp_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = html.escape(name.encode("utf-8", "replace").decode("utf-8"))
    return Template(asset("page.html")).substitute(
        policy=policy, title=title, style=style, script=script, data=json_block(data)
    )


def payload(run: RunRecord) -> dict[str, Any]:
    """Return everything that the page shows of `run`, as JSON values."""
    panels = chart_panels(run)
    completions = sampled_completions(run)
    return {
        "name": run.name,
        "headline": headline(run),
        **panels,
        "completions": completions,
        "config": run.config,
        "environment": environment_rows(run.environment),
        "notes": run.notes,
    }


def json_block(value: Any) -> str:
    """Return `value` as JSON that cannot end, or open anything in, the HTML around it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _joined(names: Sequence[str]) -> str:
    return "\n".join(asset(name) for name in names)


def asset(name: str) -> str:
    """The text of one of the files in `assets`."""
    return (files("unmask.report") / "assets" / name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """The source expression that lets a content security policy name a script or a style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")
