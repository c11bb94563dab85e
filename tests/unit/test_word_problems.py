"""GSM8K and MATH: agreement with hand labels, data in the published schemas, hostile answers."""

import json
import time
from pathlib import Path

import pytest
from datasets import Dataset
from labelled import gsm8k, math

from unmask.tasks import get_task
from unmask.tasks.answers import final_answer, plain_number, same_spelling
from unmask.tasks.math_pool import MathPool
from unmask.tasks.protocols import PROTOCOLS, math_completion

pytest.importorskip("math_verify")


@pytest.mark.parametrize(("name", "labelled"), [("gsm8k", gsm8k), ("math", math)])
def test_the_verifier_agrees_with_every_hand_label(name, labelled) -> None:
    rows = labelled.LABELLED
    assert len(rows) >= 80
    assert 30 <= sum(label for _, _, label in rows) <= len(rows) - 30
    found = get_task(name).exact(
        None, [text for _, text, _ in rows], answer=[answer for answer, _, _ in rows]
    )
    wrong = [row for row, value in zip(rows, found, strict=True) if bool(value) is not row[2]]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\frac{\sqrt{3}}{\frac{1}{2}}}", r"\frac{\sqrt{3}}{\frac{1}{2}}"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1} \boxed{2", "1"),
        ("#### 7\nThe end", "7"),
        ("the answer is 3.5. And more.", "3.5"),
        ("<answer>\n9\n</answer>", "9"),
        ("#### 1 <answer>2</answer>", "2"),
        ("nothing", None),
        ("<answer> </answer>", None),
        (r"\boxed{" + "1" * 600 + "}", None),
    ],
)
def test_the_final_answer_is_what_is_stated_last(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_every_protocol_accepts_its_own_form(name: str, protocol: str) -> None:
    task = get_task(name)
    rows = task.sample("train", protocol)
    texts = [math_completion(row["solution"], row["answer"], protocol) for row in rows]
    assert task.reward(None, texts, answer=rows["answer"][:]) == [1.0] * len(texts)
    wrong = [math_completion("So:", "-77", protocol)] * len(texts)
    assert task.reward(None, wrong, answer=rows["answer"][:]) == [0.1] * len(texts)
    assert task.reward(None, ["?"], answer=["1"]) == [0.0]
    asked = rows[0]["prompt"][0]["content"]
    assert rows[0]["question"] in asked
    assert ("<answer>" in asked) == (protocol in ("d1", "espo"))


def test_the_hub_schemas_are_read() -> None:
    rows = [{"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 1,002"}]
    assert get_task("gsm8k").convert(Dataset.from_list(rows), "d1")["answer"][:] == ["1002"]
    rows = [{"problem": "Find it.", "solution": r"It is \boxed{\frac{1}{2}}.", "level": "1"}]
    assert get_task("math").convert(Dataset.from_list(rows), "d1")["answer"][:] == [r"\frac{1}{2}"]
    rows = [{"problem": "Find it.", "solution": "long", "answer": r"\pi", "subject": "Algebra"}]
    assert get_task("math500").convert(Dataset.from_list(rows), "d1")["answer"][:] == [r"\pi"]


def test_rows_with_prompts_of_their_own_stay_as_they_are() -> None:
    data = Dataset.from_list([{"prompt": "mine", "answer": "1"}])
    assert get_task("gsm8k").convert(data, "d1") is data


def test_answers_that_cannot_be_read_are_counted_and_refused_above_one_percent(caplog) -> None:
    rows = [{"question": str(n), "answer": f"#### {n}"} for n in range(200)]
    rows[7]["answer"] = "#### many"
    kept = get_task("gsm8k").convert(Dataset.from_list(rows), "d1")
    assert len(kept) == 199
    assert "dropped 1 of 200" in caplog.text
    for row in rows[:2]:
        row["answer"] = "#### few"
    with pytest.raises(ValueError, match="3 of 200 answers cannot be read"):
        get_task("gsm8k").convert(Dataset.from_list(rows), "d1")
    rows = [{"problem": "p", "solution": "s", "answer": "{"}]
    with pytest.raises(ValueError, match="1 of 1 answers cannot be read"):
        get_task("math").convert(Dataset.from_list(rows), "d1")


def test_a_data_set_that_cannot_be_reached_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"openai/gsm8k .* task.dataset=sample"):
        get_task("gsm8k").build("train", size=1, seed=0)


