"""A process of its own that compares two answers with math-verify: one JSON line in, one out.

It is run as a script and imports nothing of unmask; the parent bounds its time, it its memory.
"""

from __future__ import annotations

import functools
import json
import logging
import resource
import sys
from typing import Any

MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    logging.disable(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX alone: the library's other reader hands text to a parser that evaluates it.
    settings = [LatexExtractionConfig()]

    def read(text: str, fallback: str = "first_match") -> Any:
        # The limits on time are the parent's, which can also end what holds the interpreter.
        boxed = f"$\\boxed{{{text}}}$"
        return parse(boxed, settings, parsing_timeout=None, fallback_mode=fallback)

    gold = functools.lru_cache(maxsize=4096)(read)
    # The first pair builds the parser's tables, which is to cost no pair its time.
    verify(gold("\\frac{1}{2}"), read("\\sqrt{2}"), timeout_seconds=None)
    out = sys.stdout
    sys.stdout = sys.stderr
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        expected, given = json.loads(line)
        try:
            if given is None:
                result: bool | None = bool(read(expected, "no_fallback"))
            else:
                target = gold(expected)
                result = bool(target) and verify(target, read(given), timeout_seconds=None)
        except Exception:
            result = None
        out.write(json.dumps(result) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
