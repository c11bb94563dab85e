"""The unmasking loop: block by block, each step reveals some of the block's hidden tokens.

A sequence's tokens depend on its prompt, its seed and the settings alone: not on its batch mates,
its padding or the batch size. That holds because all randomness is counter-based, and every
sequence in flight goes through its own blocks and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from unmask.sampling.blocks import Blocks
from unmask.sampling.draws import Draws, draw
from unmask.sampling.flight import Flight
from unmask.sampling.noise import uniform
from unmask.sampling.rules import num_reveals
from unmask.sampling.settings import Sampler

OnStep = Callable[[int, Tensor, Tensor], None]


class Proposer(Protocol):
    """What the sampler needs of a model; `unmask.models.denoiser.Denoiser` is one.

    A block-causal one also says its `block_length`, and has `prefill` for caches.

    Attributes:
        mask_token_id: the token that stands for "hidden".
        chunk_size: positions whose logits are held at once.
    """

    mask_token_id: int

    @property
    def chunk_size(self) -> int:
        """Positions whose logits are held at once."""

    def states(self, *args: Any, **kwargs: Any) -> Tensor:
        """What `logits` reads, [S, H].

        `args` are ids [N, T], attention mask [N, T] or None, and rows [S] and columns [S] of what
        is asked for. `cache`, `cached_rows` and `span` come along where the settings ask for a
        cache; see `Denoiser.states`.
        """

    def logits(self, states: Tensor) -> Tensor:
        """Logits float32 [S, V], -inf where a token must not be placed."""


@dataclass(frozen=True)
class Samples:
    """Completions and how they came about.

    Attributes:
        completion_ids: int64 [B, L], filled with EOS behind an early stop.
        step_map: int64 [B, L], the denoising step at which each token was revealed; `steps` where
            it never was, because the sequence had closed.
        confidence: float32 [B, L], the model's probability (temperature 1, all tokens) of the
            token when it was revealed; 1 where it never was.
        probability: float32 [B, L], the probability under which the token was taken: at the
            sampler's temperature, among its top-k and top-p tokens, with its cache; 1 where the
            likeliest is taken, and where none was.
        lengths: int64 [B], tokens up to and including the first EOS.
        num_forwards: sequences x denoising passes spent.
    """

    completion_ids: Tensor
    step_map: Tensor
    confidence: Tensor
    probability: Tensor
    lengths: Tensor
    num_forwards: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All but the count of forwards."""
        return {name: value for name, value in vars(self).items() if name != "num_forwards"}


@dataclass(frozen=True)
class Reveal:
    """One denoising step of the N sequences in flight, before its tokens are written.

    Attributes:
        flight: the sequences.
        step: int64 [N], the step of each.
        window: int64 [N, K], positions in the completion that hold the active block.
        revealed: bool [N, K].
        tokens: int64 [N, K], meaningful where revealed.
        logits: what was sampled from, float32 [S, V], of the hidden positions given by number.
        index: int64 [N, K], the number of each hidden position.
    """

    flight: Flight
    step: Tensor
    window: Tensor
    revealed: Tensor
    tokens: Tensor
    logits: Callable[[Tensor], Tensor]
    index: Tensor


OnReveal = Callable[[Reveal], None]


def completion_lengths(ids: Tensor, eos_ids: Iterable[int]) -> Tensor:
    """Tokens up to and including the first EOS, the whole length where there is none: int64 [B].

    Args:
        ids: int [B, L].
        eos_ids: every token that ends a completion.
    """
    is_eos = _is_any(ids, eos_ids)
    first = is_eos.int().argmax(-1) + 1
    return torch.where(is_eos.any(-1), first, ids.shape[-1])


