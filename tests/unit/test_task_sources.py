"""Countdown, Sudoku and reasoning-gym problems from files in the published schemas."""

import json

import pytest
from datasets import Dataset

from unmask.config import TrainConfig
from unmask.recipe import load_config
from unmask.tasks import get_task
from unmask.tasks.boards import is_solution
from unmask.tasks.show import graded_answers
from unmask.tasks.sudoku9 import count_solutions
from unmask.training.setup import evaluation_data, task_of

SOLVED9 = "816352794352479168479816523631245879245987316987631452594768231123594687768123945"


def own_recipe(folder, **task) -> TrainConfig:
    file = folder / "own.yaml"
    file.write_text(json.dumps({"command": "train", "task": task}))
    config = load_config([str(file)], "train")
    assert isinstance(config, TrainConfig)
    return config


def read(folder, **task) -> Dataset:
    config = own_recipe(folder, **task)
    return evaluation_data(config, task_of(config))


def test_countdown_test_files_are_read(tmp_path) -> None:
    file = tmp_path / "cd.jsonl"
    file.write_text(
        '{"input": "30,100,93", "output": "23"}\n{"input": "2,3,4,5", "output": "14"}\n'
    )
    rows = read(tmp_path, name="countdown", dataset=str(file), prompt="d1")
    assert rows["numbers"][:] == [[30, 100, 93], [2, 3, 4, 5]]
    assert rows["target"][:] == [23, 14]
    assert "[30, 100, 93]" in rows[0]["prompt"][0]["content"]
    texts = ["<answer>93+30-100</answer>", "2+3+4+5"]
    columns = {"numbers": rows["numbers"][:], "target": rows["target"][:]}
    assert get_task("countdown").exact(None, texts, **columns) == [1.0, 1.0]


def test_the_countdown_hub_set_is_read() -> None:
    data = Dataset.from_list([{"target": 98, "nums": [44, 19, 35]}])
    row = get_task("countdown").convert(data, "compact")[0]
    assert (row["numbers"], row["target"]) == ([44, 19, 35], 98)
    assert row["prompt"][0]["content"] == "44 19 35 : 98"
    with pytest.raises(ValueError, match="row 0 with the numbers"):
        get_task("countdown").convert(Dataset.from_list([{"nums": ["a"], "target": 1}]), "compact")


def test_sudoku_files_keep_leading_zeros(tmp_path) -> None:
    file = tmp_path / "sudoku.csv"
    solution = "1234341221434321"
    file.write_text(f"Puzzle,Solution\n0{solution[1:]},{solution}\n")
    rows = read(tmp_path, name="sudoku", dataset=str(file))
    assert rows["puzzle"][:] == ["." + solution[1:]]
    assert rows["solution"][:] == [solution]


def test_a_9x9_file_is_read(tmp_path) -> None:
    file = tmp_path / "sudoku9.csv"
    file.write_text(f"Puzzle,Solution\n0{SOLVED9[1:]},{SOLVED9}\n")
    rows = read(tmp_path, name="sudoku9", dataset=str(file))
    assert rows["puzzle"][:] == ["." + SOLVED9[1:]]


def test_rows_that_are_no_puzzle_are_refused(tmp_path) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text("Puzzle,Solution\n0234341221434321,1234341221434322\n")
    with pytest.raises(ValueError, match="1 of 1 rows are no puzzle of 16 cells"):
        read(tmp_path, name="sudoku", dataset=str(file))


def test_a_file_without_the_columns_lists_what_it_has(tmp_path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(json.dumps({"text": "a", "label": 1}) + "\n")
    with pytest.raises(ValueError, match="no column 'prompt', only text, label"):
        read(tmp_path, name="gsm8k", dataset=str(file))


def test_9x9_puzzles_have_one_solution() -> None:
    task = get_task("sudoku9", min_blanks=30, max_blanks=32)
    rows = task.build("train", size=3, seed=1)
    for row in rows:
        assert is_solution(row["puzzle"], row["solution"], 3)
        assert 30 <= row["puzzle"].count(".") <= 32
        assert count_solutions(row["puzzle"]) == 1
    assert task.build("train", size=2, seed=1).to_list() == rows.to_list()[:2]
    assert task.exact(None, rows["solution"][:], solution=rows["solution"][:]) == [1.0] * 3
    assert count_solutions("." * 81) == 2


@pytest.mark.parametrize("name", ["countdown", "sudoku", "sudoku9", "gsm8k", "math"])
def test_shown_answers_have_the_rewards_of_their_kind(name: str) -> None:
    answers = graded_answers(get_task(name), "d1")
    found = {kind: (reward, solved) for kind, _, reward, solved in answers}
    assert found["perfect"] == (1.0, 1.0)
    assert 0 < found["partial"][0] < 1
    assert found["partial"][1] == 0
    assert found["wrong"] == (0.0, 0.0)


# --- reasoning-gym ------------------------------------------------------------------------------


@pytest.fixture
def gym():
    pytest.importorskip("reasoning_gym")
    from unmask.tasks.sandbox import SandboxError, SandboxSettings

    try:
        SandboxSettings().resolve()
    except SandboxError as error:
        pytest.skip(str(error))


def test_a_reasoning_gym_task_is_scored_in_the_sandbox(gym, tmp_path) -> None:
    config = own_recipe(
        tmp_path, name="reasoning_gym", dataset="countdown", options={"partial": True}
    )
    task = task_of(config)
    config.evaluation.num_examples = 3
    rows = evaluation_data(config, task)
    assert len(rows) == 3
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    hacked = tmp_path / "hacked"
    texts = [columns["answer"][0], f"__import__('pathlib').Path('{hacked}').touch()", ""]
    rewards = task.reward(None, texts, **columns)
    assert rewards[0] == 1.0
    assert 0 < rewards[1] < 0.2  # what its scorer gives to any text
    assert rewards[2] == 0.0
    assert task.exact(None, texts, **columns) == [1.0, 0.0, 0.0]
    assert not hacked.exists()


def test_splits_of_a_reasoning_gym_task_have_nothing_in_common(gym) -> None:
    task = get_task("reasoning_gym", dataset="leg_counting")
    train = {row["prompt"][0]["content"] for row in task.build("train", size=100, seed=0)}
    held_out = {row["prompt"][0]["content"] for row in task.build("heldout", size=20, seed=3)}
    assert not train & held_out


def test_an_unknown_reasoning_gym_data_set_is_named(gym) -> None:
    with pytest.raises(ValueError, match=r"'knights_knave' is not one of .*'knights_knaves'"):
        get_task("reasoning_gym", dataset="knights_knave").build("train", size=1, seed=0)
    with pytest.raises(ValueError, match=r"with the settings .* cannot be made"):
        get_task("reasoning_gym", settings={"absurd": 1}).build("train", size=1, seed=0)
