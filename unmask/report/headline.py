"""The figures at the top of the page: what the run gained, and what it took."""

from typing import Any

from unmask.report.run_folder import Row, RunRecord, number

MODES = ("greedy", "sampled")


def headline(run: RunRecord) -> dict[str, Any]:
    """Return the before and after accuracies with their intervals, and the run's costs.

    The accuracies come from results.json. A run without one is compared between its first and its
    latest evaluation, and `source` says so.

    Returns:
        `modes`: a list of `{"mode", "before", "after"}`, each measurement a dict of "accuracy",
        "low", "high" and "n" or None; `source`: "results" or "evaluations"; `facts`: counts and
        costs by name, numbers or None.
    """
    results = run.results
    before, after = _as_dict(results.get("before")), _as_dict(results.get("after"))
    source = "results"
    if not _measured(before) and not _measured(after) and run.evaluations:
        source = "evaluations"
        before = run.evaluations[0]
        after = run.evaluations[-1] if len(run.evaluations) > 1 else {}
    modes = [
        {"mode": mode, "before": measurement(before, mode), "after": measurement(after, mode)}
        for mode in MODES
    ]
    return {
        "source": source,
        "modes": [entry for entry in modes if entry["before"] or entry["after"]],
        "facts": _facts(run),
    }


def measurement(measured: Row, mode: str) -> dict[str, float | None] | None:
    """Return accuracy, interval and count of `measured[mode]`, None if it has no accuracy."""
    row = _as_dict(measured.get(mode))
    if number(row.get("accuracy")) is None:
        return None
    return {key: number(row.get(key)) for key in ("accuracy", "low", "high", "n")}


def environment_rows(environment: Row, prefix: str = "") -> list[list[str]]:
    """Return environment.json as `[dotted key, text]` pairs, nested objects flattened."""
    rows: list[list[str]] = []
    for key, value in environment.items():
        if isinstance(value, dict):
            rows += environment_rows(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append([f"{prefix}{key}", text])
    return rows


def _facts(run: RunRecord) -> dict[str, Any]:
    rows = sorted(
        run.updates + run.evaluations + run.sft, key=lambda row: number(row.get("time")) or 0.0
    )
    last_time = number(rows[-1].get("time")) if rows else None
    rollouts = [value for row in run.updates if (value := number(row.get("rollout"))) is not None]
    config_hash = run.results.get("config_hash")
    seconds = number(run.results.get("seconds"))
    num_rollouts = number(run.results.get("rollouts"))
    return {
        "seconds": last_time if seconds is None else seconds,
        "rollouts": len(set(rollouts)) or None if num_rollouts is None else num_rollouts,
        "updates": len(run.updates) or None,
        "sft_steps": len(run.sft) or None,
        "completions": number(run.results.get("completions")),
        "peak_memory_bytes": number(run.results.get("peak_memory_bytes")),
        "config_hash": config_hash if isinstance(config_hash, str) else None,
    }


def _measured(side: Row) -> bool:
    return any(measurement(side, mode) for mode in MODES)


def _as_dict(value: Any) -> Row:
    return value if isinstance(value, dict) else {}