@torch.no_grad()
def sample(
    proposer: Proposer,
    prompt_ids: Tensor,
    prompt_mask: Tensor | None,
    seeds: Tensor,
    sampler: Sampler,
    *,
    eos_ids: Sequence[int] = (),
    max_tokens: int | None = None,
    on_step: OnStep | None = None,
    on_reveal: OnReveal | None = None,
) -> Samples:
    """Write B completions by iterative unmasking (LLaDA, arXiv 2502.09992, Algorithm 5).

    Args:
        proposer: the model.
        prompt_ids: int [B, P], padded on the left.
        prompt_mask: [B, P], 1 for real tokens; None = no padding.
        seeds: int64 [B], one per sequence; at temperature 0 read by the random order alone.
        sampler: the settings.
        eos_ids: tokens that close a completion; the first fills what an early stop leaves.
        max_tokens: most padded tokens of one pass; the other sequences wait. None = no bound.
        on_step: called after each pass with the step of the first sequence in flight, the canvas
            so far, int64 [B, L], and the confidence, float32 [B, L].
        on_reveal: called in each pass, before tokens are written.

    Returns:
        The completions; see `Samples`.

    Raises:
        ValueError: if the model's logits are not finite, or if `steps` does not suffice for blocks
            that prompts split.
    """
    batch, device = prompt_ids.shape[0], prompt_ids.device
    length, mask_id = sampler.gen_length, proposer.mask_token_id
    canvas = torch.full((batch, length), mask_id, dtype=torch.int64, device=device)
    step_map = torch.full_like(canvas, sampler.steps)
    confidence = torch.ones(batch, length, device=device)
    probability = torch.ones_like(confidence)
    if prompt_mask is None:
        prompt_mask = torch.ones_like(prompt_ids)
    block_causal = getattr(proposer, "block_length", None) is not None
    blocks = Blocks(sampler, prompt_mask.sum(-1) % (sampler.block_length if block_causal else 1))
    flight = Flight(prompt_ids.long(), prompt_mask, sampler, mask_id, max_tokens)
    passes = _Passes(proposer, sampler, blocks, block_causal)
    closed: Tensor | None = None
    num_forwards = 0
    while flight.replace(closed, *passes.caches):
        where = flight.rows, flight.block
        step = blocks.step(*where, flight.offset)
        window, inside = blocks.window(*where)
        columns = window + (flight.width - length)
        hidden = inside & (flight.ids.gather(1, columns) == mask_id)
        at, places = hidden.nonzero(as_tuple=True)
        logits = passes.logits(flight, at, columns[at, places])
        num_forwards += len(flight) * (2 if sampler.cfg_scale else 1)
        seed = seeds[flight.rows]
        drawn = draw(
            logits,
            proposer.chunk_size,
            uniform(seed, step, window)[hidden],
            uniform(seed, step, window, stream=1)[hidden],
            window[hidden],
            sampler,
        )
        _require_finite(drawn.confidence, step)
        scheduled = blocks.scheduled(*where, flight.offset)
        revealed = _select(drawn, hidden, scheduled, sampler)
        if on_reveal is not None:
            tokens = _spread(drawn.tokens, hidden, mask_id)
            index = _spread(torch.arange(len(at), device=device), hidden, 0)
            on_reveal(Reveal(flight, step, window, revealed, tokens, logits, index))
        which = revealed[hidden]
        row, column = flight.rows[at[which]], window[hidden][which]
        canvas[row, column] = drawn.tokens[which]
        confidence[row, column] = drawn.confidence[which]
        probability[row, column] = drawn.probability[which]
        step_map[row, column] = step[at[which]]
        flight.ids[at[which], columns[hidden][which]] = drawn.tokens[which]
        finished = ~(hidden & ~revealed).any(-1)
        flight.offset = (flight.offset + 1).masked_fill(finished, 0)
        flight.block = flight.block + finished
        closed = flight.block == blocks.count[flight.rows]
        if sampler.early_stop and eos_ids:
            closed |= finished & _is_any(flight.ids[:, -length:], eos_ids).any(-1)
        if on_step is not None:
            on_step(int(step[0]), canvas, confidence)
    if eos_ids:
        canvas.masked_fill_(canvas == mask_id, eos_ids[0])
    lengths = completion_lengths(canvas, eos_ids)
    return Samples(canvas, step_map, confidence, probability, lengths, num_forwards)


def without_prompt(ids: Tensor, length: int, mask_token_id: int) -> Tensor:
    """What guidance compares with: ids [N, T] with all but the last `length` tokens masked."""
    blank = ids.clone()
    blank[:, : ids.shape[1] - length] = mask_token_id
    return blank


def guide(logits: Sequence[Tensor], cfg_scale: float) -> Tensor:
    """uncond + (w + 1) (cond - uncond) of logits with and without the prompt, [S, V] each."""
    if len(logits) == 1:
        return logits[0]
    conditional, unconditional = logits
    guided = unconditional + (cfg_scale + 1) * (conditional - unconditional)
    # -inf - -inf: what must not be placed stays out.
    return guided.masked_fill(conditional.isneginf(), -torch.inf)


