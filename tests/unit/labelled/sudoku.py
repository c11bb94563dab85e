"""Completions labelled by hand: (completion, blank cells filled right, whether it is solved).

The rule is in docs/tasks.md: a board has 16 cells, clues are read like all others.
"""

T = "<reasoning>\nRow 1 misses 2 and 3.\n1 2 3 4 fits.\n</reasoning>\n<answer>\n{}\n</answer>"

#  1 . | . 4        1 2 | 3 4
#  . 4 | 1 .        3 4 | 1 2
#  ----+----        ----+----
#  2 . | 4 .        2 1 | 4 3
#  . 3 | . 1        4 3 | 2 1
PUZZLE = "1..4.41.2.4..3.1"
SOLUTION = "1234341221434321"

LABELLED = [
    # --- solved, in the forms that models write ---
    ("1234341221434321", 8, True),
    ("\n1234341221434321\n", 8, True),
    (T.format("1234341221434321"), 8, True),
    (T.format("1234 3412 2143 4321"), 8, True),
    (T.format("1 2 3 4 3 4 1 2 2 1 4 3 4 3 2 1"), 8, True),
    (T.format("1234\n3412\n2143\n4321"), 8, True),
    (T.format("1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"), 8, True),
    (T.format("1 2 3 4  \r\n3 4 1 2\r\n2 1 4 3\r\n4 3 2 1\r\n"), 8, True),
    (T.format("1\t2\t3\t4\n3\t4\t1\t2\n2\t1\t4\t3\n4\t3\t2\t1"), 8, True),
    (T.format("1 2 3 4\n3 4 1 2\n\n2 1 4 3\n4 3 2 1"), 8, True),
    (T.format("1,2,3,4\n3,4,1,2\n2,1,4,3\n4,3,2,1"), 8, True),
    (T.format("1, 2, 3, 4,\n3, 4, 1, 2,\n2, 1, 4, 3,\n4, 3, 2, 1"), 8, True),
    (T.format("1,2,3,4,3,4,1,2,2,1,4,3,4,3,2,1"), 8, True),
    (T.format("1234, 3412, 2143, 4321"), 8, True),
    (T.format("1234|3412|2143|4321"), 8, True),
    (T.format("1 2 | 3 4\n3 4 | 1 2\n2 1 | 4 3\n4 3 | 2 1"), 8, True),
    (T.format("1 2 | 3 4\n3 4 | 1 2\n----+----\n2 1 | 4 3\n4 3 | 2 1"), 8, True),
    (T.format("1 2 | 3 4\n3 4 | 1 2\n---------\n2 1 | 4 3\n4 3 | 2 1"), 8, True),
    (T.format("+-----+-----+\n| 1 2 | 3 4 |\n| 3 4 | 1 2 |\n+-----+-----+\n"
              "| 2 1 | 4 3 |\n| 4 3 | 2 1 |\n+-----+-----+"), 8, True),
    (T.format("| 1 | 2 | 3 | 4 |\n|---|---|---|---|\n| 3 | 4 | 1 | 2 |\n"
              "| 2 | 1 | 4 | 3 |\n| 4 | 3 | 2 | 1 |"), 8, True),
    (T.format("| 1 | 2 | 3 | 4 |\n|:-:|:-:|:-:|:-:|\n| 3 | 4 | 1 | 2 |\n"
              "| 2 | 1 | 4 | 3 |\n| 4 | 3 | 2 | 1 |"), 8, True),
    (T.format("1 2 ║ 3 4\n3 4 ║ 1 2\n════╬════\n2 1 ║ 4 3\n4 3 ║ 2 1"), 8, True),
    (T.format("┌─────┬─────┐\n│ 1 2 │ 3 4 │\n│ 3 4 │ 1 2 │\n├─────┼─────┤\n"
              "│ 2 1 │ 4 3 │\n│ 4 3 │ 2 1 │\n└─────┴─────┘"), 8, True),
    (T.format("```\n1234\n3412\n2143\n4321\n```"), 8, True),
    (T.format("```text\n1 2 | 3 4\n3 4 | 1 2\n----+----\n2 1 | 4 3\n4 3 | 2 1\n```"), 8, True),
    (T.format("`1234341221434321`"), 8, True),
    (T.format("**1234341221434321**"), 8, True),
    (T.format(r"\boxed{1234341221434321}"), 8, True),
    (T.format("$1234341221434321$"), 8, True),
    ("The board is complete: \\boxed{1234341221434321}", 8, True),
    ("1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1", 8, True),
    ("<answer>1234341221434321</answer>", 8, True),
    ("<answer>1111222233334444</answer> no: <answer>1234341221434321</answer>", 8, True),
    ("Row by row...\n<answer>1234341221434321</answer>\nEvery row holds 1 to 4.", 8, True),
    ("<answer> 1234341221434321 </answer></answer>", 8, True),
    # --- a whole board with wrong cells ---
    (T.format("1324341221434321"), 6, False),  # 2 and 3 of the first row swapped
    (T.format("1134341221434321"), 7, False),
    (T.format("1334341221434321"), 7, False),
    (T.format("1234341221434311"), 7, False),
    (T.format("1234341321434321"), 7, False),
    (T.format("1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 1 2"), 7, False),  # a blank and the clue behind it
    (T.format("1 2 | 3 4\n3 4 | 1 2\n----+----\n2 3 | 4 1\n4 3 | 2 1"), 6, False),
    (T.format("1432341221434321"), 7, False),  # a clue is lost too
    (T.format("1111111111111111"), 1, False),
    (T.format("4444444444444444"), 1, False),
    (T.format("2222222222222222"), 3, False),
    (T.format("3333333333333333"), 3, False),
    (T.format("1234123412341234"), 2, False),  # those of the first row
    (T.format("4321214334121234"), 0, False),  # the board turned upside down
    (T.format("1004041020400301"), 0, False),  # the puzzle itself
    (T.format("1..4.41.2.4..3.1"), 0, False),
    (T.format("1204341221434321"), 7, False),  # one cell left open
    (T.format("12.4341221434321"), 7, False),
    (T.format("1_34341221434321"), 7, False),
    (T.format("1534341221434321"), 7, False),  # 5 is no digit of this board
    (T.format("1934341221434329"), 7, False),
    (T.format("1x34341221434321"), 7, False),
    (T.format("1２34341221434321"), 7, False),  # a full-width 2
    # --- a clue changed: the blanks are right, the board is not ---
    (T.format("2234341221434321"), 8, False),
    (T.format("1234341221434322"), 8, False),
    (T.format("1 2 3 4\n3 4 1 2\n1 1 4 3\n4 3 2 1"), 8, False),
    (T.format("0234341221434321"), 8, False),
    (T.format(".23.3..2.1.34.2."), 8, False),  # the blanks alone
    # --- no whole board ---
    ("", 0, False),
    (T.format(""), 0, False),
    (T.format("123434122143432"), 0, False),
    (T.format("12343412214343211"), 0, False),
    (T.format("1234\n3412\n2143"), 0, False),
    (T.format("12343412214343211234341221434321"), 0, False),
    (T.format("1234341221434321 1234341221434321"), 0, False),
    (T.format("1234\n3412\n2143\n4321\n\n1234\n3412\n2143\n4321"), 0, False),
    (T.format("23321324"), 0, False),  # the missing digits only
    (T.format("Row 1: 1234\nRow 2: 3412\nRow 3: 2143\nRow 4: 4321"), 0, False),
    (T.format("The board is 1234341221434321"), 0, False),
    (T.format("1234341221434321 is the board"), 0, False),
    (T.format("1234341221434321."), 0, False),  # a dot is an open cell, the 17th
    (T.format("[[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2,1]]"), 0, False),
    (T.format("R1C2=2, R1C3=3, R2C1=3"), 0, False),
    (T.format("1234/3412/2143/4321"), 0, False),
    (T.format("1-2-3-4\n3-4-1-2\n2-1-4-3\n4-3-2-1"), 0, False),
    (T.format("1234\n----\n----\n4321"), 0, False),  # lines without digits are drawn lines
    (T.format("(16 digits)"), 0, False),
    (T.format("no solution"), 0, False),
    ("<answer>1234341221434321", 0, False),
    ("1234341221434321</answer>", 0, False),
    ("The board is 1234341221434321", 0, False),
    ("1234341221434321\nEvery row holds 1 to 4.", 0, False),
    ("<answer>1234341221434321</answer><answer></answer>", 0, False),
    ("<answer>1234341221434321</answer> no, <answer>I am not sure</answer>", 0, False),
]  # fmt: skip
