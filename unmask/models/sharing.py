"""Likelihoods of many block-causal views in one pass, in which what they have in common runs once.

A block of tokens attends to itself and to the clean blocks before it (block diffusion, arXiv
2503.09573), so its states depend on nothing else. Views of one completion therefore have the
states of its clean blocks in common, completions of one prompt those of its beginning. All distinct
blocks that some scored token depends on are laid out behind each other in one row, and attention
runs in strips: a few blocks together with the blocks that they see.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unmask.models.attention import IN_STRIPS, as_understood

# Queries per strip. Longer ones gather keys less often, and waste more on what they may not see.
STRIP_LENGTH = 128


@dataclass(frozen=True)
class Strips:
    """R strips that attend at once: Q blocks, each to some of K blocks.

    Attributes:
        queries: int64 [R, Q], numbers of blocks; a strip with fewer repeats its first.
        keys: int64 [R, K].
        allowed: bool [R, 1, Q * block length, K * block length], None = every token to every.
    """

    queries: Tensor
    keys: Tensor
    allowed: Any


@dataclass(frozen=True)
class Layout:
    """The blocks of one pass, and who attends to whom.

    Attributes:
        ids: int64 [1, T], block behind block, each filled up to the block length.
        positions: int64 [1, T], in the sequence that a block belongs to.
        strips: cover every block.
        order: int64 [blocks], the place of each block among those of all strips.
        wanted: int64 [K], the tokens whose states predict the scored ones, in their order.
    """

    ids: Tensor
    positions: Tensor
    strips: list[Strips]
    order: Tensor
    wanted: Tensor

    def as_understood(self, implementation: str, dtype: torch.dtype) -> Layout:
        """With masks in the form that an attention implementation takes."""
        strips = [
            part
            if part.allowed is None
            else replace(part, allowed=as_understood(part.allowed, implementation, dtype))
            for part in self.strips
        ]
        return replace(self, strips=strips)


def lay_out(
    ids: Tensor,
    clean: Tensor,
    positions: Tensor,
    scored: Tensor,
    block_length: int,
    strip_length: int = STRIP_LENGTH,
) -> Layout:
    """The distinct blocks that the scored tokens of N views depend on.

    Those are the blocks with a scored token as they are hidden, and the clean blocks before them.
    At least one block is laid out, also where nothing is scored.

    Args:
        ids: int [N, T], the views.
        clean: int [N, T], the same without hidden tokens.
        positions: int64 [N, T], -1 = padding; see `unmask.models.attention.positions_of`.
        scored: bool [N, T].
        block_length: tokens per block.
        strip_length: about how many queries attend together.
    """
    device = ids.device
    views = _Views.of(ids, clean, positions, scored, block_length)
    tree = _Tree.of(views)
    per_strip = max(1, strip_length // block_length)
    blocks = np.concatenate([np.nonzero(tree.needed)[1], np.nonzero(views.wanted)[1]])
    lengths = np.concatenate(
        [tree.lengths[np.nonzero(tree.needed)[0]], views.lengths[np.nonzero(views.wanted)[0]]]
    )
    places = blocks[:, None] * block_length + np.arange(block_length)
    real = places < lengths[:, None]
    buckets: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for queries, keys in _cut_into_strips(views, tree, per_strip):
        # Strips of about one size share a call.
        size = math.ceil(math.log2(len(queries))), math.ceil(2 * math.log2(len(keys)))
        buckets[size].append((queries, keys))
    order = np.zeros(len(blocks), dtype=np.int64)
    strips, done = [], 0
    for bucket in buckets.values():
        queries, keys = (_pad(list(part)) for part in zip(*bucket, strict=True))
        done += queries.size
        # Backwards, so that of a repeated block the first place stays.
        flat = queries.ravel()[::-1]
        order[flat] = np.arange(done - 1, done - 1 - len(flat), -1)
        num_keys = np.array([len(part) for _, part in bucket])
        strips.append(_strips(queries, keys, num_keys, blocks, real, tree.size, device))
    rows, columns = scored.cpu().numpy().nonzero()
    at = positions.cpu().numpy()[rows, columns]
    wanted = views.number[rows, at // block_length] + tree.size
    wanted = wanted * block_length + at % block_length

    def there(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    tokens = np.concatenate([tree.blocks[tree.needed], views.blocks[views.wanted]])
    return Layout(
        there(tokens.reshape(1, -1)),
        there(np.where(real, places, 0).reshape(1, -1)),
        strips,
        there(order),
        there(wanted),
    )


def attend_in_strips(network: Any) -> None:
    """Let the attention of a network read `strips`, whatever implementation it runs on.

    Args:
        network: a decoder of transformers.
    """
    name = network.config._attn_implementation
    if name.startswith(IN_STRIPS):
        return
    if IN_STRIPS + name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(IN_STRIPS + name, _Attention(name))
        AttentionMaskInterface.register(IN_STRIPS + name, ALL_MASK_ATTENTION_FUNCTIONS[name])
    network.config._attn_implementation = IN_STRIPS + name


class _Attention:
    """One of transformers' attention functions, strip by strip where `strips` are given."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        strips: Layout | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """As transformers calls it: [1, heads, T, size] each, to [1, T, heads, size]."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self._name, _eager_of(module))
        if strips is None:
            return attend(module, query, key, value, attention_mask, **kwargs)
        kwargs["is_causal"] = False
        parts, num_blocks = strips.strips, len(strips.order)
        mine = _gather(query, [part.queries for part in parts], num_blocks)
        keys, values = (
            _gather(states, [part.keys for part in parts], num_blocks) for states in (key, value)
        )
        found = []
        for part, *states in zip(parts, mine, keys, values, strict=True):
            output, _ = attend(module, *states, part.allowed, **kwargs)
            found.append(output.reshape(part.queries.numel(), -1))
        output = embedding(strips.order, torch.cat(found))
        return output.view(1, query.shape[2], query.shape[1], -1), None


