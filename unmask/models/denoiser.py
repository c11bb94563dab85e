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


class Denoiser(nn.Module):
    """A masked diffusion network as the module that accelerate wraps.

    `forward` is `token_logprobs`, so that every training pass runs under the hooks of DDP, FSDP
    or DeepSpeed.

    Args:
        network: a transformers causal LM (or a peft wrapper of one) that attends in both
            directions.
        mask_token_id: the token that stands for "hidden".
        shift: True where the network predicts token i at position i-1 (Dream).
        forbidden_ids: tokens that the sampler must never place (the mask token is always one).
        chunk_size: positions per slice of the vocabulary projection.
        autocast: dtype that the network computes in where its weights are float32, or None.
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
        self, ids: Tensor, attention_mask: Tensor | None, targets: Tensor, scored: Tensor
    ) -> Tensor:
        """See `token_logprobs`."""
        return self.token_logprobs(ids, attention_mask, targets, scored)

    def token_logprobs(
        self, ids: Tensor, attention_mask: Tensor | None, targets: Tensor, scored: Tensor
    ) -> Tensor:
        """log p(targets | ids) at the scored positions, nothing else.

        Args:
            ids: int [N, T], with mask tokens in place of what is hidden.
            attention_mask: [N, T], 1 for real tokens and 0 for padding; None = no padding.
            targets: int [N, T]; only read where `scored`.
            scored: bool [N, T].

        Returns:
            float32 (float64 of a float64 network) [K], K = number of scored positions, in
            row-major order.
        """
        rows, columns = scored.nonzero(as_tuple=True)
        hidden = self._hidden_states(ids, attention_mask)[rows, self._source(columns)]
        wanted = targets[rows, columns]
        pieces = []
        for start in range(0, max(len(rows), 1), self.chunk_size):
            piece = slice(start, start + self.chunk_size)
            if torch.is_grad_enabled() and len(rows) > self.chunk_size:
                # Recomputed in the backward pass: one chunk's logits are alive at a time.
                values = checkpoint(
                    self._logprobs, hidden[piece], wanted[piece], use_reentrant=False
                )
            else:
                values = self._logprobs(hidden[piece], wanted[piece])
            pieces.append(values)
        return torch.cat(pieces)

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

    def _logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self._project(hidden)
        return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
