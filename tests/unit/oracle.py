"""The textbook sampling loop of LLaDA (arXiv 2502.09992), and exact enumeration of its outcomes.

Slow on purpose: logits of every position at every step, one row at a time, no early stop. And the
exact probability of every completion under a table of conditionals, from the definition.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

NEVER = float("-inf")


def full_logits(
    network: torch.nn.Module, ids: Tensor, attention: Tensor | None, shift: bool
) -> Tensor:
    """Logits [B, T, V]; a shifted network predicts token i at position i-1."""
    logits = network(input_ids=ids, attention_mask=attention, use_cache=False).logits.float()
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if shift else logits


@torch.no_grad()
def greedy(
    network: torch.nn.Module,
    prompt: Tensor,
    prompt_mask: Tensor | None,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    mask_id: int,
    forbidden: Sequence[int] = (),
    cfg_scale: float = 0.0,
    shift: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Low-confidence remasking at temperature 0.

    Returns:
        Completions int64 [B, L], the step at which each token was revealed, and its probability.
    """
    batch, width = prompt.shape
    x = torch.cat([prompt, torch.full((batch, gen_length), mask_id)], dim=1)
    attention = None
    if prompt_mask is not None:
        attention = torch.cat([prompt_mask, torch.ones(batch, gen_length, dtype=torch.int64)], 1)
    revealed_at = torch.full((batch, width + gen_length), -1)
    probability = torch.zeros(batch, width + gen_length)
    num_blocks = gen_length // block_length
    per_block = steps // num_blocks
    for block in range(num_blocks):
        start, end = width + block * block_length, width + (block + 1) * block_length
        schedule = [block_length // per_block] * per_block
        for extra in range(block_length % per_block):
            schedule[extra] += 1
        for step, count in enumerate(schedule):
            logits = full_logits(network, x, attention, shift)
            if cfg_scale > 0:
                without = x.clone()
                without[:, :width] = mask_id
                blind = full_logits(network, without, attention, shift)
                logits = blind + (cfg_scale + 1) * (logits - blind)
            logits[:, :, [mask_id, *forbidden]] = NEVER
            probs = logits.softmax(-1)
            best = probs.argmax(-1)
            for row in range(batch):
                candidates = [i for i in range(start, end) if x[row, i] == mask_id]
                candidates.sort(key=lambda i: -probs[row, i, best[row, i]].item())
                for i in candidates[:count]:
                    x[row, i] = best[row, i]
                    revealed_at[row, i] = block * per_block + step
                    probability[row, i] = probs[row, i, best[row, i]]
    return x[:, width:], revealed_at[:, width:], probability[:, width:]


class TableProposer:
    """Conditionals from a table: the logits of a position depend on the whole canvas.

    Tokens are 0..num_tokens-1; the mask token comes last and is never proposed.
    """

    def __init__(self, num_tokens: int, length: int, seed: int) -> None:
        self.mask_token_id = num_tokens
        self.length = length
        generator = torch.Generator().manual_seed(seed)
        shape = ((num_tokens + 1) ** length, length, num_tokens + 1)
        self.table = 1.5 * torch.randn(shape, generator=generator)
        self.table[:, :, num_tokens] = NEVER
        self._place = (num_tokens + 1) ** torch.arange(length)
        self.calls: list[int] = []

    chunk_size = 5000

    def states(
        self, ids: Tensor, attention_mask: Tensor | None, rows: Tensor, columns: Tensor
    ) -> Tensor:
        canvas = ids[:, -self.length :]
        self.calls.append(len(ids))
        logits = self.table[(canvas * self._place).sum(-1)]
        return logits[rows, columns - (ids.shape[1] - self.length)]

    def logits(self, states: Tensor) -> Tensor:
        return states

    def logits_of(self, canvas: Sequence[int]) -> Tensor:
        """Logits [L, V] for one canvas."""
        return self.table[int((torch.tensor(canvas) * self._place).sum())]


def constant_proposer(probs: Sequence[Sequence[float]]) -> TableProposer:
    """Every canvas gets the same conditionals [L, num_tokens]."""
    proposer = TableProposer(len(probs[0]), len(probs), seed=0)
    proposer.table[:] = torch.tensor([[*row, 0.0] for row in probs]).log()
    return proposer


def completion_probabilities(
    proposer: TableProposer,
    schedule: Sequence[int],
    temper: Callable[[Tensor], Tensor],
    *,
    order: str,
    select_first: bool = False,
) -> dict[tuple[int, ...], float]:
    """Exact probability of every completion, by enumerating every draw of every step.

    Args:
        proposer: the conditionals.
        schedule: tokens revealed in each step.
        temper: logits [V] -> the distribution that tokens are drawn from.
        order: low_confidence, left_to_right or random.
        select_first: choose positions before tokens are drawn.
    """
    mask, result = proposer.mask_token_id, {}

    def go(canvas: tuple[int, ...], step: int, weight: float) -> None:
        if mask not in canvas:
            result[canvas] = result.get(canvas, 0.0) + weight
            return
        logits = proposer.logits_of(canvas)
        model, drawn = logits.softmax(-1).tolist(), [temper(row).tolist() for row in logits]
        hidden = [i for i, token in enumerate(canvas) if token == mask]
        count = schedule[step]
        for tokens in product(range(mask), repeat=len(hidden)):
            chosen = dict(zip(hidden, tokens, strict=True))
            p = weight
            for i in hidden:
                p *= drawn[i][chosen[i]]
            if p == 0:
                continue
            for chance, positions in _positions(
                order, hidden, count, model, None if select_first else chosen
            ):
                after = list(canvas)
                for i in positions:
                    after[i] = chosen[i]
                go(tuple(after), step + 1, p * chance)

    go((mask,) * proposer.length, 0, 1.0)
    return result


def _positions(
    order: str,
    hidden: list[int],
    count: int,
    model: list[list[float]],
    chosen: dict[int, int] | None,
) -> list[tuple[float, tuple[int, ...]]]:
    """Which positions a step reveals, with their chances."""
    if order == "random":
        sets = [s for s in product(hidden, repeat=count) if list(s) == sorted(set(s))]
        return [(1 / len(sets), s) for s in sets]
    if order == "left_to_right":
        return [(1.0, tuple(hidden[:count]))]
    score = {i: max(model[i]) if chosen is None else model[i][chosen[i]] for i in hidden}
    return [(1.0, tuple(sorted(hidden, key=lambda i: -score[i])[:count]))]


def chi_square(counts: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float]) -> float:
    """Pearson's statistic in standard deviations above its mean; beyond 5 is no accident.

    Outcomes expected fewer than 5 times are taken together.
    """
    total = sum(counts.values())
    assert not set(counts) - {key for key, p in expected.items() if p > 0}, "an impossible outcome"
    pairs = [(counts.get(key, 0), total * p) for key, p in expected.items() if p > 0]
    rare = [pair for pair in pairs if pair[1] < 5]
    pooled = [pair for pair in pairs if pair[1] >= 5]
    if rare and sum(expectation for _, expectation in rare) > 1:
        pooled.append((sum(n for n, _ in rare), sum(expectation for _, expectation in rare)))
    statistic = sum((n - expectation) ** 2 / expectation for n, expectation in pooled)
    freedom = len(pooled) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


