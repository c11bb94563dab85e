"""How `countdown_generate.yaml` scores a completion."""

from typing import Any

from unmask.tasks import Countdown


def solved(doc: dict[str, Any], results: list[str]) -> dict[str, float | None]:
    """1.0 if the expression uses each number once and equals the target."""
    [value] = Countdown().exact(None, results, numbers=[doc["numbers"]], target=[doc["target"]])
    return {"solved": value}
