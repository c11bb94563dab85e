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
        chunk_size: positions per slice of the vocabulary projection.
        autocast: dtype that the network computes in where its weights are float32, or None.

    Attributes:
        sampled_at: the temperature at which a sampler took the tokens, to score them as it did:
            logits divided by it, and nothing on what it must never place. None = the model's own
            probabilities.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mask_token_id: int,
        shift: bool = False,
        forbidden_ids: Sequence[int] = (),
        chunk_size: int = 2048,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.mask_token_id = mask_token_id
        self.shift = shift
        self.forbidden_ids = sorted({mask_token_id, *forbidden_ids})
        self.chunk_size = chunk_size
        self.autocast = autocast
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
            int64 [K, top_k], -1 from where the tokens before hold `top_p` of the mass of all
            top_k, as a sampler restricts first by the one and then by the other.
        """
        hidden = self._at(ids, attention_mask, scored)
        found = []
        for piece in self._chunks(len(hidden)):
            logits = self._scores(hidden[piece])
            best, tokens = logits.topk(min(promising.top_k, logits.shape[-1]), dim=-1)
            mass = best.softmax(-1)
            found.append(tokens.masked_fill(mass.cumsum(-1) - mass >= promising.top_p, -1))
        return torch.cat(found)

    @torch.no_grad()
    def propose(self, ids: Tensor, attention_mask: Tensor | None, positions: Tensor) -> Tensor:
        """Logits for the sampler, with -inf on tokens that must not be placed.

        Args:
            ids: int [N, T].
            attention_mask: [N, T] or None.
            positions: int [N, K], columns of `ids` whose tokens are asked for.

        Returns:
            float32 [N, K, V].
        """
        hidden = self._hidden_states(ids, attention_mask)
        index = self._source(positions).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        logits = self._project(hidden.gather(1, index))
        logits[..., self.forbidden_ids] = -torch.inf
        return logits

    def _source(self, columns: Tensor) -> Tensor:
        """The output position that predicts each column."""
        return (columns - 1).clamp(min=0) if self.shift else columns

    def _hidden_states(self, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        decoder = self.causal_lm.get_decoder()
        # Counted from the first real token: rounding in the rotary embedding would otherwise
        # depend on the padding.
        positions = None if attention_mask is None else (attention_mask.cumsum(-1) - 1).clamp(min=0)
        # One context per pass: autocast's weight cache must not carry over from a pass without a
        # graph into one with a graph.
        with torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None):
            return decoder(
                input_ids=ids,
                attention_mask=attention_mask,
                position_ids=positions,
                use_cache=False,
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

    def _at(self, ids: Tensor, attention_mask: Tensor | None, scored: Tensor) -> Tensor:
        """Hidden states [K, H] that predict the scored positions."""
        rows, columns = scored.nonzero(as_tuple=True)
        return self._hidden_states(ids, attention_mask)[rows, self._source(columns)]

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