class _Passes:
    """Runs the model over the sequences in flight, with guidance and caches where asked for."""

    def __init__(self, proposer: Any, sampler: Sampler, blocks: Blocks, block_causal: bool) -> None:
        self._proposer = proposer
        self._sampler = sampler
        self._blocks = blocks
        self._block_causal = block_causal
        cached = sampler.cache != "none"
        # Guidance has its own cache: of the sequences without their prompts.
        self.caches = [proposer.new_cache() for _ in self._variants] if cached else []

    @property
    def _variants(self) -> range:
        return range(2 if self._sampler.cfg_scale else 1)

    def logits(
        self, flight: Flight, rows: Tensor, columns: Tensor
    ) -> Callable[[slice | Tensor], Tensor]:
        """Run the model; logits [S, V] of a part of the given places, int64 each."""
        ids = flight.ids
        states = [self._states(flight, ids, rows, columns, 0)]
        if self._sampler.cfg_scale:
            blank = without_prompt(ids, self._sampler.gen_length, self._proposer.mask_token_id)
            states.append(self._states(flight, blank, rows, columns, 1))

        def part(piece: slice | Tensor) -> Tensor:
            logits = [self._proposer.logits(values[piece]) for values in states]
            return guide(logits, self._sampler.cfg_scale)

        return part

    def _states(
        self, flight: Flight, ids: Tensor, rows: Tensor, columns: Tensor, variant: int
    ) -> Tensor:
        if not self.caches:
            return self._proposer.states(ids, flight.attention, rows, columns)
        cache = self.caches[variant]
        if self._block_causal:
            new = (flight.block == 0) & (flight.offset == 0)
            prompt = flight.width - flight.canvas_length
            if bool(new.any()):
                self._proposer.prefill(ids, flight.attention, new, prompt, cache)
        states: Tensor | None = None
        for group, span in self._groups(flight):
            whole = len(group) == len(flight)
            place = torch.full_like(flight.rows, -1)
            place[group] = torch.arange(len(group), device=group.device)
            mine = place[rows] >= 0
            found = self._proposer.states(
                ids if whole else ids[group],
                flight.attention if whole or flight.attention is None else flight.attention[group],
                place[rows][mine],
                columns[mine],
                cache=cache,
                cached_rows=None if whole else group,
                span=span,
            )
            if whole:
                return found
            if states is None:
                states = found.new_empty(len(rows), found.shape[-1])
            states[mine] = found
        assert states is not None
        return states

    def _groups(
        self, flight: Flight
    ) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor | int] | None]]:
        """Rows that compute equally many columns: all at the first step of a block, later a span.

        A span begins at the active block and ends behind it (dual), or with the canvas (prefix).
        """
        canvas = self._sampler.gen_length
        first = self._blocks.begin(flight.rows, flight.block)
        fresh = flight.offset == 0
        start = flight.width - canvas
        if self._block_causal:
            # What is behind a block is never needed, and before it all is kept but the block that
            # is finished now: it was computed while tokens of it were hidden.
            end = self._blocks.begin(flight.rows, flight.block + 1).clamp(max=canvas)
            before = self._blocks.begin(flight.rows, flight.block - 1)
            first = torch.where(fresh, before, first)
            for wanted in (fresh & (flight.block > 0), ~fresh | (flight.block == 0)):
                group = wanted.nonzero().squeeze(-1)
                if len(group):
                    yield group, (first[group] + start, (end - first)[group])
            return
        counts = torch.full_like(first, self._sampler.block_length)
        if self._sampler.cache == "prefix":
            counts = canvas - first
        counts = counts.masked_fill(fresh, 0)
        for count in counts.unique().tolist():
            group = (counts == count).nonzero().squeeze(-1)
            yield group, (first[group] + start, count) if count else None


def _select(drawn: Draws, hidden: Tensor, scheduled: Tensor, sampler: Sampler) -> Tensor:
    """Which hidden positions to reveal, bool [N, K]: those of the highest score.

    Ties go in reading order: `topk` leaves them open, and confidences that round to 1 are ties.
    """
    scores = _spread(drawn.score, hidden, -torch.inf)
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    entropies = None
    if drawn.entropy is not None:
        entropies = _spread(drawn.entropy, hidden, torch.inf).gather(1, order)
    counts = num_reveals(ranked, entropies, scheduled, sampler)
    return hidden & (order.argsort(-1) < counts.unsqueeze(-1))


def _spread(values: Tensor, hidden: Tensor, fill: float) -> Tensor:
    """Values [S] of the hidden positions at their places [N, K]."""
    return values.new_full(hidden.shape, fill).masked_scatter(hidden, values)


def _require_finite(confidence: Tensor, step: Tensor) -> None:
    if bool(confidence.isnan().any()):
        raise ValueError(
            f"the model gives logits that are NaN or infinite (denoising step {int(step[0])}): its "
            "weights have diverged or its dtype is too narrow; use an earlier checkpoint "
            "or model.dtype=float32"
        )


def _is_any(ids: Tensor, wanted: Iterable[int]) -> Tensor:
    return torch.isin(ids, torch.tensor(list(wanted), dtype=ids.dtype, device=ids.device))
