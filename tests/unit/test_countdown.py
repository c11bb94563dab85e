"""The countdown verifier against hand-written answers and attacks, and the problems it is for."""

import re
import time
from collections import Counter, defaultdict

import pytest

from unmask.tasks import Countdown, answer_text
from unmask.tasks.arithmetic import evaluate_expression
from unmask.tasks.draws import split_of


def scores(text, numbers=(3, 7, 25), target=46):
    """Dense and exact reward of one completion; 25+3*7 = 46."""
    task = Countdown()
    columns = {"numbers": [list(numbers)], "target": [target]}
    (dense,) = task.reward(None, [text], None, **columns)
    (exact,) = task.exact(None, [text], None, **columns)
    return dense, exact


SOLVED, WELL_FORMED, WRONG = (1.0, 1.0), (0.1, 0.0), (0.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "25+3*7",
        "3*7+25",
        "7*3+25",
        " 25 + 3 * 7 ",
        "25\n+\t3*7\r\n",
        "(25+3*7)",
        "((25)+(3*(7)))",
        "25+3*7=46",
        "25+3*7 = 46\n",
        "<answer>25+3*7</answer>",
        "<reasoning>\n3*7 is 21.\n</reasoning>\n<answer>\n25+3*7\n</answer>",
        "<answer>1+1</answer> no, <answer>25+3*7</answer>",
        "<answer><answer>25+3*7</answer></answer>",
        "<answer>25+3*7 = 46</answer> trailing words",
        "25+3\u00d77",
        "\\boxed{25+3*7}",
    ],
)
def test_solution_earns_the_full_reward(text):
    assert scores(text) == SOLVED


@pytest.mark.parametrize(
    "text",
    [
        "25+3+7",
        "25*3*7",
        "(25-3)*7",
        "3-7-25",
        "3/7/25",
        "<answer>25-3-7</answer>",
        "25+3+7=46",
    ],
)
def test_wrong_expression_over_the_numbers_earns_a_tenth(text):
    assert scores(text) == WELL_FORMED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "46",
        "25+21",
        "25+3*7+0",
        "25+3*7*1",
        "25+3",
        "25+3*7-7+7",
        "253*7",
        "2 5+3*7",
        "25 3*7",
        "25+3*7 46",
        "46=25+3*7",
        "25+3*7=45",
        "25+3*7=" + " " * 300 + "46",
        "25+3*7==46",
        "25+3*7=46=46",
        "25+3*7=046",
        "25+3*7=",
        "=46",
        "25+3*7=4_6",
        "+25+3*7",
        "-3*-7+25",
        "25--3*7",
        "25+3**7",
        "44**63**25",
        "25//3+7",
        "25+3*7.0",
        "25+3*7e0",
        "025+3*7",
        "25+0x3*7",
        "2_5+3*7",
        "25+\u0663*7",
        "25+\uff13*7",
        "25+3\u00b2*7",
        "25\uff0b3*7",
        "25+3\u00a0*7",
        "25+3*7\u200b",
        "25+3*7\x00",
        "25+3*7;",
        "25,3*7",
        "25+(3*7",
        "25+3*7)",
        "25+()3*7",
        "(25+)3*7",
        "25(3*7)",
        "25+3*",
        "*25+3*7",
        "25+3*7#",
        "nan",
        "inf",
        "NaN+3*7",
        "25+3*7+nan",
        "True+3*7",
        "__import__('os').system('true')",
        "exit()",
        "(lambda: 46)()",
        "[25+3*7]",
        "The answer is 25+3*7",
        "<answer>25+3*7",
        "<answer></answer>",
        "<answer>25+3*7</answer><answer>exit()</answer>",
        "<answer>25+3*7<answer>3</answer>",
    ],
)
def test_everything_else_earns_nothing(text):
    assert scores(text) == WRONG


def test_each_number_counts_as_often_as_it_is_given():
    assert scores("5*5+1", (5, 5, 1), 26) == SOLVED
    assert scores("5*5+1", (5, 1, 1), 26) == WRONG
    assert scores("5*5+1", (5, 1), 26) == WRONG
    assert scores("5+1", (5, 5, 1), 6) == WRONG


def test_intermediate_values_are_exact_fractions():
    assert scores("8/(3-8/3)", (3, 3, 8, 8), 24) == SOLVED
    assert scores("1/3*3", (1, 3, 3), 1) == SOLVED
    assert scores("(49/49)*1", (1, 49, 49), 1) == SOLVED
    # In floats this rounds to 1.
    assert scores("1+1/999999999/999999999", (1, 1, 999999999, 999999999), 1) == WELL_FORMED


