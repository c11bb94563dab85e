"""The Denoiser hides the network: token log-probabilities for training, logits for the sampler.

Hidden states are gathered at the wanted positions before the vocabulary projection, which runs in
chunks, so that no [B, T, V] tensor ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unmask.models.attention import as_understood, block_causal, positions_of
from unmask.models.cache import Span, SpanCache
from unmask.models.compilation import compile_layers
from unmask.models.settings import Promising
from unmask.models.sharing import Layout, attend_in_strips, lay_out


class Denoiser(nn.Module):
    """A masked diffusion network as the module that accelerate wraps.

    `forward` is `token_logprobs` or `promising_tokens`, so that every training pass runs under the
    hooks of DDP, FSDP or DeepSpeed.

    Args:
        network: a transformers causal LM (or a peft wrapper of one) that attends in both
            directions.
        mask_token_id: the token that stands for "hidden".
        shift: True where the network predicts token i at position i-1 (Dream).
        block_length: of block-causal attention, blocks counted from the first real token; None =
            every token attends to every other.
        forbidden_ids: tokens that the sampler must never place (the mask token is always one).
        chunk_size: positions per slice of the vocabulary projection; None = what fits in
            64 MiB of float32, or on a GPU 256 MiB, and at most 2048.
        autocast: dtype that the network computes in where its weights are float32, or None.
        compiled: compile the network's layers at their first pass, of a network that is not
            block-causal; what runs with a cache runs uncompiled.

    Attributes:
        sampled_at: the temperature at which a sampler took the tokens, to score them as it did:
            logits divided by it, and nothing on what it must never place. None = the model's own
            probabilities.

    Raises:
        ValueError: if a block-causal network is said to be shifted.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mask_token_id: int,
        shift: bool = False,
        block_length: int | None = None,
        forbidden_ids: Sequence[int] = (),
        chunk_size: int | None = None,
        autocast: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if shift and block_length is not None:
            raise ValueError(
                f"block_length={block_length} with shift=True: the first token of a block would be "
                "predicted from the block before, which does not see it; leave one out"
            )
        self.network = network
        self.mask_token_id = mask_token_id
        self.shift = shift
        self.block_length = block_length
        self.forbidden_ids = sorted({mask_token_id, *forbidden_ids})
        self._chunk_size = chunk_size
        self.autocast = autocast
        self.compiled = compiled
        self.sampled_at: float | None = None

    @property
    def causal_lm(self) -> Any:
        """The transformers model, without the peft wrapper if there is one."""
        network: Any = self.network
        return network.get_base_model() if hasattr(network, "get_base_model") else network

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def chunk_size(self) -> int:
        """Positions whose logits are held at once."""
        if self._chunk_size is not None:
            return self._chunk_size
        entries = 2**24 if self.device.type == "cpu" else 2**26
        return max(1, min(2048, entries // self.causal_lm.config.vocab_size))

    @chunk_size.setter
    def chunk_size(self, positions: int | None) -> None:
        self._chunk_size = positions

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        targets: Tensor,
        scored: Tensor,
        candidates: Tensor | None = None,
        promising: Promising | None = None,
    ) -> Tensor:
        """See `token_logprobs`, or with `promising` see `promising_tokens`."""
        if promising is not None:
            return self.promising_tokens(ids, attention_mask, scored, promising, targets)
        return self.token_logprobs(ids, attention_mask, targets, scored, candidates)

    def token_logprobs(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        targets: Tensor,
        scored: Tensor,
        candidates: Tensor | None = None,
    ) -> Tensor:
        """log p(targets | ids) at the scored positions, nothing else.

        In a block-causal network the blocks before that of a position are given as they are, their
        hidden tokens filled in from `targets`: one pass for all blocks of all rows, in which what
        rows have in common runs once; see `unmask.models.sharing`.

        Args:
            ids: int [N, T], with mask tokens in place of what is hidden.
            attention_mask: [N, T], 1 for real tokens and 0 for padding; None = no padding.
            targets: int [N, T]; read where `scored`, by a block-causal network wherever a token
                is hidden.
            scored: bool [N, T].
            candidates: int [K, C], the tokens that the softmax of each scored position runs over,
                beside the target; -1 = none. None = the whole vocabulary.

        Returns:
            float32 (float64 of a float64 network) [K], K = number of scored positions, in
            row-major order.
        """
        hidden, wanted = self._at(ids, attention_mask, scored, targets), targets[scored]
        pieces = []
        for piece in self._chunks(len(wanted)):
            among = None if candidates is None else candidates[piece]
            arguments = hidden[piece], wanted[piece], among
            if torch.is_grad_enabled() and len(wanted) > self.chunk_size:
                # Recomputed in the backward pass: one chunk's logits are alive at a time.
                values = checkpoint(self._logprobs, *arguments, use_reentrant=False)
            else:
                values = self._logprobs(*arguments)
            pieces.append(values)
        return torch.cat(pieces)

    @torch.no_grad()
    def promising_tokens(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        scored: Tensor,
        promising: Promising,
        targets: Tensor | None = None,
    ) -> Tensor:
        """The most probable tokens at the scored positions, for `token_logprobs`.

        Args:
            ids: int [N, T].
            attention_mask: [N, T] or None.
            scored: bool [N, T], of which K are True.
            promising: how many.
            targets: int [N, T], what a block-causal network fills hidden tokens of earlier blocks
                in from; None = as they are.

        Returns:
            int64 [K, top_k], -1 from where the tokens before hold `top_p` of the mass of all
            top_k, as a sampler restricts first by the one and then by the other.
        """
        hidden = self._at(ids, attention_mask, scored, targets)
        found = []
        for piece in self._chunks(len(hidden)):
            logits = self._scores(hidden[piece])
            best, tokens = logits.topk(min(promising.top_k, logits.shape[-1]), dim=-1)
            mass = best.softmax(-1)
            found.append(tokens.masked_fill(mass.cumsum(-1) - mass >= promising.top_p, -1))
        return torch.cat(found)

    def new_cache(self) -> SpanCache:
        """For `states`."""
        return SpanCache(self.causal_lm.config.num_hidden_layers)

    @torch.no_grad()
    def prefill(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        new: Tensor,
        width: int,
        cache: SpanCache,
    ) -> None:
        """Put the prompts of new rows of a block-causal network into the cache, each of them once.

        The first span of a row must begin at the start of its first block that is not all prompt.

        Args:
            ids: int [N, T].
            attention_mask: [N, T] or None.
            new: bool [N], the rows that the cache does not hold yet.
            width: columns of the prompts.
            cache: of N rows, realigned.
        """
        assert self.block_length is not None
        if not width:
            return
        prompts = ids[:, :width]
        mask = torch.ones_like(prompts) if attention_mask is None else attention_mask[:, :width]
        _, which = torch.stack([prompts * mask, mask], 1).unique(dim=0, return_inverse=True)
        numbers = torch.arange(len(ids), device=ids.device)
        # One row for each prompt, out of those that are there already if any is.
        order = torch.cat([new.nonzero(), (~new).nonzero()]).squeeze(-1)
        source = torch.zeros_like(which)
        for row in order.tolist():
            source[which[row]] = row
        source = source[which]
        known = new & ~new[source]
        first = (new & (source == numbers)).nonzero().squeeze(-1)
        if len(first):
            place = torch.zeros_like(numbers)
            place[first] = torch.arange(len(first), device=ids.device)
            rows = (new & ~known).nonzero().squeeze(-1)
            cache.span = Span(
                rows, torch.zeros_like(rows), width, ids.shape[1], place[source[rows]]
            )
            positions = positions_of(mask[first], prompts[first])
            self._decode(
                prompts[first], positions, block_causal(positions, self.block_length), cache
            )
        if bool(known.any()):
            cache.copy(source[known], numbers[known], width)

    @torch.no_grad()
    def states(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        rows: Tensor,
        columns: Tensor,
        *,
        cache: SpanCache | None = None,
        cached_rows: Tensor | None = None,
        span: tuple[Tensor, Tensor | int] | None = None,
    ) -> Tensor:
        """What `logits` turns into logits, at S places of ids.

        Args:
            ids: int [N, T].
            attention_mask: [N, T] or None.
            rows: int64 [S].
            columns: int64 [S], columns of `ids` whose tokens are asked for.
            cache: kept keys and values; None computes all of them.
            cached_rows: int64 [N], rows of the cache; None = all.
            span: first column, int64 [N], and number of the columns to compute, which take the
                keys and values of the others from the cache; None = all, into the cache. A
                block-causal network also takes a number for each row, int64 [N].

        Returns:
            [S, H].
        """
        source = self._source(columns)
        if cache is None:
            return self._hidden_states(ids, attention_mask)[rows, source]
        computed = None
        if span is not None:
            computed = self._span(span, ids, attention_mask)
            source = source - computed[0][rows]
        return self._hidden_states(ids, attention_mask, cache, cached_rows, computed)[rows, source]

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Logits float32 [S, V] for the sampler, -inf on tokens that must not be placed.

        Args:
            states: [S, H], from `states`.
        """
        logits = self._project(states)
        logits[..., self.forbidden_ids] = -torch.inf
        return logits

    @torch.no_grad()
    def propose(self, ids: Tensor, attention_mask: Tensor | None, positions: Tensor) -> Tensor:
        """`logits` at some columns of every row, in one piece.

        Args:
            ids: int [N, T].
            attention_mask: [N, T] or None.
            positions: int [N, K], columns of `ids` whose tokens are asked for.

        Returns:
            float32 [N, K, V].
        """
        rows = torch.arange(len(ids), device=ids.device).unsqueeze(-1).expand_as(positions)
        return self.logits(self.states(ids, attention_mask, rows, positions))

    def _source(self, columns: Tensor) -> Tensor:
        """The output position that predicts each column."""
        return (columns - 1).clamp(min=0) if self.shift else columns

    def _hidden_states(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        cache: SpanCache | None = None,
        cached_rows: Tensor | None = None,
        span: tuple[Tensor, int] | None = None,
    ) -> Tensor:
        """Hidden states [N, T, H] of one pass over the tokens as they are, or of a span of them."""
        positions, mask = None, attention_mask
        # Counted from the first real token: rounding in the rotary embedding would otherwise
        # depend on the padding.
        if attention_mask is not None or cache is not None or self.block_length is not None:
            positions = positions_of(attention_mask, ids)
            if self.block_length is not None:
                mask = block_causal(positions, self.block_length)
        if cache is not None and positions is not None:
            first, count = span or (None, ids.shape[1])
            cache.span = Span(cached_rows, first, count, ids.shape[1])
            cache.num_rows = len(ids) if cached_rows is None else cache.num_rows
            columns = cache.span.columns
            if columns is not None:
                positions, ids = positions.gather(1, columns), ids.gather(1, columns)
                if self.block_length is not None and mask is not None:
                    mask = mask.gather(
                        2, columns[:, None, :, None].expand(-1, 1, -1, mask.shape[3])
                    )
        return self._decode(ids, positions, mask, cache)

    def _span(
        self, span: tuple[Tensor, Tensor | int], ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, int]:
        """The columns that a pass must compute so that a span of columns can be read from it."""
        first, count = span
        width = ids.shape[1]
        if self.block_length is not None:
            # All of a block sees what is revealed in it. Any column more does no harm: what is
            # before a block does not depend on it, so that this cache is exact.
            ends = torch.stack([first, first + count - 1], dim=1)
            places = positions_of(attention_mask, ids).gather(1, ends)
            blocks = places // self.block_length
            first = first - places[:, 0] % self.block_length
            count = int((blocks[:, 1] - blocks[:, 0] + 1).max()) * self.block_length
            count = min(count, width)
        assert isinstance(count, int)
        if self.shift:
            # The first column is predicted from the one before it.
            first, count = first - 1, count + 1
        return first.clamp(min=0, max=width - count), count

    def _decode(
        self,
        ids: Tensor,
        positions: Tensor | None,
        mask: Tensor | None,
        cache: SpanCache | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        decoder = self.causal_lm.get_decoder()
        in_strips = {}
        if mask is not None and mask.dim() == 4:
            dtype = self.autocast or next(decoder.parameters()).dtype
            implementation = decoder.config._attn_implementation
            mask = as_understood(mask, implementation, dtype)
            if layout is not None:
                attend_in_strips(decoder)
                in_strips["strips"] = layout.as_understood(implementation, dtype)
        stance: AbstractContextManager[Any] = nullcontext()
        if self.compiled:
            compile_layers(decoder)
            if cache is not None:
                stance = torch.compiler.set_stance("force_eager")
        # One context per pass: autocast's weight cache must not carry over from a pass without a
        # graph into one with a graph.
        precision = torch.autocast(
            ids.device.type, self.autocast, enabled=self.autocast is not None
        )
        with stance, precision:
            return decoder(
                input_ids=ids,
                attention_mask=mask,
                position_ids=None if positions is None else positions.clamp(min=0),
                past_key_values=cache,
                use_cache=cache is not None,
                **in_strips,
            ).last_hidden_state

    def _project(self, hidden: Tensor) -> Tensor:
        head = self.causal_lm.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden.to(head.weight.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _scores(self, hidden: Tensor) -> Tensor:
        """Logits that tokens are scored by: the model's, or those the sampler takes them by."""
        logits = self._project(hidden)
        if self.sampled_at is None:
            return logits
        forbidden = torch.tensor(self.forbidden_ids, device=logits.device)
        return logits.index_fill(-1, forbidden, -torch.inf) / self.sampled_at

    def _at(
        self, ids: Tensor, attention_mask: Tensor | None, scored: Tensor, targets: Tensor | None
    ) -> Tensor:
        """Hidden states [K, H] that predict the scored positions."""
        rows, columns = scored.nonzero(as_tuple=True)
        if self.block_length is None:
            return self._hidden_states(ids, attention_mask)[rows, self._source(columns)]
        clean = ids if targets is None else torch.where(ids == self.mask_token_id, targets, ids)
        positions = positions_of(attention_mask, ids)
        layout = lay_out(ids, clean, positions, scored, self.block_length)
        # The strips have the masks; another one keeps transformers from making its own.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
        return self._decode(layout.ids, layout.positions, mask, layout=layout)[0, layout.wanted]

    def _chunks(self, count: int) -> list[slice]:
        """At least one, so that every pass uses the vocabulary projection."""
        size = self.chunk_size
        return [slice(start, start + size) for start in range(0, max(count, 1), size)]

    def _logprobs(self, hidden: Tensor, targets: Tensor, candidates: Tensor | None) -> Tensor:
        logits = self._scores(hidden)
        chosen = logits.gather(-1, targets.unsqueeze(-1))
        if candidates is not None:
            left_out = (candidates < 0) | (candidates == targets.unsqueeze(-1))
            others = logits.gather(-1, candidates.clamp(min=0)).masked_fill(left_out, -torch.inf)
            logits = torch.cat([chosen, others], dim=-1)
        return chosen.squeeze(-1) - logits.logsumexp(-1)
