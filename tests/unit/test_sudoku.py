"""The sudoku verifier against hand-written answers, and the uniqueness of the puzzles."""

import time
from collections import Counter

import pytest

from unmask.tasks import Sudoku
from unmask.tasks.sudoku import solved_boards

#  1 . | . 4        1 2 | 3 4
#  . 4 | 1 .        3 4 | 1 2
#  ----+----        ----+----
#  2 . | 4 .        2 1 | 4 3
#  . 3 | . 1        4 3 | 2 1
PUZZLE, SOLUTION = "1..4.41.2.4..3.1", "1234341221434321"


def scores(text, puzzle=PUZZLE, solution=SOLUTION):
    """Dense and exact reward of one completion."""
    columns = {"puzzle": [puzzle], "solution": [solution]}
    (dense,) = Sudoku().reward(None, [text], None, **columns)
    (exact,) = Sudoku().exact(None, [text], None, **columns)
    return dense, exact


def count_solutions(puzzle):
    """Solutions of a puzzle by trying every digit in the first blank cell."""
    cell = puzzle.find(".")
    if cell < 0:
        return 1
    row, column = divmod(cell, 4)
    seen = set()
    for other in range(16):
        r, c = divmod(other, 4)
        if r == row or c == column or (r // 2, c // 2) == (row // 2, column // 2):
            seen.add(puzzle[other])
    return sum(
        count_solutions(puzzle[:cell] + digit + puzzle[cell + 1 :])
        for digit in "1234"
        if digit not in seen
    )


@pytest.mark.parametrize(
    "text",
    [
        SOLUTION,
        f"\n{SOLUTION} \t",
        "1234 3412\n2143\t4321",
        " ".join(SOLUTION),
        "1234|3412|2143|4321",
        f"<answer>{SOLUTION}</answer>",
        f"<reasoning>\nrow\nby row\n</reasoning>\n<answer>\n{SOLUTION}\n</answer>",
        f"<answer>1111111111111111</answer>\n<answer>{SOLUTION}</answer>",
        f"<answer>first<answer>{SOLUTION}</answer></answer>",
    ],
)
def test_solution_earns_the_full_reward(text):
    assert scores(text) == (1.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        SOLUTION[:-1],
        SOLUTION + "1",
        SOLUTION * 2,
        f"Answer: {SOLUTION}",
        "\u00a0" + SOLUTION,
        "1234/3412/2143/4321",
        f"<answer>{SOLUTION}",
        f"<answer>{SOLUTION}</answer><answer></answer>",
        "1" + " " * 600 + SOLUTION[1:],
    ],
)
def test_answer_of_another_length_earns_nothing(text):
    assert scores(text) == (0.0, 0.0)


def test_dense_reward_is_the_fraction_of_blanks_filled_right():
    assert PUZZLE.count(".") == 8
    assert scores("1134341221434321") == (7 / 8, 0.0)
    assert scores("1324341221434321") == (6 / 8, 0.0)
    assert scores("1444444444444444")[0] == 1 / 8
    assert scores("1111111111111111")[0] == 1 / 8
    assert scores(PUZZLE) == (0.0, 0.0)


def test_altered_clues_cost_only_exactness():
    assert scores("2234341221434321") == (1.0, 0.0)


@pytest.mark.parametrize("digit", ["\u0662", "\uff12", "\u00b2", "x", "."])
def test_other_characters_are_wrong_cells(digit):
    assert scores(SOLUTION.replace("2", digit, 1)) == (7 / 8, 0.0)


def test_blanks_written_as_zero_are_blanks():
    assert scores("1134341221434321", PUZZLE.replace(".", "0"))[0] == 7 / 8


def test_puzzle_without_blanks_is_scored_exactly():
    assert scores(SOLUTION, SOLUTION) == (1.0, 1.0)
    assert scores("2234341221434321", SOLUTION) == (0.0, 0.0)


def test_puzzle_of_another_length_is_refused():
    with pytest.raises(ValueError, match="both must have 16 cells"):
        scores(SOLUTION, PUZZLE[:9])


@pytest.mark.parametrize(
    "text",
    [
        "1" * 10_000_000,
        " " * 10_000_000,
        SOLUTION + "\n" * 10_000_000,
        "<answer>" * 1_250_000,
        "<answer>" + " " * 10_000_000 + "</answer>",
    ],
    ids=lambda text: text[:10],
)
def test_ten_megabytes_cost_almost_nothing(text):
    start = time.perf_counter()
    assert scores(text) == (0.0, 0.0)
    assert time.perf_counter() - start < 0.2