def test_operators_of_one_rank_apply_from_the_left():
    assert scores("20-5-3", (20, 5, 3), 12) == SOLVED
    assert scores("20-(5-3)", (20, 5, 3), 18) == SOLVED
    assert scores("20/5*2", (20, 5, 2), 8) == SOLVED
    assert scores("20/(5*2)", (20, 5, 2), 2) == SOLVED
    assert scores("2+3*4", (2, 3, 4), 14) == SOLVED
    assert scores("(2+3)*4", (2, 3, 4), 20) == SOLVED


@pytest.mark.parametrize("text", ["1/0", "1/(2-2)", "0/0"])
def test_division_by_zero_earns_nothing(text):
    numbers = [int(digit) for digit in text if digit.isdigit()]
    assert scores(text, numbers, 1) == WRONG


def test_nesting_is_bounded():
    assert evaluate_expression("(" * 16 + "7" + ")" * 16, [7]) == 7
    assert evaluate_expression("(" * 17 + "7" + ")" * 17, [7]) is None
    assert evaluate_expression("()" * 20, [7]) is None
    assert scores("(" * 100_000 + "25+3*7" + ")" * 100_000) == WRONG


def test_closed_parentheses_do_not_count_as_nesting():
    numbers = list(range(1, 31))
    text = "+".join(f"({number})" for number in numbers)
    assert evaluate_expression(text, numbers) == sum(numbers)


def test_magnitude_is_bounded():
    assert evaluate_expression("999999999*999999999", [999999999] * 2) == 999999999**2
    assert evaluate_expression("999999999*999999999*2", [999999999] * 2 + [2]) is None
    assert evaluate_expression("1/999999999/999999999/2", [1, 2] + [999999999] * 2) is None


def test_length_is_bounded():
    assert evaluate_expression("7" + " " * 255, [7]) == 7
    assert evaluate_expression("7" + " " * 256, [7]) is None


@pytest.mark.parametrize(
    "text",
    [
        "9" * 10_000_000,
        "(" * 10_000_000,
        " " * 10_000_000,
        "1+" * 5_000_000,
        "25+3*7=" + "4" * 10_000_000,
        "<answer>" * 1_250_000,
        "</answer>" * 1_250_000,
        "<answer>" + "9" * 10_000_000 + "</answer>",
        "<answer" * 1_400_000,
    ],
    ids=lambda text: text[:12],
)
def test_ten_megabytes_cost_almost_nothing(text):
    start = time.perf_counter()
    assert scores(text) == WRONG
    assert time.perf_counter() - start < 0.2


@pytest.mark.parametrize(
    "task",
    [Countdown(), Countdown(num_numbers=2), Countdown(num_numbers=4, max_number=12)],
    ids=str,
)
def test_every_problem_is_solved_by_its_short_solution(task):
    data = task.build("train", size=400, seed=0)
    assert task.exact(None, data["solution"][:], **data.to_dict()) == [1.0] * 400
    most_symbols = {2: 3, 3: 7, 4: 11}[task.num_numbers]
    for row in data:
        symbols = re.findall(r"[0-9]+|[^0-9]", row["solution"])
        assert len(symbols) <= most_symbols
        assert len(row["numbers"]) == task.num_numbers
        assert all(1 <= number <= task.max_number for number in row["numbers"])
        assert 1 <= row["target"] <= task.max_target
        numbers = " ".join(map(str, row["numbers"]))
        assert row["prompt"] == [{"role": "user", "content": f"{numbers} : {row['target']}"}]


def test_parentheses_of_solutions_hold_only_sums_within_products():
    solutions = Countdown(num_numbers=4, max_number=12).build("train", size=400, seed=0)
    opening = 0
    for solution in solutions["solution"]:
        # No solution of four numbers nests parentheses.
        for pair in re.finditer(r"\(([^()]*)\)", solution):
            around = solution[: pair.start()][-1:] + solution[pair.end() :][:1]
            assert set(pair[1]) & set("+-")
            assert set(around) & set("*/")
            opening += 1
        assert "(" not in re.sub(r"\([^()]*\)", "", solution)
    assert opening > 50


def test_all_operators_occur_in_solutions():
    text = "".join(Countdown().build("train", size=500, seed=0)["solution"][:])
    assert all(text.count(operator) > 20 for operator in "+-*/")