HOSTILE = [
    "\\boxed{" * 20_000,
    "\\boxed{" + "{" * 100_000,
    "the answer is " * 100_000,
    "#### " * 100_000,
    "\\boxed{" + "9" * 400 + "}",
    "\\boxed{" + "1," * 200 + "}",
    "\\boxed{" + "-" * 400 + "1}",
    "\\boxed{" + "(" * 250 + ")" * 250 + "}",
    "\\boxed{" + "\\frac{1}{" * 45 + "2" + "}" * 45 + "}",
    "\\boxed{10^{10^{10^{10}}}}",
    "\\boxed{1000000!!!!}",
    "\\boxed{\\sum_{n=1}^{10^{12}} n}",
    "\\boxed{__import__('os').system('touch hacked')}",
    "\\boxed{\\text{__import__('os')._exit(0)}}",
    "İ" * 50_000 + " the answer is 5",
    "\x00\ud800 \\boxed{5\x00}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_scores_nothing_within_its_limit(text: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    for name in ("gsm8k", "math"):
        assert get_task(name).exact(None, [text], answer=["5000"]) == [0.0]
    assert time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == []


def test_a_pair_that_hangs_costs_its_own_limit_only() -> None:
    pool = MathPool(num_workers=1, time_limit=1.0)
    try:
        pairs = [("2", r"\sqrt{4}"), ("2", "9^{9^{9^{9^{9}}}}"), (r"\frac{1}{2}", "2^{-1}")] * 2
        assert pool.equal(pairs) == [True, False, True] * 2
    finally:
        pool.close()


def test_a_pair_is_compared_once_and_again_only_where_it_got_no_answer() -> None:
    pool = MathPool(num_workers=1, time_limit=2.0)
    try:
        slow = ("2", "9^{9^{9^{9^{9}}}}")
        assert pool.equal([("2", r"\sqrt{4}"), slow, ("2", r"\sqrt{9}")]) == [True, False, False]
        began = time.monotonic()
        known = [("2", r"\sqrt{9}"), ("2", r"\sqrt{4}")] * 5_000
        assert pool.equal(known) == [False, True] * 5_000
        assert time.monotonic() - began < 1.0
        assert pool.equal([slow]) == [False]
        assert time.monotonic() - began > 2.0
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"\frac{3}{4}", r"\dfrac{3}{4}", True),
        (r"(3, 6)", r"\left(3,\,6\right)", True),
        (r"x^2 - 3x", r"x^2-3x", True),
        (r"\text{even}", r"\text{even}.", True),
        ("1 2", "12", False),
        (r"\sin x", r"\sinx", False),
        ("x", "X", False),
        ("3", "-3", False),
    ],
)
def test_equal_spelling_needs_no_comparison(one: str, other: str, same: bool) -> None:
    assert same_spelling(one, other) is same


@pytest.mark.parametrize(
    ("text", "value"), [("1,234.5", "2469/2"), ("1/0", None), ("12,34", None), ("1e5", None)]
)
def test_plain_numbers_have_one_reading(text: str, value: str | None) -> None:
    found = plain_number(text)
    assert (None if found is None else str(found)) == value


def test_the_packaged_problems_are_whole() -> None:
    folder = Path(__file__).parents[2] / "unmask" / "tasks" / "samples"
    for file in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert len({row["question"] for row in rows}) == len(rows) >= 12
        for row in rows:
            assert {"question", "solution", "answer"} == row.keys()
