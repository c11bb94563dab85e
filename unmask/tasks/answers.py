r"""The final answer that a worked solution states, and its value where it is a plain number.

Answers of planning tasks, an expression or a board, are taken out of what sets them off. Written
answers are searched from the end in linear time; only ASCII digits are digits, and what
leaves two readings is no number.
"""

from __future__ import annotations

import re
from fractions import Fraction

from unmask.tasks.arithmetic import ASCII_WHITESPACE
from unmask.tasks.base import ANSWER_CLOSE, ANSWER_OPEN, ANSWER_SEARCH_CHARACTERS, answer_text

MAX_ANSWER_CHARACTERS = 512
MAX_DIGITS = 40

_BOXES = ("\\boxed", "\\fbox")
_FENCE = re.compile(r"```[A-Za-z]{0,20}\s((?:(?!```).)*)```", re.DOTALL)
_PHRASES = ("final answer is", "answer is", "answer:", "answer =")
_MATH = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))
_SET_OFF = tuple("$\\*`")
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\u00a0|\u202f")
_WORDS = re.compile(r"\\(?:text|textrm|textbf|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]{0,80})\}")
_NUMERAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_SIMPLE = re.compile(rf"([+-]?)\s?({_NUMERAL})(?:\s?/\s?({_NUMERAL}))?")
_MIXED = re.compile(r"([+-]?)\s?([0-9]{1,20})\s([0-9]{1,20})\s?/\s?([0-9]{1,20})")
_LATEX_FRACTION = re.compile(
    r"([+-]?)\s?([0-9]{0,20})\s?\\[dtc]?frac\s?(?:\{\s?([+-]?[0-9]{1,20})\s?\}\s?"
    r"\{\s?([+-]?[0-9]{1,20})\s?\}|([0-9])\s?([0-9]))"
)
# Words that follow a number as its unit; digits, brackets, operators and signs are none.
_UNIT = re.compile(
    r"\s?(?:%|\\%|°|\^\s?\{?\\circ\}?|[A-Za-z²³.\-'\s]{0,60})(?:\s?\^\s?\{?[23]\}?)?"
)
_SIGN = re.compile(r"\s?(?:%|\\%|°|\^\s?\{?\\circ\}?|\.)?")
_LABEL = re.compile(r"[A-Za-z][A-Za-z_ ]{0,20}(?:\([a-z]\)\s?)?[=≈:]\s?")


def final_answer(text: str) -> str | None:
    r"""What a solution states as its answer, or None if it states none.

    Of the last `<answer>...</answer>`, or of the whole text without one: the content of the last
    `\boxed{}` (nested braces included), else what follows the last `####`, else what follows the
    last "the answer is", else the content of the tags. Only the last 65,536 characters are
    searched; answers of more than 512 characters are none.
    """
    tail = text[-ANSWER_SEARCH_CHARACTERS:]
    inner = answer_text(tail)
    tagged = ANSWER_CLOSE in tail and ANSWER_OPEN in tail and inner is not tail
    found = _boxed(inner)
    if found is None:
        found = _after_hashes(inner)
    if found is None:
        found = _after_phrase(inner)
    if found is None and tagged:
        found = inner
    if found is None:
        return None
    found = found.strip()
    return found if 0 < len(found) <= MAX_ANSWER_CHARACTERS else None


def bare_answer(text: str) -> str:
    r"""The answer to a planning task, without what only sets it off; empty if it is too long.

    Of the last `<answer>...</answer>`, or of the whole text without one: the content of the last
    `\boxed{}`, else all of it. A code fence, backticks, asterisks or dollars around it are taken
    off, words are not. Only the last 65,536 characters are searched.
    """
    answer = answer_text(text[-ANSWER_SEARCH_CHARACTERS:])
    if any(box in answer for box in _BOXES):
        boxed = _boxed(answer)
        answer = answer if boxed is None else boxed
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return ""
    answer = answer.strip(ASCII_WHITESPACE)
    while answer[:1] in _SET_OFF:
        fenced = _FENCE.fullmatch(answer)
        inner = fenced[1].strip(ASCII_WHITESPACE) if fenced else _strip_math(answer)
        if inner == answer:
            break
        answer = inner
    return answer