def test_solved_boards_are_the_288_valid_ones():
    boards = solved_boards()
    assert len(boards) == len(set(boards)) == 288
    assert boards == sorted(boards)
    for board in boards:
        rows = [board[start : start + 4] for start in range(0, 16, 4)]
        columns = [board[start::4] for start in range(4)]
        boxes = [board[start : start + 2] + board[start + 4 : start + 6] for start in (0, 2, 8, 10)]
        assert all(set(unit) == set("1234") for unit in rows + columns + boxes)


@pytest.mark.parametrize("task", [Sudoku(), Sudoku(1, 3), Sudoku(12, 12)], ids=str)
def test_every_puzzle_has_exactly_its_solution(task):
    boards = set(solved_boards())
    for row in task.build("train", size=300, seed=0):
        assert count_solutions(row["puzzle"]) == 1
        assert row["solution"] in boards
        for clue, digit in zip(row["puzzle"], row["solution"], strict=True):
            assert clue in (".", digit)
        assert task.min_blanks <= row["puzzle"].count(".") <= task.max_blanks
        assert row["prompt"] == [{"role": "user", "content": row["puzzle"]}]


def test_every_number_of_blanks_occurs():
    puzzles = Sudoku().build("train", size=1_000, seed=0)["puzzle"][:]
    blanks = Counter(puzzle.count(".") for puzzle in puzzles)
    assert set(blanks) == {6, 7, 8, 9, 10}
    assert min(blanks.values()) > 80


def test_d1_prompt_shows_blanks_as_zeros():
    row = Sudoku().build("train", size=1, seed=0, prompt="d1")[0]
    assert row["prompt"][0]["content"].endswith(f"Puzzle: {row['puzzle'].replace('.', '0')}")
    assert "." in row["puzzle"]


def test_noise_is_the_fraction_of_corrupted_demonstrations():
    data = Sudoku(8, 8).build("train", size=2_000, seed=0)
    for noise in (0.3, 0.93):
        shown = Sudoku(8, 8).demonstrations(2_000, 0, "compact", noise)["completion"][:]
        wrong = sum(a != b for a, b in zip(shown, data["solution"], strict=True)) / 2_000
        # All five redrawn cells are right by chance once in 1,024.
        assert wrong == pytest.approx(noise * (1 - 1 / 1024), abs=0.035)


def test_corruption_redraws_two_thirds_of_the_blanks_uniformly():
    data = Sudoku().build("train", size=2_000, seed=0)
    shown = Sudoku().demonstrations(2_000, 0, "compact", 1.0)["completion"][:]
    redrawn, wrong, digits = 0, 0, Counter()
    for row, board in zip(data, shown, strict=True):
        differing = [cell for cell in range(16) if board[cell] != row["solution"][cell]]
        assert all(row["puzzle"][cell] == "." for cell in differing)
        assert len(differing) <= 2 * row["puzzle"].count(".") // 3
        redrawn += 2 * row["puzzle"].count(".") // 3
        wrong += len(differing)
        digits.update(board[cell] for cell in differing)
    assert wrong / redrawn == pytest.approx(0.75, abs=0.02)
    assert set(digits) == set("1234")
    assert min(digits.values()) / wrong == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_blanks": 0}, "min_blanks=0: must be an integer between 1 and 12"),
        ({"max_blanks": 13}, "max_blanks=13: must be an integer between 1 and 12"),
        ({"min_blanks": 6.0}, "min_blanks=6.0: must be an integer"),
        ({"min_blanks": 9, "max_blanks": 8}, "min_blanks=9: must not exceed max_blanks=8"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sudoku(**options)


def test_size_beyond_the_puzzles_there_are_is_refused():
    with pytest.raises(ValueError, match=r"size=9000: .* gave only [0-9]+ distinct train"):
        Sudoku(1, 1).build("train", size=9_000, seed=0)


@pytest.mark.parametrize("prompt", ["compact", "d1"])
def test_demonstrations_without_noise_solve_the_training_puzzles(prompt):
    task = Sudoku()
    shown = task.demonstrations(200, 3, prompt, 0.0)
    built = task.build("train", size=200, seed=3, prompt=prompt)
    assert shown["prompt"][:] == built["prompt"][:]
    columns = built.to_dict()
    assert task.exact(columns["prompt"], shown["completion"][:], **columns) == [1.0] * 200
    assert task.reward(columns["prompt"], shown["completion"][:], **columns) == [1.0] * 200
