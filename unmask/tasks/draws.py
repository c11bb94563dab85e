"""Which split an example belongs to, and how examples of one split are drawn.

An example's own content decides its split, so no seed, size or option can leak a held-out
example into training. Random numbers come only from streams whose values Python and NumPy
promise never to change, so that data is the same on every machine and version.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import TypeVar

from unmask.tasks.base import SPLITS, Split, check_choice, check_integer

Example = TypeVar("Example")

HELDOUT_ONE_IN = 8
# New examples only get rarer, so a window's yield bounds what later windows can bring: a size
# that 100 more windows like the last could not reach is taken to be impossible.
WINDOW_DRAWS, MOST_WINDOWS = 65_536, 100
MOST_EXAMPLES = 1_000_000


def split_of(key: str) -> Split:
    """Split of the example with this canonical content: 1 in 8 is held out, by its hash."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "big") % HELDOUT_ONE_IN == 0 else "train"


def stream_seed(purpose: str, seed: int) -> int:
    """64-bit seed of one purpose's random stream; streams of different purposes are unrelated."""
    digest = hashlib.blake2b(f"{purpose}:{seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Draws:
    """Random integers and events of one stream.

    Built on `Random.random()`, the only generator method whose values Python keeps for good.
    """

    def __init__(self, seed: int) -> None:
        """Start the stream of this seed."""
        self._uniform = random.Random(seed).random

    def below(self, count: int) -> int:
        """Integer uniformly from 0 .. count - 1."""
        return int(self._uniform() * count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._uniform() < probability


def check_draw(split: str, size: int, seed: int) -> None:
    """Raise ValueError unless split is known, 1 <= size <= 1,000,000 and seed >= 0."""
    check_choice("split", split, SPLITS)
    check_integer("size", size, 1, MOST_EXAMPLES)
    check_integer("seed", seed, 0)


def take_examples(
    candidates: Iterable[tuple[str, Example] | None],
    *,
    split: str,
    size: int,
    source: str,
    distinct: bool = True,
) -> list[Example]:
    """First `size` examples of one split, in the order drawn.

    Args:
        candidates: Endless draws of (canonical content, example), None for a rejected draw.
        split: str to keep, as `split_of` decides it from the canonical content.
        size: Number of examples to return.
        source: Options that the examples come from, for the error.
        distinct: Leave out draws whose canonical content came before.

    Raises:
        ValueError: if new examples become too rare to reach `size`.
    """
    found: list[Example] = []
    seen: set[str] = set()
    found_before = 0
    for draw, candidate in enumerate(candidates, start=1):
        if candidate is not None:
            key, example = candidate
            if key not in seen and split_of(key) == split:
                found.append(example)
                if distinct:
                    seen.add(key)
                if len(found) == size:
                    break
        if draw % WINDOW_DRAWS == 0:
            if size - len(found) > MOST_WINDOWS * (len(found) - found_before):
                raise ValueError(
                    f"size={size}: {draw} draws from {source} gave only {len(found)} "
                    f"{'distinct ' * distinct}{split} examples; ask for fewer or widen its options"
                )
            found_before = len(found)
    return found
