"""What every task promises: names, splits, determinism, errors and the reward signature."""

import hashlib
import itertools
import json
import re
import subprocess
import sys

import pytest

from unmask.tasks import Countdown, Sudoku, Task, answer_text, completion_text, get_task
from unmask.tasks.draws import split_of

# Data of an earlier run would silently change with any of these.
PINNED = {
    "countdown": {
        "train": "434f3cc3e5830668",
        "heldout": "6edea43fc9287d6b",
        "demonstrations": "fe9c21d9452789a1",
    },
    "sudoku": {
        "train": "ea8a424bbc0d38b8",
        "heldout": "7038c8d461ff423e",
        "demonstrations": "b6e1cd8c15d1c365",
    },
}


def fingerprint(dataset):
    rows = json.dumps(dataset.to_list(), sort_keys=True).encode()
    return hashlib.blake2b(rows, digest_size=8).hexdigest()


def canonical(task, row):
    if task.name == "sudoku":
        return row["puzzle"]
    return (*sorted(row["numbers"]), row["target"])


# Tasks that draw problems without end; the others read published sets.
GENERATED = ("countdown", "sudoku")


@pytest.fixture(params=GENERATED)
def task(request):
    return get_task(request.param)


def test_registered_tasks_satisfy_the_contract(task):
    assert isinstance(task, Task)
    assert task.prompts[0] == "compact"
    assert "d1" in task.prompts
    assert [task.prefill(prompt) for prompt in task.prompts] == ["", ""]


def test_get_task_passes_options_on():
    assert get_task("sudoku", min_blanks=4, max_blanks=5) == Sudoku(min_blanks=4, max_blanks=5)
    assert get_task("countdown", num_numbers=4) == Countdown(num_numbers=4)


def test_unknown_task_names_the_known_and_the_nearest():
    message = "task 'sudokku' is not one of code, countdown, sudoku; did you mean 'sudoku'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        get_task("sudokku")


def test_unknown_option_names_the_known_and_the_nearest():
    with pytest.raises(ValueError, match=r"'max_blank' is not one of .*'max_blanks'\?"):
        get_task("sudoku", max_blank=3)


