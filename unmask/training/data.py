"""Where prompts come from: a task's generator, a local file or a hub data set; never lost count.

The order of prompts is a pure function of (seed, epoch), so that a cursor is all the state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unmask.errors import in_one_line
from unmask.maskings import derive_seed

if TYPE_CHECKING:
    from datasets import Dataset

    from unmask.models.policy import Prompt

logger = logging.getLogger(__name__)

FILE_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Example:
    """One row of a data set.

    Attributes:
        index: row number in the data set.
        prompt: plain text or a list of messages.
        prompt_ids: its tokens.
        columns: the other columns, for the rewards.
    """

    index: int
    prompt: Prompt
    prompt_ids: list[int]
    columns: dict[str, Any]


def load_dataset(name: str, split: str, text_columns: Sequence[str] = ()) -> Dataset:
    """A data set from a local file or folder, or from the hub.

    Args:
        name: path of a JSON, JSON Lines, CSV or Parquet file, a folder of such files, or a hub id,
            which may name a configuration as in "openai/gsm8k:main".
        split: for a file, ignored; else the split to read.
        text_columns: columns of a CSV file that are text even where they look like numbers.

    Raises:
        ValueError: if it cannot be read.
    """
    import datasets

    path = Path(name).expanduser()
    if path.suffix in FILE_FORMATS and not path.is_file():
        raise ValueError(f"dataset {name!r} does not exist: give a file, a folder or a hub id")
    try:
        if path.is_file():
            if path.suffix not in FILE_FORMATS:
                raise ValueError(f"its ending is none of {', '.join(FILE_FORMATS)}")
            kind = FILE_FORMATS[path.suffix]
            options = {"converters": dict.fromkeys(text_columns, str)} if kind == "csv" else {}
            return datasets.load_dataset(kind, data_files=str(path), split="train", **options)
        if path.is_dir():
            return datasets.load_dataset(str(path), split=split)
        hub, _, configuration = name.partition(":")
        return datasets.load_dataset(hub, configuration or None, split=split)
    except Exception as error:
        raise ValueError(
            f"dataset {name!r} (split {split!r}) cannot be read: {_reason(path, error)}; give "
            "a JSON, CSV or Parquet file, a folder of such files, or a hub id that can be reached"
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Why a data set cannot be read; the library's own words often only say that it failed."""
    if "corresponds to no data" in str(error) or (path.is_file() and not path.stat().st_size):
        return "it holds no rows"
    cause = error.__cause__ if path.exists() and error.__cause__ is not None else error
    return in_one_line(cause)


def require_column(dataset: Dataset, name: str, source: str) -> None:
    """Raise ValueError, listing the columns, unless the data set has this one."""
    if name not in dataset.column_names:
        raise ValueError(
            f"{source} has no column {name!r}, only {', '.join(dataset.column_names) or 'none'}: "
            f"rename the column that holds each {name}"
        )


def encode_examples(
    dataset: Dataset,
    encode: Callable[[Prompt], list[int]],
    *,
    max_prompt_length: int,
    long_prompts: str,
    source: str,
) -> list[Example]:
    """Encode every prompt; drop those that are too long and say how many, or refuse.

    Args:
        dataset: with a `prompt` column.
        encode: a prompt's token ids.
        max_prompt_length: in tokens.
        long_prompts: "drop" or "refuse".
        source: the data set's name in messages.

    Raises:
        ValueError: if the column is missing, nothing is left, or a prompt is refused or is none.
    """
    require_column(dataset, "prompt", source)
    examples, dropped = [], 0
    for index, row in enumerate(dataset):
        prompt = row.pop("prompt")
        require_prompt(prompt, index, source)
        ids = encode(prompt)
        if len(ids) <= max_prompt_length:
            examples.append(Example(index, prompt, ids, row))
        elif long_prompts == "drop":
            dropped += 1
        else:
            raise ValueError(
                f"{source}: prompt {index} has {len(ids)} tokens, more than "
                f"task.max_prompt_length={max_prompt_length}: raise it or set "
                "task.long_prompts=drop"
            )
    if dropped:
        logger.warning(
            "%s: dropped %d of %d prompts with more than %d tokens (task.max_prompt_length)",
            source,
            dropped,
            dropped + len(examples),
            max_prompt_length,
        )
    if not examples:
        raise ValueError(
            f"{source} has no prompt to train on: {dropped} were longer than "
            f"task.max_prompt_length={max_prompt_length}, none is left"
            if dropped
            else f"{source} is empty: give a data set with at least one row"
        )
    return examples


def require_prompt(prompt: Any, index: int, source: str) -> None:
    """Raise ValueError unless a prompt is a text or a list of messages."""
    messages = prompt if isinstance(prompt, list) and prompt else [None]
    if not isinstance(prompt, str) and not all(
        isinstance(item, Mapping) and isinstance(item.get("content"), str) and item.get("role")
        for item in messages
    ):
        raise ValueError(
            f"{source}: prompt {index} is {repr(prompt)[:80]}: give a text, or a list of messages "
            "with role and content"
        )


def take(examples: Sequence[Any], cursor: int, count: int, seed: int) -> list[Any]:
    """`count` examples from position `cursor` of an endless shuffled stream.

    Every epoch is a permutation of its own, derived from (seed, epoch).

    Args:
        examples: one epoch.
        cursor: examples taken before.
        count: how many.
        seed: of the run.
    """
    size = len(examples)
    taken: list[Any] = []
    for position in range(cursor, cursor + count):
        epoch, offset = divmod(position, size)
        if not taken or offset == 0:
            generator = torch.Generator().manual_seed(derive_seed("epoch", seed, epoch))
            order = torch.randperm(size, generator=generator).tolist()
        taken.append(examples[order[offset]])
    return taken


def check_fit(fitting: int, total: int, canvas: int, what: str) -> None:
    """Warn of what was dropped for being longer than the canvas.

    Args:
        fitting: how many are left.
        total: how many there were.
        canvas: `sampler.gen_length`.
        what: one of them, in messages.

    Raises:
        ValueError: if none is left.
    """
    if not fitting:
        raise ValueError(
            f"no {what} fits sampler.gen_length={canvas}: raise it to the length of the completions"
        )
    if fitting < total:
        logger.warning(
            "dropped %d of %d %ss with more than sampler.gen_length=%d tokens",
            total - fitting,
            total,
            what,
            canvas,
        )
