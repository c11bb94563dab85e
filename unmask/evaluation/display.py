"""Results of evaluations and comparisons as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Prompts won and lost that are shown of each; --output keeps all.
MOST_PROMPTS = 10
PROMPT_CHARACTERS = 100


def print_results(results: Mapping[str, Mapping[str, Any]], title: str, console: Console) -> None:
    """One row for each condition and metric."""
    columns = ("", "metric", "solved", "95 % interval", "n", "reward", "tokens", "steps")
    table = Table(*columns, title=title)
    for name, row in results.items():
        accuracy = {"value": row["accuracy"], "low": row["low"], "high": row["high"]}
        rest = [_number(row["reward"], 3), _number(row["length"], 1), _number(row["steps"], 1)]
        table.add_row(name, "pass@1", *_rate(accuracy), str(row["n"]), *rest)
        for metric in (key for key in row if "@" in key):
            table.add_row("", metric, *_rate(row[metric]), "", "", "", "")
    console.print(table)


def print_comparison(
    compared: Mapping[str, Mapping[str, Any]], first: Path, second: Path, console: Console
) -> None:
    """The paired test of each condition, then the prompts won and lost."""
    table = Table("", "A", "B", "B - A", "95 % interval", "n", "won", "lost", "p", "same text")
    for name, row in compared.items():
        table.add_row(
            name,
            f"{row['first']:.1%}",
            f"{row['second']:.1%}",
            f"{row['difference']:+.1%}",
            f"{row['low']:+.1%} to {row['high']:+.1%}",
            str(row["n"]),
            str(len(row["won"])),
            str(len(row["lost"])),
            f"{row['p']:.3g}",
            f"{row['same_text']:.0%}",
        )
    console.print(f"A = {first}\nB = {second}", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for name, row in compared.items():
        for kind in ("won", "lost"):
            for entry in row[kind][:MOST_PROMPTS]:
                prompt = " ".join(entry["prompt"].split())[-PROMPT_CHARACTERS:]
                line = f"{name} {kind} by B: {entry['index']}  {prompt}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            if len(row[kind]) > MOST_PROMPTS:
                console.print(f"{name} {kind} by B: {len(row[kind]) - MOST_PROMPTS} more")


def deviation_line(deviation: Mapping[str, Any]) -> str:
    """What the batch size changed below float32."""
    return (
        f"batch   {deviation['completions_changed']} of {deviation['prompts']} completions and "
        f"{deviation['tokens_changed']:.1%} of tokens differ when written one by one"
    )


def _rate(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["value"] is None:
        return "-", "-"
    return f"{row['value']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