def plain_number(text: str, *, units: bool = True) -> Fraction | None:
    r"""Value of an integer, decimal, fraction or mixed number with an optional sign and unit.

    Thousands separators (also `{,}` and `\,`), a currency sign, `\text{...}`, a leading "x =" and a
    closing period are taken off. None for everything else, two numbers included.

    Args:
        text: an answer.
        units: whether letters behind a number are its unit; else they may be a variable.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    text = _SPACING.sub(" ", text).replace("{,}", ",").replace("\u2212", "-").strip()
    text = text.replace("\\left", "").replace("\\right", "").strip()
    text = _strip_math(text)
    label = _LABEL.match(text)
    text = text[label.end() :] if label else text
    text = _WORDS.sub(r" \1 ", text)
    text = _SPACES.sub(" ", text.replace("\\$", "").replace("$", "").replace("€", "")).strip()
    text = _SPACED_THOUSANDS.sub("", text)
    for pattern, read in ((_MIXED, _mixed), (_LATEX_FRACTION, _latex_fraction), (_SIMPLE, _simple)):
        found = pattern.match(text)
        if found and (_UNIT if units else _SIGN).fullmatch(text, found.end()):
            return read(found)
    return None


_SPACES = re.compile(r"[ \t\n\r]+")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
# 12 345 678, as LaTeX spacing leaves it.
_SPACED_THOUSANDS = re.compile(r"(?<=[0-9]) (?=[0-9]{3}(?:\b|$)(?!\s?/))")


def same_spelling(one: str, other: str) -> bool:
    r"""Whether two answers are the same LaTeX but for spacing, `\left`, `\right` and `\dfrac`."""
    return _spelling(one) == _spelling(other)


def comparable(text: str, *, units: bool = True) -> str:
    """An answer in the form that votes are counted in: its value, else it without spacing."""
    value = plain_number(text, units=units)
    if value is not None:
        return str(value)
    bare = _SPACING.sub("", text).replace("\\left", "").replace("\\right", "")
    for short in ("\\dfrac", "\\tfrac"):
        bare = bare.replace(short, "\\frac")
    return _SPACES.sub("", bare).strip("$.").casefold()


def _spelling(text: str) -> str:
    text = _SPACING.sub(" ", text).strip().strip("$.")
    for command in ("\\left", "\\right"):
        text = text.replace(command, "")
    for style in ("\\dfrac", "\\tfrac"):
        text = text.replace(style, "\\frac")
    # Between letters and digits a space may mean something: "1 2" is not 12.
    return _LOOSE_SPACE.sub("", _SPACES.sub(" ", text)).strip()


def _boxed(text: str) -> str | None:
    r"""Content of the last box whose braces close; "\boxed 5" has one token."""
    end = len(text)
    for _ in range(16):
        start, mark = max((text.rfind(box, 0, end), box) for box in _BOXES)
        if start < 0:
            return None
        content = start + len(mark)
        while content < len(text) and text[content] == " ":
            content += 1
        if content < len(text) and text[content] == "{":
            closed = _closing(text, content)
            if closed is not None:
                inner = text[content + 1 : closed]
                # A box in a box: the inner one is what is stated.
                return _boxed(inner) if any(box in inner for box in _BOXES) else inner
        elif content > start + len(mark):
            return text[content:].split(maxsplit=1)[0].rstrip(".$,") if text[content:] else None
        end = start
    return None


def _closing(text: str, start: int) -> int | None:
    """Index of the brace that closes the one at start, within the longest answer."""
    depth = 0
    for index in range(start, min(len(text), start + MAX_ANSWER_CHARACTERS + 64)):
        character = text[index]
        if character == "{" and text[index - 1] != "\\":
            depth += 1
        elif character == "}" and text[index - 1] != "\\":
            depth -= 1
            if depth == 0:
                return index
    return None


def _after_hashes(text: str) -> str | None:
    start = text.rfind("####")
    if start < 0:
        return None
    return text[start + 4 :].strip().split("\n", 1)[0]


def _after_phrase(text: str) -> str | None:
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter whose lower case is longer would shift the index
        return None
    start, phrase = max((lowered.rfind(phrase), phrase) for phrase in _PHRASES)
    if start < 0:
        return None
    rest = text[start + len(phrase) :].lstrip(" :*\n")
    line = rest.split("\n", 1)[0]
    # To the end of the sentence: a period within a number ends none.
    sentence = re.match(r"(?:[^.]|\.(?=[0-9]))*", line)
    found = (sentence[0] if sentence else line).strip(" *")
    return found or None


def _strip_math(text: str) -> str:
    for left, right in _MATH:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            return text[len(left) : -len(right)].strip()
    return text


def _mixed(found: re.Match[str]) -> Fraction | None:
    sign, whole, top, bottom = found.groups()
    if int(bottom) == 0:
        return None
    return _signed(sign, int(whole) + Fraction(int(top), int(bottom)))


def _latex_fraction(found: re.Match[str]) -> Fraction | None:
    sign, whole, top, bottom, short_top, short_bottom = found.groups()
    top, bottom = top or short_top, bottom or short_bottom
    if int(bottom) == 0:
        return None
    return _signed(sign, int(whole or 0) + Fraction(int(top), int(bottom)))


def _simple(found: re.Match[str]) -> Fraction | None:
    sign, top, bottom = found.groups()
    values = []
    for numeral in (top, bottom or "1"):
        if sum(map(str.isdigit, numeral)) > MAX_DIGITS:
            return None
        values.append(Fraction(numeral.replace(",", "")))
    return None if values[1] == 0 else _signed(sign, values[0] / values[1])


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