def test_d1_prompt_shows_numbers_and_target():
    row = Countdown().build("train", size=1, seed=0, prompt="d1")[0]
    content = row["prompt"][0]["content"]
    assert content.endswith(f"Numbers: {row['numbers']}\nTarget: {row['target']}")


def places(expression):
    return re.findall(r"[0-9]+|[^0-9]", expression)


def asked(demonstrations):
    """The columns that the rewards read, from the prompts."""
    integers = [
        [int(number) for number in re.findall("[0-9]+", row[0]["content"])][-4:]
        for row in demonstrations["prompt"]
    ]
    return {"numbers": [row[:3] for row in integers], "target": [row[3] for row in integers]}


def test_noise_is_the_fraction_of_corrupted_demonstrations():
    task = Countdown()
    solutions = task.demonstrations(2_000, 0, "compact", 0.0)["completion"][:]
    for noise in (0.3, 0.93):
        shown = task.demonstrations(2_000, 0, "compact", noise)["completion"][:]
        changed = sum(a != b for a, b in zip(shown, solutions, strict=True)) / 2_000
        # One corruption in 50 draws the number that was there or swaps two equal ones.
        assert changed == pytest.approx(0.978 * noise, abs=0.035)


def test_corruption_changes_one_place_or_swaps_two():
    task = Countdown()
    solutions = task.demonstrations(1_000, 0, "compact", 0.0)["completion"][:]
    shown = task.demonstrations(1_000, 0, "compact", 1.0)["completion"][:]
    kinds = Counter()
    for solution, completion in zip(solutions, shown, strict=True):
        before, after = places(solution), places(completion)
        assert len(before) == len(after)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        if len(changed) == 2:
            assert changed[0] == changed[1][::-1]
            kinds["swap"] += 1
        elif len(changed) == 1:
            (old, new) = changed[0]
            assert old.isdigit() == new.isdigit()
            assert new in "+-*/" or 1 <= int(new) <= task.max_number
            kinds["number" if new.isdigit() else "operator"] += 1
    assert all(250 < kinds[kind] < 400 for kind in ("swap", "operator", "number"))


def test_corrupted_demonstrations_are_well_formed_and_mostly_wrong():
    task = Countdown()
    data = task.demonstrations(1_000, 0, "compact", 1.0)
    shown = data["completion"][:]
    for text in shown:
        numbers = [int(place) for place in places(text) if place.isdigit()]
        value = evaluate_expression(text, numbers)
        assert value is not None or "/" in text  # only a division by zero has no value
    assert 0.05 < sum(task.exact(None, shown, **asked(data))) / 1_000 < 0.25


@pytest.mark.parametrize("prompt", ["compact", "d1"])
def test_demonstrations_without_noise_solve_training_problems_in_more_than_one_way(prompt):
    task = Countdown(num_numbers=3, max_number=4, max_target=10)
    data = task.demonstrations(1_000, 3, prompt, 0.0)
    columns = asked(data)
    answers = [answer_text(text) for text in data["completion"]]
    assert task.exact(None, data["completion"][:], **columns) == [1.0] * 1_000
    solutions = defaultdict(set)
    for numbers, target, answer in zip(columns["numbers"], columns["target"], answers, strict=True):
        key = f"countdown:{' '.join(map(str, sorted(numbers)))}:{target}"
        assert split_of(key) == "train"
        solutions[key].add(answer)
    assert len(solutions) < 150 and max(map(len, solutions.values())) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_numbers": 1}, "num_numbers=1: must be an integer between 2 and 4"),
        ({"num_numbers": 5}, "num_numbers=5: must be"),
        ({"max_number": True}, "max_number=True: must be"),
        ({"max_number": 0}, "max_number=0: must be"),
        ({"max_target": 10**6}, "max_target=1000000: must be"),
        ({"max_target": 10.0}, "max_target=10.0: must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Countdown(**options)


@pytest.mark.parametrize("operators", ["+", "+-", "-*/"])
def test_problems_are_made_with_the_given_operators_alone(operators):
    task = Countdown(operators=operators)
    everything = task.build("train", size=300, seed=0)["solution"][:]
    everything += task.demonstrations(300, 0, "compact", 1.0)["completion"][:]
    used = set(re.sub("[0-9()]", "", "".join(everything)))
    assert used == set(operators)
    assert "/" in task.symbols


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ("", "must be some of"),
        ("+^", "must be some of"),
        ("++", "once"),
        (["+"], "must be some of"),
    ],
)
def test_unknown_operators_are_refused(operators, message):
    with pytest.raises(ValueError, match=message):
        Countdown(operators=operators)
