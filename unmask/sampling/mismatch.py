"""How far the distribution that tokens were drawn from is from the model's own, and its correction.

Caches and parallel reveals change the policy that makes samples. Two exact conditionals of a token
are compared with the one it was drawn from: by "step", a whole pass over the state in which it was
drawn; by "token", a whole pass in which also the tokens are shown that the same step revealed
before it in reading order, as if tokens were drawn one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from unmask.sampling.candidates import restrict
from unmask.sampling.noise import uniform
from unmask.sampling.sampler import Proposer, Reveal, Samples, guide, without_prompt
from unmask.sampling.settings import Sampler

Conditional = Literal["step", "token"]


class Probe:
    """A uniform sample of the tokens that a run of the sampler reveals; its `on_reveal`.

    Args:
        size: tokens to keep.
        seeds: int64 [B], as given to the sampler: what is kept depends on nothing else.
    """

    def __init__(self, size: int, seeds: Tensor) -> None:
        self._size, self._seeds = size, seeds
        self._keys: Tensor | None = None
        self._kept: dict[str, Tensor] = {}

    def __call__(self, reveal: Reveal) -> None:
        """Look at one denoising step."""
        seeds = self._seeds.to(reveal.step.device)[reveal.flight.rows]
        keys = uniform(seeds, reveal.step, reveal.window, stream=2)
        wanted = reveal.revealed
        if self._keys is not None and len(self._keys) == self._size:
            wanted = wanted & (keys < self._keys.max())
        rows, spots = wanted.nonzero(as_tuple=True)
        if not len(rows):
            return
        places = reveal.window[rows, spots]
        length = reveal.flight.canvas_length
        canvas = reveal.flight.ids[rows, -length:]
        # What the same step reveals before the token.
        together = canvas.scatter(
            1,
            reveal.window[rows],
            torch.where(
                reveal.revealed[rows] & (reveal.window[rows] < places.unsqueeze(-1)),
                reveal.tokens[rows],
                canvas.gather(1, reveal.window[rows]),
            ),
        )
        found = {
            "rows": reveal.flight.rows[rows],
            "places": places,
            "tokens": reveal.tokens[rows, spots],
            "step": canvas,
            "token": together,
            "logq": reveal.logits(reveal.index[rows, spots]).log_softmax(-1),
        }
        every = keys[rows, spots]
        if self._keys is not None:
            every = torch.cat([self._keys, every])
            found = {name: torch.cat([self._kept[name], value]) for name, value in found.items()}
        best = every.argsort(stable=True)[: self._size]
        self._keys = every[best]
        self._kept = {name: value[best] for name, value in found.items()}

    def measure(
        self,
        proposer: Proposer,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        sampler: Sampler,
        max_tokens: int,
    ) -> dict[str, Tensor]:
        """Compare what was kept with whole passes, at temperature 1 over all tokens.

        Args:
            proposer: the model, unchanged since.
            prompt_ids: int64 [B, P], padded on the left.
            prompt_mask: [B, P].
            sampler: as it was run.
            max_tokens: padded tokens of one pass.

        Returns:
            `kl_step` and `kl_token`, KL(drawn from || exact) in nats; `log_ratio_step` and
            `log_ratio_token`, log exact - log drawn from, of the token taken: float32 [n] each.
        """
        result: dict[str, Tensor] = {}
        kept = self._kept
        if not kept:
            return result
        rows, at = kept["rows"], torch.arange(len(kept["rows"]), device=kept["rows"].device)
        logq, tokens = kept["logq"], kept["tokens"].unsqueeze(-1)
        for name in ("step", "token"):
            divergence, ratio = torch.zeros_like(logq[:, 0]), torch.zeros_like(logq[:, 0])
            for piece, logits in _exact_logits(
                proposer,
                prompt_ids[rows],
                prompt_mask[rows],
                kept[name],
                at,
                kept["places"],
                sampler.cfg_scale,
                max_tokens,
            ):
                difference = logq[piece] - logits.log_softmax(-1)
                # What must not be placed has -inf under both.
                terms = logq[piece].exp() * difference
                divergence[piece] = terms.masked_fill(logq[piece].isneginf(), 0.0).sum(-1)
                ratio[piece] = -difference.gather(-1, tokens[piece]).squeeze(-1)
            result |= {f"kl_{name}": divergence, f"log_ratio_{name}": ratio}
        return result


@torch.no_grad()
def log_weights(
    proposer: Proposer,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    samples: Samples,
    sampler: Sampler,
    *,
    by: Conditional,
    max_tokens: int,
) -> Tensor:
    """Logarithms of the importance weights of whole completions, float32 [B].

    log w = sum over the revealed tokens of log p(token | exact conditional) - log q(token), with
    q = `samples.probability` and p at the sampler's temperature, among its top-k and top-p tokens.
    Averages under w are those of a sampler that draws tokens from p at the places that this one
    chose, exactly if places are chosen without a look at the tokens drawn there: `select_first`,
    or another order than low_confidence.

    Args:
        proposer: the model, unchanged since the samples were written.
        prompt_ids: int64 [B, P], padded on the left.
        prompt_mask: [B, P].
        samples: on the proposer's device.
        sampler: as it was run, at a temperature above 0.
        by: which exact conditional; "step" takes a pass per denoising step, "token" one per token.
        max_tokens: padded tokens of one pass.
    """
    taken = samples.step_map < sampler.steps
    order = _order(samples.step_map, taken, by)
    result = -(samples.probability.log() * taken).sum(-1)
    count = int(order.max()) + 1 if order.numel() else 0
    mask_id = proposer.mask_token_id
    for moment in range(count):
        now = order == moment
        states = now.any(-1).nonzero().squeeze(-1)
        later = (order[states] >= moment) | (order[states] < 0)
        canvas = samples.completion_ids[states].masked_fill(later, mask_id)
        at, places = now[states].nonzero(as_tuple=True)
        tokens = samples.completion_ids[states[at], places].unsqueeze(-1)
        for piece, logits in _exact_logits(
            proposer,
            prompt_ids[states],
            prompt_mask[states],
            canvas,
            at,
            places,
            sampler.cfg_scale,
            max_tokens,
        ):
            scaled = restrict(logits / sampler.temperature, sampler.top_k, sampler.top_p)
            logp = scaled.log_softmax(-1).gather(-1, tokens[piece]).squeeze(-1)
            result.index_add_(0, states[at[piece]], logp)
    return result


def effective_sample_size(log_weights: Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of n weights given as logarithms: 1 where all weigh the same."""
    if not len(log_weights):
        return float("nan")
    weights = (log_weights.double() - log_weights.max()).exp()
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def _order(step_map: Tensor, taken: Tensor, by: Conditional) -> Tensor:
    """When each token's exact conditional is taken, from 0 without gaps: int64 [B, L], -1 = never.

    By step, tokens of a step share a moment; by token, they follow each other in reading order.
    """
    places = torch.arange(step_map.shape[1], device=step_map.device)
    keys = step_map * step_map.shape[1] + (places if by == "token" else 0)
    keys = keys.masked_fill(~taken, -1)
    ordered, back = keys.sort(dim=-1)
    fresh = torch.zeros_like(ordered)
    fresh[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    rank = fresh.cumsum(-1).gather(1, back.argsort(-1))
    # Where some tokens were never revealed, those have rank 0.
    rank = rank - (~taken).any(-1, keepdim=True).long()
    return rank.masked_fill(~taken, -1)


@torch.no_grad()
def _exact_logits(
    proposer: Proposer,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    canvas: Tensor,
    at: Tensor,
    places: Tensor,
    cfg_scale: float,
    max_tokens: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [C, V] of whole passes over n states, and which of the S places they are of.

    Args:
        proposer: the model.
        prompt_ids: int64 [n, P].
        prompt_mask: [n, P].
        canvas: int64 [n, L].
        at: int64 [S], states, in order.
        places: int64 [S], columns of the canvas.
        cfg_scale: guidance.
        max_tokens: padded tokens of one pass.
    """
    lengths = prompt_mask.sum(-1)
    length = canvas.shape[1]
    # Lengths that differ little share a pass.
    order = lengths.argsort(stable=True)
    while len(order):
        longest = int(lengths[order[-1]])
        room = max(1, max_tokens // (longest + length))
        group, order = order[-room:], order[:-room]
        start = prompt_ids.shape[1] - longest
        ids = torch.cat([prompt_ids[group, start:], canvas[group]], dim=1)
        attention = None
        if int(lengths[group[0]]) < longest:
            mask = prompt_mask[group, start:]
            attention = torch.cat([mask, mask.new_ones(len(group), length)], dim=1)
        slot = torch.full_like(lengths, -1)
        slot[group] = torch.arange(len(group), device=slot.device)
        chosen = (slot[at] >= 0).nonzero().squeeze(-1)
        rows, columns = slot[at[chosen]], places[chosen] + longest
        states = [proposer.states(ids, attention, rows, columns)]
        if cfg_scale:
            blank = without_prompt(ids, length, proposer.mask_token_id)
            states.append(proposer.states(blank, attention, rows, columns))
        for first in range(0, len(chosen), proposer.chunk_size):
            piece = slice(first, first + proposer.chunk_size)
            logits = guide([proposer.logits(part[piece]) for part in states], cfg_scale)
            yield chosen[piece], logits
