"""The Denoiser hides the network: token log-probabilities for training, logits for the sampler.

Hidden states are gathered at the wanted positions before the vocabulary projection, which runs in
chunks, so that no [B, T, V] tensor ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unmask.models.cache import Span, SpanCache
from unmask.models.settings import Promising


class Denoiser(nn.Module):
    """A masked diffusion network as the module that accelerate wraps.

    `forward` is `token_logprobs` or `promising_tokens`, so that every training pass runs under the
    hooks of DDP, FSDP or DeepSpeed.

    Args:
        network: a transformers causal LM (or a peft wrapper of one) that attends in both
            directions.
        mask_token_id: the token that stands for "hidden".
        shift: True where the network predicts token i at position i-1 (Dream).
        forbidden_ids: tokens that the sampler must never place (the mask token is always one).
        chunk_size: positions per slice of the vocabulary projection; None = what fits in
            64 MiB of float32, or on a GPU 256 MiB, and at most 2048.
        autocast: dtype that the network computes in where its weights are float32, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mask_token_id: int,
        shift: bool = False,
        forbidden_ids: Sequence[int] = (),
        chunk_size: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.mask_token_id = mask_token_id
        self.shift = shift
        self.forbidden_ids = sorted({mask_token_id, *forbidden_ids})
        self._chunk_size = chunk_size
        self.autocast = autocast

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
            return self.promising_tokens(ids, attention_mask, scored, promising)
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

        Args:
            ids: int [N, T], with mask tokens in place of what is hidden.
            attention_mask: [N, T], 1 for real tokens and 0 for padding; None = no padding.
            targets: int [N, T]; only read where `scored`.
            scored: bool [N, T].
            candidates: int [K, C], the tokens that the softmax of each scored position runs over,
                beside the target; -1 = none. None = the whole vocabulary.

        Returns:
            float32 (float64 of a float64 network) [K], K = number of scored positions, in
            row-major order.
        """
        hidden, wanted = self._at(ids, attention_mask, scored), targets[scored]
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
        self, ids: Tensor, attention_mask: Tensor | None, scored: Tensor, promising: Promising
    ) -> Tensor:
        """The most probable tokens at the scored positions, for `token_logprobs`.

        Args:
            ids: int [N, T].
            attention_mask: [N, T] or None.
            scored: bool [N, T], of which K are True.
            promising: how many.

        Returns:
            int64 [K, top_k], -1 from where the tokens before hold `top_p` of the mass.
        """
        hidden = self._at(ids, attention_mask, scored)
        found = []
        for piece in self._chunks(len(hidden)):
            probs = self._project(hidden[piece]).softmax(-1)
            mass, tokens = probs.topk(min(promising.top_k, probs.shape[-1]), dim=-1)
            found.append(tokens.masked_fill(mass.cumsum(-1) - mass >= promising.top_p, -1))
        return torch.cat(found)

    def new_cache(self) -> SpanCache:
        """For `states`."""
        return SpanCache(self.causal_lm.config.num_hidden_layers)

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
        span: tuple[Tensor, int] | None = None,
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
                keys and values of the others from the cache; None = all, into the cache.

        Returns:
            [S, H].
        """
        source, extra = self._source(columns), int(self.shift)
        if cache is None:
            return self._hidden_states(ids, attention_mask)[rows, source]
        if span is not None:
            # A shifted network predicts the first column from the one before it.
            first = (span[0] - extra).clamp(min=0)
            span = first, min(span[1] + extra, ids.shape[1])
            source = source - first[rows]
        return self._hidden_states(ids, attention_mask, cache, cached_rows, span)[rows, source]

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
        decoder = self.causal_lm.get_decoder()
        # Counted from the first real token: rounding in the rotary embedding would otherwise
        # depend on the padding.
        positions = None if attention_mask is None else (attention_mask.cumsum(-1) - 1).clamp(min=0)
        if cache is not None:
            first, count = span or (None, ids.shape[1])
            cache.span = Span(cached_rows, first, count, ids.shape[1])
            cache.num_rows = len(ids) if cached_rows is None else cache.num_rows
            columns = cache.span.columns
            if positions is None:
                positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            if columns is not None:
                positions, ids = positions.gather(1, columns), ids.gather(1, columns)
        # One context per pass: autocast's weight cache must not carry over from a pass without a
        # graph into one with a graph.
        with torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None):
            return decoder(
                input_ids=ids,
                attention_mask=attention_mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state

    def _project(self, hidden: Tensor) -> Tensor:
        head = self.causal_lm.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden.to(head.weight.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _at(self, ids: Tensor, attention_mask: Tensor | None, scored: Tensor) -> Tensor:
        """Hidden states [K, H] that predict the scored positions."""
        rows, columns = scored.nonzero(as_tuple=True)
        return self._hidden_states(ids, attention_mask)[rows, self._source(columns)]

    def _chunks(self, count: int) -> list[slice]:
        """At least one, so that every pass uses the vocabulary projection."""
        size = self.chunk_size
        return [slice(start, start + size) for start in range(0, max(count, 1), size)]

    def _logprobs(self, hidden: Tensor, targets: Tensor, candidates: Tensor | None) -> Tensor:
        logits = self._project(hidden)
        chosen = logits.gather(-1, targets.unsqueeze(-1))
        if candidates is not None:
            left_out = (candidates < 0) | (candidates == targets.unsqueeze(-1))
            others = logits.gather(-1, candidates.clamp(min=0)).masked_fill(left_out, -torch.inf)
            logits = torch.cat([chosen, others], dim=-1)
        return chosen.squeeze(-1) - logits.logsumexp(-1)
