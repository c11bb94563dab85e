"""Where the problems of a task with a fixed data set come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmask.errors import in_one_line

if TYPE_CHECKING:
    from datasets import Dataset


def load_hub(path: str, name: str | None, split: str, task: str) -> Dataset:
    """A split of a hub data set.

    Args:
        path: hub id.
        name: of its configuration, or None.
        split: of the hub's.
        task: for the message.

    Raises:
        ValueError: if it cannot be read, with what to do instead.
    """
    import datasets

    try:
        return datasets.load_dataset(path, name, split=split)
    except Exception as error:
        raise ValueError(
            f"task {task} reads {path} (split {split!r}) from the hub, which failed: "
            f"{in_one_line(error)}; give task.dataset=FILE in the same schema, or "
            "task.dataset=sample for the few problems in the package"
        ) from error
