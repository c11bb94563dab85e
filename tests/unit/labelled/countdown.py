"""Completions labelled by hand: (numbers, target, completion, label).

The labels: "solved"; "wrong", an expression of exactly the numbers with another value; "none",
anything else. The rule is in docs/tasks.md.
"""

T = "<reasoning>\nI try a few.\n25 + 3 = 28, too small.\n</reasoning>\n<answer>\n{}\n</answer>"
A = ([3, 7, 25], 46)  # 25+3*7
B = ([30, 100, 93], 23)  # 30-(100-93)
C = ([4, 4, 10, 2], 19)  # 10*2-4/4
D = ([3, 3, 8, 8], 24)  # 8/(3-8/3)
E = ([5, 5, 1], 26)  # 5*5+1
F = ([6, 4, 9, 2], 30)  # (6+9)*4/2

LABELLED = [
    # --- solved, in the forms that models write ---
    (*A, "25+3*7", "solved"),
    (*A, "25 + 3 * 7", "solved"),
    (*A, "3*7+25\n", "solved"),
    (*A, "(3 * 7) + 25", "solved"),
    (*A, "((3*7)+25)", "solved"),
    (*A, "25+3*7=46", "solved"),
    (*A, "25 + (3 * 7) = 46", "solved"),
    (*A, T.format("25+3*7"), "solved"),
    (*A, T.format("25 + 3 * 7 = 46"), "solved"),
    (*A, T.format("25+3*7."), "solved"),
    (*A, T.format("25 + 3*7 = 46."), "solved"),
    (*A, T.format("25 + 3 × 7"), "solved"),
    (*A, T.format("25 + 3·7"), "solved"),
    (*A, T.format(r"25 + 3 \times 7"), "solved"),
    (*A, T.format(r"25 + 3 \cdot 7 = 46"), "solved"),
    (*A, T.format(r"$25 + 3 \times 7$"), "solved"),
    (*A, T.format(r"\(25 + 3 \times 7\)"), "solved"),
    (*A, T.format("\\[\n25 + 3 \\times 7 = 46\n\\]"), "solved"),
    (*A, T.format("$$25+3*7$$"), "solved"),
    (*A, T.format(r"\boxed{25+3*7}"), "solved"),
    (*A, T.format(r"$\boxed{25 + 3 \times 7}$"), "solved"),
    (*A, T.format(r"\boxed{25+3*7} = 46"), "solved"),  # the box is what is stated
    (*A, r"We multiply first, then add: \boxed{25+3*7}", "solved"),
    (*A, r"First \boxed{25+7*2}, no: that is 39. \boxed{25+7*3}", "solved"),
    (*A, T.format("```\n25+3*7\n```"), "solved"),
    (*A, T.format("```python\n25 + 3*7\n```"), "solved"),
    (*A, T.format("`25+3*7`"), "solved"),
    (*A, T.format("**25+3*7**"), "solved"),
    (*A, "<answer>25+3*7</answer>", "solved"),
    (*A, "<answer>25+3*7</answer> Let me know if you need more!", "solved"),
    (*A, "<answer>25-3*7</answer>\nThat is 4.\n<answer>25+3*7</answer>", "solved"),
    (*A, "no tags at first, 12 = 12\n<answer>\n\n 7*3 + 25 \n\n</answer>\n\n", "solved"),
    (*A, T.format(r"25 + \left(3 \times 7\right)"), "solved"),
    (*B, T.format("30-(100-93)"), "solved"),
    (*B, T.format("30 - 100 + 93"), "solved"),
    (*B, T.format("93 + 30 − 100"), "solved"),  # the typographic minus
    (*B, T.format("93 – 100 + 30 = 23"), "solved"),  # an en dash
    (*C, T.format("10*2-4/4"), "solved"),
    (*C, T.format("10 * 2 - (4 / 4)"), "solved"),
    (*C, T.format("10 × 2 − 4 ÷ 4"), "solved"),
    (*C, T.format(r"10 \times 2 - \frac{4}{4}"), "solved"),
    (*C, T.format(r"10 \cdot 2 - 4 \div 4 = 19"), "solved"),
    (*D, T.format("8/(3-8/3)"), "solved"),  # through a fraction
    (*D, T.format(r"\dfrac{8}{3-\frac{8}{3}}"), "solved"),
    (*E, T.format("5*5+1"), "solved"),
    (*F, T.format("(9-4)*6*2/2"), "none"),  # 2 twice
    (*F, T.format("9*4-6/2"), "wrong"),
    (*F, T.format("(9-6)*(4*2)+6"), "none"),
    (*F, T.format("9*4-6*2"), "wrong"),
    (*F, T.format("(6+9)*4/2"), "solved"),
    (*F, T.format("(6 + 9) * (4 / 2)"), "solved"),
    (*F, T.format("(9+6)/2*4"), "solved"),  # 7.5 on the way
    # --- all numbers used, another value ---
    (*A, T.format("25+3+7"), "wrong"),
    (*A, T.format("(25+3)*7"), "wrong"),
    (*A, T.format("25*3-7=68"), "none"),  # an equation with another number than the target
    (*A, T.format("25*3-7"), "wrong"),
    (*A, T.format("25+3+7 = 46"), "wrong"),  # the sum is 35, whatever it says
    (*A, T.format(r"\boxed{25 \times 3 - 7}"), "wrong"),
    (*A, T.format("3 - 7 - 25"), "wrong"),
    (*B, T.format("100-93+30"), "wrong"),
    (*C, T.format("(10*2-4)/4"), "wrong"),
    (*E, T.format("5+5+1"), "wrong"),
    (*E, T.format("5*(5+1)"), "wrong"),
    (*A, "<answer>25+3*7</answer> or rather <answer>(25-3)*7</answer>", "wrong"),
    # --- other numbers ---
    (*A, T.format("46"), "none"),
    (*A, T.format("25+21"), "none"),
    (*A, T.format("25+7+7+7"), "none"),  # 7 reused, 3 unused
    (*A, T.format("25+3*7+0"), "none"),
    (*A, T.format("25+3*7*1"), "none"),
    (*A, T.format("3*7"), "none"),
    (*A, T.format("25 + 37"), "none"),
    (*A, T.format("2*23"), "none"),
    (*E, T.format("5*5+1-0"), "none"),
    (*E, T.format("5^2+1"), "none"),
    (*D, T.format("3*8"), "none"),
    # --- no expression of + - * / and parentheses ---
    (*A, "", "none"),
    (*A, T.format(""), "none"),
    (*A, T.format("No solution exists."), "none"),
    (*A, T.format("The answer is 25+3*7"), "none"),  # words around it
    (*A, T.format("25 plus 3 times 7"), "none"),
    (*A, T.format("25 + 3 x 7"), "none"),  # a letter is no operator
    (*A, T.format("25+3(7)"), "none"),  # an operator must be written
    (*A, T.format("25+(3)(7)"), "none"),
    (*A, T.format("25+3 7"), "none"),
    (*A, T.format("46 = 25+3*7"), "none"),  # the target stands behind, if at all
    (*A, T.format("3*7 = 21, 25 + 21 = 46"), "none"),
    (*A, T.format("3*7=21\n21+25=46"), "none"),
    (*A, T.format("25+3*7=25+21=46"), "none"),
    (*A, T.format("25+3*7 or 7*3+25"), "none"),
    (*A, T.format("25+3*7\n7*3+25"), "none"),
    (*A, T.format("25+3*7 = 46.0"), "none"),
    (*A, T.format(r"25 + 3*7 = \boxed{46}"), "none"),  # the box states 46
    (*A, T.format("25+(3*7"), "none"),
    (*A, T.format("-3+25+7"), "none"),  # a sign is no operation
    (*A, T.format("25+3*-7"), "none"),
    (*A, T.format("25+3**7"), "none"),
    (*A, T.format("25//7+3"), "none"),
    (*A, T.format("25%7+3"), "none"),
    (*A, T.format("25+3²*7"), "none"),
    (*A, T.format("２５+３*７"), "none"),
    (*A, T.format("25.0+3*7"), "none"),
    (*A, T.format("[25+3*7]"), "none"),
    (*A, T.format("25+3*7 (uses each number once)"), "none"),
    (*A, T.format("print(25+3*7)"), "none"),
    (*A, T.format("```\nresult = 25+3*7\n```"), "none"),
    (*A, "I find 25+3*7.", "none"),  # no tags: the whole text is the answer
    (*A, "<answer>25+3*7", "none"),
    (*A, "25+3*7</answer>", "none"),
    (*A, "<answer>25+3*7</answer><answer></answer>", "none"),
    (*B, T.format("(30-100)+93=23 (approximately)"), "none"),
    (*C, T.format("10*2-4/0*4"), "none"),
    (*E, T.format("5*5+1/(5-5)"), "none"),
    (*D, T.format("8 / 3 remainder 2"), "none"),
]
