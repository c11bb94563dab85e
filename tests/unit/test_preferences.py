"""Preference pairs: what is read from a data set, and what is refused before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from unmask.config import TrainConfig
from unmask.recipe import validate
from unmask.training.preferences import require_preferences
from unmask.training.setup import build_problems

PAIR = {"prompt": "1 2", "chosen": "12", "rejected": "21"}


def reply(text: Any, role: str = "assistant") -> list[dict[str, Any]]:
    return [{"role": "user", "content": "1 2"}, {"role": role, "content": text}]


def problems(path: Path) -> Any:
    raw = {
        "objective": {"name": "vrpo"},
        "task": {"name": "sudoku", "dataset": str(path)},
        "evaluation": {"num_examples": 2},
    }
    return build_problems(validate(TrainConfig, raw))


def refusal(row: dict[str, Any]) -> str:
    texts = row.keys() == PAIR.keys() and all(isinstance(value, str) for value in row.values())
    rows = [PAIR, row] if texts else [row]  # a column has one type
    with pytest.raises(ValueError) as error:
        require_preferences(Dataset.from_list(rows))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {**PAIR, "chosen": reply("12"), "rejected": reply("21")},
        {**PAIR, "prompt": [{"role": "user", "content": "1 2"}]},
        {**PAIR, "prompt": ""},
    ],
    ids=str,
)
def test_texts_and_conversations_are_pairs(row: dict[str, Any]) -> None:
    require_preferences(Dataset.from_list([row]))


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ("", "''"),
        (" \n", "' \\n'"),
        (3, "3"),
        (1.5, "1.5"),
        (True, "True"),
        ([], "[]"),
        ([1, 2], "[1, 2]"),
        ({"text": "12"}, "{'text': '12'}"),
        (reply(None), "[{"),
        (reply(""), "[{"),
        (reply("12", role="user"), "[{"),
    ],
    ids=str,
)
def test_a_side_that_is_no_reply_is_refused_with_its_row(side: str, value: Any, shown: str) -> None:
    message = refusal({**PAIR, side: value})
    row = int(isinstance(value, str))
    assert message.startswith(f"{side} of preference pair {row} is {shown}")
    assert message.endswith(": give a text that is not empty, or messages that end with the reply")


@pytest.mark.parametrize("missing", PAIR)
def test_a_missing_column_is_refused_with_those_there_are(missing: str) -> None:
    row = {name: value for name, value in PAIR.items() if name != missing}
    assert refusal(row).startswith(f"the preference set has no column {missing!r}, only ")


def test_a_missing_prompt_and_a_pair_of_equals_are_refused() -> None:
    assert refusal({**PAIR, "prompt": None}).startswith("the preference set: prompt 0 is None: ")
    assert refusal({**PAIR, "rejected": "12"}) == (
        "preference pair 1 has chosen and rejected both '12': nothing is preferred in it; leave "
        "the pair out"
    )
    assert "both '12'" in refusal({**PAIR, "rejected": reply("12")})


def test_files_are_read_as_text_and_checked_with_the_problems(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("prompt,chosen,rejected\n1,012,21\n")
    assert problems(table).train_data[0] == {"prompt": "1", "chosen": "012", "rejected": "21"}
    lines = tmp_path / "pairs.jsonl"
    lines.write_text(json.dumps(PAIR) + "\n" + json.dumps({**PAIR, "chosen": None}) + "\n")
    with pytest.raises(ValueError, match="chosen of preference pair 1 is None"):
        problems(lines)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", json.dumps(PAIR) + '\n{"prompt": ', "JSON parse error"),
        ("a.jsonl", "", "it holds no rows"),
        ("a.jsonl", "\n\n", "it holds no rows"),
        ("a.json", "[]", "it holds no rows"),
        ("a.csv", "", "it holds no rows"),
        ("a.csv", "prompt,chosen,rejected\n", "it holds no rows"),
    ],
    ids=str,
)
def test_a_broken_or_an_empty_file_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=reason) as error:
        problems(tmp_path / name)
    assert "\n" not in str(error.value)
