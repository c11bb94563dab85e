"""Value of an arithmetic expression that a model wrote, without evaluating it as code.

The grammar is + - * / and parentheses over plain ASCII integers; everything that could cost
time (length, digits, nesting, size of intermediate values) is bounded before it is computed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

ASCII_WHITESPACE = " \t\n\r\f\v"
MAX_CHARACTERS = 256
MAX_DEPTH = 16
MAX_MAGNITUDE = 10**18

_ALLOWED = re.compile(r"[0-9+\-*/() \t\n\r\f\v]+")
_TOKEN = re.compile(r"[0-9]+|[+\-*/()]")
# As typeset: each sign and command has one meaning among integers.
_SIGNS = str.maketrans("×·⋅∗÷∕−–", "****//--")
_COMMANDS = {"times": "*", "cdot": "*", "ast": "*", "div": "/", "left": "", "right": ""}
_COMMAND = re.compile(r"\\(?:(times|cdot|ast|div|left|right)(?![a-zA-Z])|[,;:! ])")
_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")


class _Malformed(Exception):
    """The text is not an expression of the grammar, or has no value within the bounds."""


def evaluate_expression(text: str, numbers: Sequence[int]) -> Fraction | None:
    """Exact value of text if it is an expression that uses each of numbers exactly once.

    There is no unary sign, so "-3+5" and "2--3" are malformed, as are "**", "//", "1_000",
    "007", decimal points and digits outside ASCII.

    Args:
        text: At most 256 characters.
        numbers: Operands that must be used, with repetitions, in any order.

    Returns:
        The value, or None for malformed text, other operands, a division by zero, nesting
        beyond 16 or an intermediate value beyond 10**18.
    """
    if len(text) > MAX_CHARACTERS or _ALLOWED.fullmatch(text) is None:
        return None
    tokens = _TOKEN.findall(text)
    # Operands are compared as spelled, so that "007" is not 7 and no literal is ever too long.
    operands = [token for token in tokens if token.isdigit()]
    if sorted(operands) != sorted(map(str, numbers)):
        return None
    try:
        return _Parser(tokens).value()
    except _Malformed:
        return None


def plain_notation(text: str) -> str:
    r"""An expression with × ÷ − and their like, `\times`, `\cdot`, `\div` and `\frac` as + - * /.

    Args:
        text: of bounded length; what is no such sign stays as it is.
    """
    text = text.translate(_SIGNS)
    if "\\" not in text:
        return text
    for _ in range(MAX_DEPTH):
        text, found = _FRACTION.subn(r"((\1)/(\2))", text)
        if not found:
            break
    return _COMMAND.sub(lambda command: _COMMANDS.get(command[1], " "), text)


class _Parser:
    """Recursive descent over sum -> product -> atom, computing the value on the way."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def value(self) -> Fraction:
        value = self._sum()
        if self._next != len(self._tokens):
            raise _Malformed
        return value

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _sum(self) -> Fraction:
        value = self._product()
        while self._peek() in ("+", "-"):
            operator, right = self._take(), self._product()
            value = _bounded(value + right if operator == "+" else value - right)
        return value

    def _product(self) -> Fraction:
        value = self._atom()
        while self._peek() in ("*", "/"):
            operator, right = self._take(), self._atom()
            if operator == "/" and right == 0:
                raise _Malformed
            value = _bounded(value * right if operator == "*" else value / right)
        return value

    def _atom(self) -> Fraction:
        token = self._take()
        if token.isdigit():
            return Fraction(int(token))
        self._depth += 1
        if token != "(" or self._depth > MAX_DEPTH:
            raise _Malformed
        value = self._sum()
        if self._take() != ")":
            raise _Malformed
        self._depth -= 1
        return value


def _bounded(value: Fraction) -> Fraction:
    if abs(value.numerator) > MAX_MAGNITUDE or value.denominator > MAX_MAGNITUDE:
        raise _Malformed
    return value
