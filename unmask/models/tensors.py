"""Which rows of which stored tensor make which tensor of the network, readable in both directions.

A network's tensor is one stored tensor under another name, some rows of one (LLaDA2 stores query,
key and value together), or many (a file holds each expert by itself, the network stacks them).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from unmask.models.families.spec import FamilySpec

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """`target[at]` is `source[rows]`.

    Attributes:
        source: name of the stored tensor.
        at: index into the network's tensor; () = all of it.
        rows: of the stored tensor; None = all.
    """

    source: str
    at: Index = ()
    rows: slice | None = None


def plan_tensors(
    shapes: Mapping[str, torch.Size], spec: FamilySpec | None, stored: Collection[str] = ()
) -> dict[str, list[Piece]]:
    """The pieces of every tensor of a network.

    Args:
        shapes: of the network's parameters and saved buffers.
        spec: the family whose original format is meant; None = transformers' own.
        stored: names in the files, where experts may be stacked already.
    """
    names = () if spec is None else spec.names
    fused = () if spec is None else spec.fused
    plan = {}
    for name, shape in shapes.items():
        # More experts than files can hold are not counted out one by one.
        whole = name in stored or (stored and shape[0] > len(stored))
        pieces = None if whole else _experts(name, shape)
        pieces = pieces or _fused(name, shapes, fused) or [Piece(name)]
        plan[name] = [
            Piece(_original(piece.source, names), piece.at, piece.rows) for piece in pieces
        ]
    return plan


def _experts(name: str, shape: torch.Size) -> list[Piece] | None:
    """Gate rows come first in the stacked tensor [experts, 2 * inter, hidden]."""
    stem, _, leaf = name.rpartition(".")
    if not stem.endswith(".experts"):
        return None
    if leaf == "down_proj":
        return [Piece(f"{stem}.{i}.down_proj.weight", (i,)) for i in range(shape[0])]
    if leaf != "gate_up_proj":
        return None
    half = shape[1] // 2
    return [
        Piece(f"{stem}.{i}.{part}_proj.weight", (i, rows))
        for i in range(shape[0])
        for part, rows in (("gate", slice(0, half)), ("up", slice(half, None)))
    ]


def _fused(
    name: str, shapes: Mapping[str, torch.Size], fused: tuple[tuple[str, tuple[str, ...]], ...]
) -> list[Piece] | None:
    stem, _, leaf = name.rpartition(".")
    for original, natives in fused:
        for number, native in enumerate(natives):
            if not stem.endswith(f".{native}"):
                continue
            prefix = stem.removesuffix(native)
            before = sum(shapes[f"{prefix}{other}.{leaf}"][0] for other in natives[:number])
            rows = slice(before, before + shapes[name][0])
            return [Piece(f"{prefix}{original}.{leaf}", (), rows)]
    return None


def _original(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for original, native in names:
        pattern = re.escape(native).replace(r"\*", r"(\d+)")
        found = re.fullmatch(rf"{pattern}(\..+|)", name)
        if found:
            *layer, rest = found.groups()
            return (original.replace("*", layer[0]) if layer else original) + rest
    return name
