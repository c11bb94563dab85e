"""Completions labelled by hand: (completion, blank cells filled right, whether it is solved).

The rule is in docs/tasks.md: a board has 81 cells, clues are read like all others. Boards are
written as the rows R1 to R9 of the solution, with what is put between them.
"""

T = "<reasoning>\nThe middle box misses 7, 6, 1.\n</reasoning>\n<answer>\n{}\n</answer>"

#  5 3 . | . 7 . | . . .        5 3 4 | 6 7 8 | 9 1 2
#  6 . . | 1 9 5 | . . .        6 7 2 | 1 9 5 | 3 4 8
#  . 9 8 | . . . | . 6 .        1 9 8 | 3 4 2 | 5 6 7
#  ------+-------+------        ------+-------+------
#  8 . . | . 6 . | . . 3        8 5 9 | 7 6 1 | 4 2 3
#  4 . . | 8 . 3 | . . 1        4 2 6 | 8 5 3 | 7 9 1
#  7 . . | . 2 . | . . 6        7 1 3 | 9 2 4 | 8 5 6
#  ------+-------+------        ------+-------+------
#  . 6 . | . . . | 2 8 .        9 6 1 | 5 3 7 | 2 8 4
#  . . . | 4 1 9 | . . 5        2 8 7 | 4 1 9 | 6 3 5
#  . . . | . 8 . | . 7 9        3 4 5 | 2 8 6 | 1 7 9
CLUES = ("53..7....", "6..195...", ".98....6.", "8...6...3", "4..8.3..1", "7...2...6",
         ".6....28.", "...419..5", "....8..79")  # fmt: skip
ROWS = ("534678912", "672195348", "198342567", "859761423", "426853791", "713924856",
        "961537284", "287419635", "345286179")  # fmt: skip
PUZZLE, SOLUTION = "".join(CLUES), "".join(ROWS)
LINES = "\n".join(ROWS)
SPACED = "\n".join(" ".join(row) for row in ROWS)
COMMAS = "\n".join(",".join(row) for row in ROWS)
BARRED = [" | ".join(" ".join(row[i : i + 3]) for i in (0, 3, 6)) for row in ROWS]
BOXED = "\n------+-------+------\n".join("\n".join(BARRED[i : i + 3]) for i in (0, 3, 6))
EDGED = "\n".join("| " + line + " |" for line in BOXED.split("\n"))
TABLE = "\n".join("| " + " | ".join(row) + " |" for row in ROWS)
HEADED = TABLE.replace("\n", "\n|---|---|---|---|---|---|---|---|---|\n", 1)


def changed(**cells: str) -> str:
    """The solution with cells written over: r3c1="7"."""
    board = list(SOLUTION)
    for place, digit in cells.items():
        board[9 * (int(place[1]) - 1) + int(place[3]) - 1] = digit
    return "".join(board)


def lines(board: str) -> str:
    return "\n".join(board[start : start + 9] for start in range(0, 81, 9))


