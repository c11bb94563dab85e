"""From a completion to a program: the fenced block, and the beginning that the problem gave.

Nothing here parses the model's text as Python: lines are looked at, in linear time.
"""

from __future__ import annotations

import re
import textwrap

from unmask.tasks.base import answer_text

MOST_CHARACTERS = 200_000
FENCES = ("```", "~~~")
PYTHON = frozenset({"", "python", "python3", "py", "python 3"})
_CONTINUES = ("def ", "class ", "import ", "from ", "@", "#", "async ", ")", "]", "}", "'", '"')


def extract_code(text: str, entry: str = "") -> str:
    """The program in a completion.

    Of several fenced blocks the last that defines `entry`, else the last of Python, else the last;
    a block that is never closed goes to the end; without a fence all of the text is the program. A
    `<answer>` is looked into first.

    Args:
        text: of the completion; more than 200,000 characters are no program.
        entry: the function asked for, or nothing.
    """
    if len(text) > MOST_CHARACTERS:
        return ""
    blocks = _blocks(answer_text(text)) or _blocks(text)
    if not blocks:
        return answer_text(text).strip("\n")
    python = [block for language, block in blocks if language in PYTHON]
    defining = [block for _, block in blocks if entry and defines(block, entry)]
    return (defining or python or [block for _, block in blocks])[-1]


def defines(code: str, name: str) -> bool:
    """Whether a line of code begins to define a top-level name."""
    start = rf"(?:(?:async[ \t]+)?def|class)[ \t]+{re.escape(name)}\b|{re.escape(name)}[ \t]*[=:]"
    return re.search(rf"^(?:{start})", code, flags=re.MULTILINE) is not None


def complete_program(code: str, stub: str, entry: str) -> str:
    """A whole program from what a model wrote after a stub, or instead of it.

    Code that defines the entry itself gets what stands before it in the stub (imports, helpers);
    other code continues the stub and is indented if it is not, up to the first line that no longer
    belongs to a program.

    Args:
        code: as `extract_code` gives it.
        stub: the problem's beginning, ending in the entry's docstring; empty = code is whole.
        entry: the function asked for.
    """
    if not stub:
        return code
    if defines(code, entry):
        place = re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry)}\b", stub, re.MULTILINE)
        return (stub[: place.start()] if place else "") + code
    lines = code.split("\n")
    first = next((line for line in lines if line.strip()), "")
    if not first[:1].isspace():
        lines = [f"    {line}" if line.strip() else line for line in lines]
    kept = []
    for line in lines:
        if line[:1].strip() and not line.startswith(_CONTINUES):
            break
        kept.append(line)
    return stub + "\n".join(kept) + "\n"


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    found: list[tuple[str, str]] = []
    content: list[str] = []
    fence = language = ""
    # Python's own splitlines also cuts at characters that may stand in a string.
    for line in text.replace("\r\n", "\n").split("\n"):
        stripped = line.strip()
        if not fence:
            opened = next((mark for mark in FENCES if stripped.startswith(mark)), "")
            if opened and opened not in stripped[3:]:
                fence, language, content = opened, stripped.strip("`~").strip().lower(), []
        elif len(stripped) >= 3 and not stripped.strip(fence[0]):
            found.append((language, _joined(content)))
            fence = ""
        else:
            content.append(line)
    if fence:
        found.append((language, _joined(content)))
    return found


def _joined(lines: list[str]) -> str:
    """Lines of a block, without an indentation that all of them have where one begins a program."""
    text = "\n".join(lines)
    first = next((line.lstrip() for line in lines if line.strip()), "")
    return textwrap.dedent(text) if first.startswith(_CONTINUES) else text