def _gather(states: Tensor, blocks: list[Tensor], num_blocks: int) -> list[Tensor]:
    """States [R, heads, K * block length, size] of blocks [R, K] each, of [1, heads, T, size].

    All at once: the gradient of every gathering is as large as `states`.
    """
    _, heads, _, size = states.shape
    # An embedding adds gradients up faster than an index does.
    rows = states.transpose(1, 2).reshape(num_blocks, -1)
    found = embedding(torch.cat([part.flatten() for part in blocks]), rows)
    pieces = found.split([part.numel() for part in blocks])
    return [
        piece.reshape(len(part), -1, heads, size).transpose(1, 2)
        for piece, part in zip(pieces, blocks, strict=True)
    ]


def _eager_of(module: nn.Module) -> Any:
    """The eager attention of the file that a module's class is written in."""
    for kind in type(module).__mro__:
        found = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    raise ValueError(f"{type(module).__name__} has no eager attention: set model.attention=sdpa")


@dataclass
class _Views:
    """N views by position, cut into W blocks.

    Attributes:
        blocks: int64 [N, W, block length], the views.
        clean: int64 [N, W * block length], -1 behind the end.
        lengths: int64 [N].
        wanted: bool [N, W], blocks with a scored token.
        number: int64 [N, W], counts the wanted blocks.
    """

    blocks: np.ndarray
    clean: np.ndarray
    lengths: np.ndarray
    wanted: np.ndarray
    number: np.ndarray

    @staticmethod
    def of(
        ids: Tensor, clean: Tensor, positions: Tensor, scored: Tensor, block_length: int
    ) -> _Views:
        at = positions.cpu().numpy()
        real = at >= 0
        rows = real.nonzero()[0]
        shape = len(at), -(-at.shape[1] // block_length), block_length

        def by_position(values: Tensor, fill: int) -> np.ndarray:
            found = np.full((shape[0], shape[1] * block_length), fill, dtype=np.int64)
            found[rows, at[real]] = values.cpu().numpy()[real]
            return found

        wanted: np.ndarray = by_position(scored, 0).reshape(shape).max(-1) > 0
        if not wanted.any():
            wanted[0, 0] = True
        number = np.cumsum(wanted).reshape(wanted.shape) - 1
        noisy = by_position(ids, 0).reshape(shape)
        return _Views(noisy, by_position(clean, -1), real.sum(1), wanted, number)


@dataclass
class _Tree:
    """The clean blocks of U different sequences, each of them once.

    Attributes:
        sequence: int64 [N], of each view.
        blocks: int64 [U, W, block length].
        lengths: int64 [U].
        needed: bool [U, W], the blocks that are laid out, at the first sequence that has them.
        chain: int64 [U, W], the number of every block of a sequence, -1 = not needed.
        size: how many there are.
    """

    sequence: np.ndarray
    blocks: np.ndarray
    lengths: np.ndarray
    needed: np.ndarray
    chain: np.ndarray
    size: int

    @staticmethod
    def of(views: _Views) -> _Tree:
        texts = [row.tobytes() for row in views.clean]
        # In this order, a sequence has more in common with the one before it than with any other
        # before that.
        place = {text: number for number, text in enumerate(sorted(set(texts)))}
        sequence = np.array([place[text] for text in texts])
        rows = np.unique(sequence, return_index=True)[1]
        blocks = views.clean[rows].reshape(len(rows), *views.blocks.shape[1:])
        count = np.arange(blocks.shape[1])
        common = (blocks[1:] == blocks[:-1]).all(-1).cumprod(1).sum(1)
        begins = np.concatenate([[0], common])[:, None]
        numbers = np.arange(len(rows))[:, None]
        owner = np.maximum.accumulate(np.where(count >= begins, numbers, 0), axis=0)
        # Everything before the last wanted block of any view.
        last = np.where(views.wanted, count, 0).max(1)
        depth = np.zeros(len(rows), dtype=np.int64)
        np.maximum.at(depth, sequence, last)
        seen, columns = (count < depth[:, None]).nonzero()
        needed = np.zeros(owner.shape, dtype=bool)
        needed[owner[seen, columns], columns] = True
        number = np.where(needed, np.cumsum(needed).reshape(needed.shape) - 1, -1)
        return _Tree(
            sequence,
            blocks.clip(min=0),
            views.lengths[rows],
            needed,
            number[owner, count],
            int(needed.sum()),
        )


def _cut_into_strips(
    views: _Views, tree: _Tree, per_strip: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Blocks that attend together and the blocks that they see, in pairs."""
    found = []
    for sequence, chain in enumerate(tree.chain):
        own = tree.needed[sequence].nonzero()[0]
        for start in range(0, len(own), per_strip):
            piece = own[start : start + per_strip]
            found.append((chain[piece], chain[: piece[-1] + 1]))
        # The noisy blocks of all its views, those of one place together: they see the same.
        rows = (tree.sequence == sequence).nonzero()[0]
        places, which = views.wanted[rows].T.nonzero()
        numbers = views.number[rows[which], places] + tree.size
        for start in range(0, len(places), per_strip):
            piece = slice(start, start + per_strip)
            keys = np.concatenate([chain[: places[piece][-1]], numbers[piece]])
            found.append((numbers[piece], keys))
    return found


def _pad(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of one width, filled with their first entry: int64 [R, K]."""
    found = np.empty((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
        row[len(values) :] = values[0]
    return found


def _strips(
    queries: np.ndarray,
    keys: np.ndarray,
    num_keys: np.ndarray,
    blocks: np.ndarray,
    real: np.ndarray,
    num_clean: int,
    device: torch.device,
) -> Strips:
    """A block attends to itself and to the clean blocks before it."""
    query, key = queries[:, :, None], keys[:, None, :]
    may = (key == query) | ((key < num_clean) & (blocks[key] < blocks[query]))
    may &= np.arange(keys.shape[1]) < num_keys[:, None, None]
    size = real.shape[1]
    allowed = None
    if not (may.all() and real[keys].all()):
        allowed = torch.from_numpy(may).to(device)
        allowed = allowed.repeat_interleave(size, 1).repeat_interleave(size, 2)
        allowed &= torch.from_numpy(real[keys].reshape(len(keys), 1, -1)).to(device)
        allowed = allowed.unsqueeze(1)
    return Strips(torch.from_numpy(queries).to(device), torch.from_numpy(keys).to(device), allowed)