LABELLED = [
    # --- solved, in the forms that models write ---
    (SOLUTION, 51, True),
    (LINES, 51, True),
    (SPACED, 51, True),
    (f"\n{SOLUTION}\n", 51, True),
    (T.format(SOLUTION), 51, True),
    (T.format(LINES), 51, True),
    (T.format(SPACED), 51, True),
    (T.format(SPACED.replace("\n", "\r\n")), 51, True),
    (T.format(SPACED.replace(" ", "\t")), 51, True),
    (T.format(SPACED.replace("\n", "\n\n")), 51, True),
    (T.format(COMMAS), 51, True),
    (T.format(COMMAS.replace(",", ", ")), 51, True),
    (T.format(COMMAS.replace("\n", ",\n")), 51, True),
    (T.format(COMMAS.replace("\n", ",")), 51, True),
    (T.format(" ".join(ROWS)), 51, True),
    (T.format(", ".join(ROWS)), 51, True),
    (T.format("|".join(ROWS)), 51, True),
    (T.format(BOXED), 51, True),
    (T.format(BOXED.replace("------+-------+------", "---------------------")), 51, True),
    (T.format(BOXED.replace("------+-------+------", "")), 51, True),
    (T.format(BOXED.replace("------+-------+------", "======#").replace("#", "")), 51, True),
    (T.format(BOXED.replace("|", "│").replace("------+-------+------", "──────┼───────┼──────")),
     51, True),
    (T.format(EDGED), 51, True),
    (T.format(f"+-------+-------+-------+\n{EDGED}\n+-------+-------+-------+"), 51, True),
    (T.format(TABLE), 51, True),
    (T.format(HEADED), 51, True),
    (T.format(f"```\n{LINES}\n```"), 51, True),
    (T.format(f"```text\n{BOXED}\n```"), 51, True),
    (T.format(f"`{SOLUTION}`"), 51, True),
    (T.format(f"**{SOLUTION}**"), 51, True),
    (T.format(f"\\boxed{{{SOLUTION}}}"), 51, True),
    (f"Done: \\boxed{{{SOLUTION}}}", 51, True),
    (f"<answer>{SOLUTION}</answer>", 51, True),
    (f"<answer>{SOLUTION}</answer>\nEvery row, column and box holds 1 to 9.", 51, True),
    (f"<answer>{PUZZLE}</answer> filled in: <answer>{SOLUTION}</answer>", 51, True),
    # --- a whole board with wrong cells ---
    (T.format(changed(r1c3="1")), 50, False),
    (T.format(lines(changed(r1c3="1"))), 50, False),
    (T.format(changed(r1c3="2", r1c9="4")), 49, False),  # two cells of a row swapped
    (T.format(changed(r5c5="9", r5c8="5")), 49, False),
    (T.format(changed(r9c1="4", r9c2="3")), 49, False),
    (T.format(changed(r3c1="7", r3c4="7", r3c5="7", r3c6="7")), 47, False),
    (T.format(changed(r4c2="9", r4c3="5")), 49, False),
    (T.format(changed(r8c1="8", r8c2="2")), 49, False),
    (T.format(changed(r1c3="0")), 50, False),  # left open
    (T.format(changed(r1c3=".")), 50, False),
    (T.format(changed(r1c3="_")), 50, False),
    (T.format(changed(r1c3="?")), 50, False),
    (T.format(changed(r1c3="x")), 50, False),
    (T.format(changed(r1c3="A")), 50, False),
    (T.format(changed(r1c3="４")), 50, False),  # a full-width 4
    (T.format(changed(r1c3="²")), 50, False),
    (T.format(PUZZLE), 0, False),
    (T.format(PUZZLE.replace(".", "0")), 0, False),
    (T.format("0" * 81), 0, False),
    (T.format("123456789" * 9), 6, False),  # r3c1 r5c2 r5c5 r5c7 r6c3 r9c6
    (T.format(BOXED.replace("6 7 8", "6 8 7", 1)), 50, False),  # the blank 8, and the clue 7
    # --- a clue changed: the blanks are right, the board is not ---
    (T.format(changed(r1c1="4")), 51, False),
    (T.format(changed(r9c9="1")), 51, False),
    (T.format(changed(r2c1="0")), 51, False),
    (T.format(lines(changed(r5c4="1", r5c9="8"))), 51, False),
    (T.format(changed(r1c2="4", r1c3="3")), 50, False),  # a clue and a blank swapped
    # --- no whole board ---
    ("", 0, False),
    (T.format(""), 0, False),
    (T.format(SOLUTION[:-1]), 0, False),
    (T.format(SOLUTION[1:]), 0, False),
    (T.format(SOLUTION + "9"), 0, False),
    (T.format("\n".join(ROWS[:8])), 0, False),
    (T.format("\n".join(ROWS + ROWS[8:])), 0, False),
    (T.format(SOLUTION + "\n" + SOLUTION), 0, False),
    (T.format(SOLUTION + "."), 0, False),
    (T.format("\n".join(f"Row {i}: {row}" for i, row in enumerate(ROWS, 1))), 0, False),
    (T.format("\n".join(f"{i}. {row}" for i, row in enumerate(ROWS, 1))), 0, False),
    (T.format("The solution is\n" + LINES), 0, False),
    (T.format(LINES + "\nand that is all"), 0, False),
    (T.format("/".join(ROWS)), 0, False),
    (T.format("-".join(ROWS)), 0, False),
    (T.format(str([list(map(int, row)) for row in ROWS])), 0, False),
    (T.format("R1C3=4, R1C4=6, R1C6=8"), 0, False),
    (T.format("1234341221434321"), 0, False),  # a board of the other size
    (T.format("(81 digits)"), 0, False),
    (T.format("This puzzle has no solution."), 0, False),
    (f"<answer>{SOLUTION}", 0, False),
    (f"{SOLUTION}</answer>", 0, False),
    (f"The board: {SOLUTION}", 0, False),
    (f"{LINES}\nEvery row holds 1 to 9.", 0, False),
    (f"<answer>{SOLUTION}</answer><answer></answer>", 0, False),
]  # fmt: skip