def test_importing_tasks_loads_no_heavy_package():
    code = (
        "import sys, unmask.tasks; "
        "sys.exit(','.join({'torch', 'numpy', 'datasets', 'transformers'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_building_data_and_scoring_do_not_load_torch():
    code = (
        "import sys; from unmask.tasks import get_task\n"
        f"for name in {GENERATED}:\n"
        "    task = get_task(name)\n"
        "    rows = task.build('train', size=3, seed=0).to_dict()\n"
        "    task.reward(None, ['1', '2', '3'], **rows)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_examples_of_one_split_are_distinct_and_absent_from_the_other(task):
    train = {canonical(task, row) for row in task.build("train", size=2_000, seed=0)}
    heldout = {canonical(task, row) for row in task.build("heldout", size=600, seed=1)}
    assert (len(train), len(heldout)) == (2_000, 600)
    assert not train & heldout


def test_two_splits_together_hold_every_solvable_problem():
    task = Countdown(num_numbers=2, max_number=5, max_target=10)
    problems = set()
    for a, b in itertools.product(range(1, 6), repeat=2):
        values = [a + b, a * b, a - b, a // b if a % b == 0 else 0]
        problems |= {(*sorted((a, b)), value) for value in values if 1 <= value <= 10}
    split = {problem: split_of("countdown:{} {}:{}".format(*problem)) for problem in problems}
    for name in ("train", "heldout"):
        expected = {problem for problem in problems if split[problem] == name}
        built = task.build(name, size=len(expected), seed=3)
        assert {canonical(task, row) for row in built} == expected
        with pytest.raises(ValueError, match=f"gave only {len(expected)} distinct {name}"):
            task.build(name, size=len(expected) + 1, seed=3)


def test_one_example_in_eight_is_held_out():
    heldout = sum(split_of(str(number)) == "heldout" for number in range(8_000))
    assert 1_000 - 90 < heldout < 1_000 + 90  # three standard deviations


def test_data_is_pinned(task):
    data = {
        "train": task.build("train", size=300, seed=0),
        "heldout": task.build("heldout", size=100, seed=7, prompt="d1"),
        "demonstrations": task.demonstrations(300, 0, "d1", 0.5),
    }
    assert {kind: fingerprint(rows) for kind, rows in data.items()} == PINNED[task.name]


def test_seed_changes_the_data(task):
    first, second = (task.build("train", size=50, seed=seed).to_list() for seed in (0, 1))
    assert first != second


def test_smaller_size_gives_the_first_rows_of_a_larger_one(task):
    large = task.build("train", size=400, seed=5).to_list()
    assert task.build("train", size=40, seed=5).to_list() == large[:40]
    noisy = task.demonstrations(400, 5, "compact", 0.5).to_list()
    assert task.demonstrations(40, 5, "compact", 0.5).to_list() == noisy[:40]


def test_prompt_format_does_not_change_the_examples(task):
    compact, d1 = (task.build("train", size=20, seed=0, prompt=name) for name in task.prompts)
    assert compact.remove_columns("prompt").to_list() == d1.remove_columns("prompt").to_list()
    assert compact["prompt"][:] != d1["prompt"][:]


def test_d1_prompt_asks_for_both_tags(task):
    (message,) = task.build("train", size=1, seed=0, prompt="d1")[0]["prompt"]
    assert message["role"] == "user"
    for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"):
        assert tag in message["content"]


def test_symbols_spell_every_compact_prompt_and_completion(task):
    longest_first = sorted(task.symbols, key=len, reverse=True)
    word = re.compile("|".join(map(re.escape, longest_first)))
    assert len(set(task.symbols)) == len(task.symbols)
    for row in task.demonstrations(300, 0, "compact", 0.9):
        for text in (row["prompt"][0]["content"], row["completion"]):
            assert word.sub("", text).strip() == ""


def test_rewards_take_trl_arguments_and_return_one_score_per_completion(task):
    columns = task.build("heldout", size=3, seed=0).to_dict()
    prompts = columns.pop("prompt")
    plain = [columns["solution"][0], "nonsense", columns["solution"][2]]
    chat = [[{"role": "assistant", "content": text}] for text in plain]
    for completions in (plain, chat):
        for reward in (task.reward, task.exact):
            scores = reward(
                prompts=prompts,
                completions=completions,
                completion_ids=[[1], [2], [3]],
                trainer_state=None,
                **columns,
            )
            assert scores == [1.0, 0.0, 1.0]
            assert all(type(score) is float for score in scores)


def test_rewards_of_no_completions_are_empty(task):
    empty = {"numbers": [], "target": [], "puzzle": [], "solution": []}
    assert task.reward([], [], [], **empty) == task.exact([], [], [], **empty) == []


def test_rows_of_another_task_are_not_scored(task):
    columns = task.build("train", size=1, seed=0).to_dict()
    solution = columns["solution"][0]
    mixed = {name: [None, *values] for name, values in columns.items()}
    assert task.reward(None, ["anything", solution], **mixed) == [None, 1.0]
    assert task.exact(None, ["anything", solution], **mixed) == [None, 1.0]


def test_missing_column_is_named(task):
    with pytest.raises(ValueError, match=r"column '(numbers|puzzle)' is missing"):
        task.reward(None, ["1"])


def test_column_of_another_length_is_named(task):
    columns = task.build("train", size=2, seed=0).to_dict()
    with pytest.raises(ValueError, match=r"has 2 rows for 1 completions"):
        task.reward(None, ["1"], **columns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split 'test' is not one of train, heldout"),
        ({"size": 0}, "size=0: must be an integer between 1 and 1000000"),
        ({"size": 10**12}, "size=1000000000000: must be"),
        ({"size": 2.0}, "size=2.0: must be an integer"),
        ({"seed": -1}, "seed=-1: must be an integer at least 0"),
        (
            {"prompt": "compct"},
            "prompt 'compct' is not one of compact, d1; did you mean 'compact'?",
        ),
    ],
)
def test_wrong_build_arguments_are_refused(task, arguments, message):
    arguments = {"split": "train", "size": 1, "seed": 0} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        task.build(arguments.pop("split"), **arguments)


@pytest.mark.parametrize("noise", [-0.1, 1.1, float("nan")])
def test_noise_must_be_a_probability(task, noise):
    with pytest.raises(ValueError, match="must be a probability"):
        task.demonstrations(1, 0, "compact", noise)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("plain", "plain"),
        ("<answer>a</answer>", "a"),
        ("<answer>\na\n</answer>", "\na\n"),
        ("<answer>a</answer> then <answer>b</answer> end", "b"),
        ("<answer>a<answer>b</answer>", "b"),
        ("<answer>a<answer>b</answer>c</answer>", "b"),
        ("<answer>a</answer></answer>", "a"),
        ("<answer>a</answer><answer>unfinished", "a"),
        ("<answer>unfinished", "<answer>unfinished"),
        ("</answer>a<answer>", "</answer>a<answer>"),
        ("<answer></answer>", ""),
        ("<ANSWER>a</ANSWER>", "<ANSWER>a</ANSWER>"),
        ("<answer>a</answer>" + "x" * 60_000, "a"),
    ],
)
def test_answer_is_the_last_complete_pair_of_tags(text, answer):
    assert answer_text(text) == answer


def test_answer_is_searched_only_near_the_end():
    text = "<answer>a</answer>" + "x" * 70_000
    assert answer_text(text) == text


@pytest.mark.parametrize(
    "completion",
    [None, 3, [], ["text"], [{"role": "assistant", "content": None}], [{"content": "a"}] * 2],
)
def test_completion_of_another_shape_is_refused(completion):
    with pytest.raises(ValueError, match="a string or a list of one message"):
        completion_text(completion)
