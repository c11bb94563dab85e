"""A diagnosis in the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from unmask.report.diagnosis import bias_text


def print_diagnosis(result: dict[str, Any], console: Console) -> None:
    """The measurements as two tables, and the advice."""
    target, limit = result["target"], result["share"] * result["spread"]
    how = "enumerated"
    if target["num_draws"] is not None:
        how = f"{target['se']:.2g} standard error, {target['num_draws']} draws each"
    console.print(
        f"{result['completions']} completions of {result['prompts']} prompts, "
        f"{result['canvas']} tokens each; mean ELBO {target['elbo']:.4g} nats ({how})",
        highlight=False,
    )
    table = Table(
        title="Estimates of a completion's log-likelihood, nats",
        title_justify="left",
        # Seven columns in 80 characters, which is what a log file gets.
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("estimator", no_wrap=True)
    for name in ("num_mc", "views", "std", "bias ± se", "rmse", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in result["estimates"]:
        name = row["estimator"]
        if previous not in (None, name):
            table.add_row()
        own = name == result["own"]
        table.add_row(
            "" if name == previous else name + " *" * own,
            str(row["num_mc"]),
            str(row["views"]),
            f"{row['std']:.3f}",
            bias_text(row),
            f"{row['rmse']:.3f}",
            f"{1000 * row['seconds']:.1f}",
            style="bold green" if own and row["std"] < limit else None,
        )
        previous = name
    console.print(table, highlight=False)
    gradient = Table(
        title=f"ESPO's gradient over redraws of {result['own']}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("num_mc", "|mean|²", "trace of covariance", "signal / noise"):
        gradient.add_column(name, justify="right")
    for row in result["gradients"]:
        ratio = "-" if row["snr"] is None else f"{row['snr']:.3g}"
        gradient.add_row(str(row["num_mc"]), f"{row['signal']:.3g}", f"{row['noise']:.3g}", ratio)
    console.print(gradient, highlight=False)
    console.print(
        "* the recipe's estimator, green where num_mc is enough; ~0: the bias is below two "
        "standard errors.",
        style="dim",
    )
    console.print(result["advice"], highlight=False, style="bold")
