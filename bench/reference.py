"""What the benches compare with: full logits and all draws in one graph, one row per view."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.models.attention import positions_of
from unmask.models.denoiser import Denoiser
from unmask.sampling.settings import Sampler


def random_llama(vocabulary: int, hidden: int, layers: int) -> torch.nn.Module:
    """A bidirectional Llama with LLaDA's proportions and random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=4096,
    )
    config.is_causal = False
    return LlamaForCausalLM(config).eval()


def plain_logprobs(
    network: torch.nn.Module, prompt: Tensor, completion: Tensor, hidden: Tensor, mask_id: int
) -> Tensor:
    """log p of every completion token for all views at once, from full logits: [B, M, L]."""
    batch, views, length = hidden.shape
    noisy = completion.unsqueeze(1).expand(-1, views, -1).masked_fill(hidden, mask_id)
    ids = torch.cat([prompt.unsqueeze(1).expand(-1, views, -1), noisy], dim=-1).flatten(0, 1)
    logits = network(input_ids=ids, use_cache=False).logits.float()[:, -length:]
    targets = completion.repeat_interleave(views, dim=0).unsqueeze(-1)
    logp = logits.log_softmax(-1).gather(-1, targets).squeeze(-1)
    return logp.view(batch, views, length)


class OneRowPerView(Denoiser):
    """Block-causal likelihoods of [noisy ; clean] rows under a dense mask, nothing shared.

    The noisy half begins with the first block that has a scored token; prompts without padding.
    """

    def _at(
        self, ids: Tensor, attention_mask: Tensor | None, scored: Tensor, targets: Tensor | None
    ) -> Tensor:
        assert self.block_length is not None and attention_mask is None and targets is not None
        clean = torch.where(ids == self.mask_token_id, targets, ids)
        rows, columns = scored.nonzero(as_tuple=True)
        start = int(columns.min()) // self.block_length * self.block_length
        positions = positions_of(None, ids)
        both = torch.cat([positions[:, start:], positions], dim=1)
        block, noisy = both // self.block_length, torch.zeros_like(both, dtype=torch.bool)
        noisy[:, : ids.shape[1] - start] = True
        query, key = block[:, :, None], block[:, None, :]
        from_noisy = torch.where(noisy[:, None, :], key == query, key < query)
        from_clean = ~noisy[:, None, :] & (key <= query)
        allowed = torch.where(noisy[:, :, None], from_noisy, from_clean)[:, None]
        hidden = self._decode(torch.cat([ids[:, start:], clean], dim=1), both, allowed)
        return hidden[rows, columns - start]


@torch.no_grad()
def plain_sample(
    network: torch.nn.Module,
    prompt: Tensor,
    sampler: Sampler,
    mask_id: int,
    max_steps: int | None = None,
) -> Tensor:
    """LLaDA's published loop: all-position logits, float64 noise, top-k row by row.

    All its steps cost the same, so a bench may stop it after `max_steps` of them.
    """
    batch, start = prompt.shape
    canvas = torch.full((batch, sampler.gen_length), mask_id, device=prompt.device)
    taken = 0
    ids = torch.cat([prompt, canvas], dim=1)
    steps = sampler.steps // sampler.num_blocks
    for block in range(sampler.num_blocks):
        end = start + (block + 1) * sampler.block_length
        left = sampler.block_length
        for step in range(steps):
            if taken == max_steps:
                return ids[:, start:]
            taken += 1
            count = -(-left // (steps - step))
            left -= count
            logits = network(input_ids=ids, use_cache=False).logits
            noisy = logits
            if sampler.temperature:
                noise = torch.rand_like(logits, dtype=torch.float64)
                gumbel = (-torch.log(noise)) ** sampler.temperature
                noisy = logits.double().exp() / gumbel
            tokens = noisy.argmax(-1)
            probs = logits.double().softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            hidden = ids == mask_id
            probs[:, end:] = -torch.inf
            confidence = torch.where(hidden, probs, -torch.inf)
            for row in range(batch):
                chosen = confidence[row].topk(count).indices
                ids[row, chosen] = tokens[row, chosen]
    return ids[:, start:]