@torch.no_grad()
def greedy_cached(
    network: torch.nn.Module,
    prompt: Tensor,
    *,
    cache: str,
    gen_length: int,
    block_length: int,
    steps: int,
    mask_id: int,
    shift: bool = False,
) -> Tensor:
    """One row at temperature 0 with Fast-dLLM's caches (arXiv 2505.22618), by a growing cache.

    The first step of a block is a whole pass. The others put what they recompute behind the kept
    keys: everything but the block (dual), or what is before it (prefix).

    Returns:
        Completion int64 [L].
    """
    width = prompt.shape[1]
    x = torch.cat([prompt, torch.full((1, gen_length), mask_id)], dim=1)
    per_block = steps * block_length // gen_length
    for start in range(width, width + gen_length, block_length):
        end = start + block_length
        first = start - shift  # what the block's first token is read from
        behind = x.shape[1] if cache == "prefix" else end
        for step in range(per_block):
            if step == 0:
                out = network(input_ids=x, use_cache=True)
                kept = out.past_key_values
                for layer in kept.layers:
                    for name in ("keys", "values"):
                        whole = getattr(layer, name)
                        parts = whole[:, :, :first], whole[:, :, behind:]
                        setattr(layer, name, torch.cat(parts, dim=2))
                logits = out.logits[:, first:]
            else:
                positions = torch.arange(first, behind)[None]
                out = network(
                    input_ids=x[:, first:behind], position_ids=positions, past_key_values=kept
                )
                kept.crop(first - behind)
                logits = out.logits
            logits = logits[0, :block_length].float()
            logits[:, mask_id] = NEVER
            probs, best = logits.softmax(-1).max(-1)
            count = -(-int((x[0, start:end] == mask_id).sum()) // (per_block - step))
            hidden = [i for i in range(block_length) if x[0, start + i] == mask_id]
            for i in sorted(hidden, key=lambda i: -probs[i].item())[:count]:
                x[0, start + i] = best[i]
    return x[0, width:]
