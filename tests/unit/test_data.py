"""Prompts from files, their encoding with every loss counted, and the endless shuffled stream."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

from unmask.training.data import Example, encode_examples, load_dataset, require_column, take

ROWS = [{"prompt": "ab", "answer": 1}, {"prompt": "c", "answer": 2}]


def letters(prompt: Any) -> list[int]:
    text = prompt if isinstance(prompt, str) else "".join(item["content"] for item in prompt)
    return [ord(letter) for letter in text]


def encode(rows: list[dict[str, Any]] | Dataset, **options: Any) -> list[Example]:
    data = Dataset.from_list(rows) if isinstance(rows, list) else rows
    settings = {"max_prompt_length": 100, "long_prompts": "drop", "source": "the set", **options}
    return encode_examples(data, letters, **settings)


def refusal(rows: list[dict[str, Any]] | Dataset, **options: Any) -> str:
    with pytest.raises(ValueError, match="the set") as error:
        encode(rows, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- encoding -----------------------------------------------------------------------------------


def test_an_example_keeps_its_row_its_prompt_and_the_other_columns() -> None:
    assert encode(ROWS) == [
        Example(0, "ab", [97, 98], {"answer": 1}),
        Example(1, "c", [99], {"answer": 2}),
    ]


def test_messages_are_encoded_too() -> None:
    messages = [{"role": "user", "content": "ab"}]
    (example,) = encode([{"prompt": messages, "answer": 1}])
    assert (example.prompt, example.prompt_ids) == (messages, [97, 98])


def test_long_prompts_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "x" * size} for size in (3, 5, 2, 4, 9)]
    with caplog.at_level(logging.WARNING):
        examples = encode(rows, max_prompt_length=4)
    assert [example.index for example in examples] == [0, 2, 3]
    (record,) = caplog.records
    assert record.getMessage() == (
        "the set: dropped 2 of 5 prompts with more than 4 tokens (task.max_prompt_length)"
    )


def test_nothing_is_said_where_nothing_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encode(ROWS, max_prompt_length=2)
    assert caplog.records == []


def test_a_long_prompt_can_be_refused() -> None:
    message = refusal(ROWS, max_prompt_length=1, long_prompts="refuse")
    assert message == (
        "the set: prompt 0 has 2 tokens, more than task.max_prompt_length=1: raise it or set "
        "task.long_prompts=drop"
    )
    assert len(encode(ROWS, max_prompt_length=2, long_prompts="refuse")) == 2


def test_a_set_without_prompts_names_the_columns_it_has() -> None:
    rows = Dataset.from_list([{"question": "ab", "answer": 1}])
    assert "has no column 'prompt', only question, answer: rename" in refusal(rows)
    with pytest.raises(ValueError, match="the set has no column 'completion', only question"):
        require_column(rows, "completion", "the set")
    require_column(rows, "answer", "the set")


def test_a_set_that_is_empty_or_has_only_long_prompts_is_refused() -> None:
    assert "is empty: give a data set" in refusal(Dataset.from_dict({"prompt": []}))
    assert "has no column 'prompt', only none" in refusal(Dataset.from_dict({}))
    assert "2 were longer than task.max_prompt_length=0" in refusal(ROWS, max_prompt_length=0)


@pytest.mark.parametrize(
    "prompt",
    [None, 7, [], ["ab"], [{"role": "user"}], [{"content": "ab"}], [{"role": "u", "content": 3}]],
    ids=str,
)
def test_a_prompt_that_is_no_text_and_no_messages_is_refused(prompt: Any) -> None:
    message = refusal(Dataset.from_list([{"prompt": prompt}]))
    assert "prompt 0 is " in message
    assert "give a text, or a list of messages with role and content" in message


# --- the stream of examples ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_every_epoch_is_a_permutation_of_its_own(size: int) -> None:
    examples = list(range(size))
    epochs = [take(examples, epoch * size, size, seed=3) for epoch in range(4)]
    assert all(sorted(epoch) == examples for epoch in epochs)
    if size > 5:
        assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("cursor", [0, 1, 6, 7, 8, 20, 21])
@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 15])
def test_the_stream_can_be_entered_anywhere(cursor: int, count: int) -> None:
    examples = list("abcdefg")
    stream = take(examples, 0, 60, seed=5)
    assert take(examples, cursor, count, seed=5) == stream[cursor : cursor + count]


def test_a_batch_larger_than_the_set_counts_every_example() -> None:
    assert Counter(take(list("abc"), 0, 10, seed=0))["a"] in (3, 4)
    assert min(Counter(take(list("abc"), 0, 10, seed=0)).values()) == 3


def test_streams_of_other_seeds_differ() -> None:
    streams = {tuple(take(list(range(20)), 0, 20, seed)) for seed in range(10)}
    assert len(streams) == 10


def test_the_first_place_is_uniform() -> None:
    first = Counter(take(list(range(5)), 0, 1, seed)[0] for seed in range(2000))
    statistic = sum((first[i] - 400) ** 2 / 400 for i in range(5))
    assert statistic < 4 + 5 * (2 * 4) ** 0.5


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def write(path: Path) -> Path:
    data = Dataset.from_list(ROWS)
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".csv":
        data.to_csv(path)
    else:
        data.to_parquet(path)
    return path


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_files_are_read_whatever_the_split(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"data.{ending}")
    assert load_dataset(str(path), "train").to_list() == ROWS
    assert load_dataset(str(path), "heldout").to_list() == ROWS


def test_a_folder_is_read_by_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "held out", "answer": 3}) + "\n")
    assert load_dataset(str(tmp_path), "train").to_list() == ROWS
    assert load_dataset(str(tmp_path), "test")["prompt"][0] == "held out"


def data_refusal(name: str | Path, split: str = "train") -> str:
    with pytest.raises(ValueError, match=r"^dataset ") as error:
        load_dataset(str(name), split)
    assert "\n" not in str(error.value)
    assert repr(str(name)) in str(error.value)
    assert "hub id" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_a_file_that_is_missing_is_refused(tmp_path: Path, ending: str) -> None:
    assert "does not exist" in data_refusal(tmp_path / f"nothing.{ending}")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("prompt\nab\n")
    assert "its ending is none of .json, .jsonl, .csv, .parquet" in data_refusal(path)


def test_a_broken_file_an_empty_folder_and_a_missing_split_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"prompt": ')
    assert "cannot be read" in data_refusal(broken)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "cannot be read" in data_refusal(empty)
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "train.jsonl")
    assert "(split 'heldout') cannot be read" in data_refusal(folder, "heldout")


def test_a_hub_id_that_cannot_be_reached_is_refused() -> None:
    assert "cannot be read" in data_refusal("some-org/some-data")
