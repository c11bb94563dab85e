"""Two float64 "networks" with a Denoiser's forward, small enough to enumerate every mask.

`JointTable` takes its conditionals from one explicit joint distribution; `RandomConditionals` has
unrelated conditionals for every pattern of hidden tokens, as a trained network does.
"""

from __future__ import annotations

from itertools import permutations, product

import torch
from torch import Tensor, nn

from unmask.maskings import Maskings
from unmask.training.policy_gradient import Completions

VOCABULARY = 3
MASK = VOCABULARY
NUM_CONTEXTS = 5


class JointTable(nn.Module):
    """p(completion | prompt) is one softmax over all VOCABULARY ** length completions."""

    def __init__(self, length: int, seed: int = 0) -> None:
        super().__init__()
        self.length = length
        self.sequences = torch.tensor(list(product(range(VOCABULARY), repeat=length)))
        self.table = _random_parameter(seed, NUM_CONTEXTS, len(self.sequences))

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None, targets: Tensor, scored: Tensor
    ) -> Tensor:
        """See `unmask.models.denoiser.Denoiser.token_logprobs`."""
        context, shown, wanted, asked = _split(self.length, ids, attention_mask, targets, scored)
        rows, columns = asked.nonzero(as_tuple=True)
        observed = shown[rows, None]
        possible = ((observed == MASK) | (observed == self.sequences)).all(-1)
        fits = possible & (wanted[rows, columns][:, None] == self.sequences[:, columns].T)
        scores = self.table[context[rows]]
        return _log_total(scores, fits) - _log_total(scores, possible)

    def log_likelihood(self, prompt: Tensor, completion: Tensor) -> Tensor:
        """The exact log p(completion [L] | prompt [P])."""
        index = (self.sequences == completion).all(-1).nonzero()[0, 0]
        return self.table[_context(prompt[None], None)[0]].log_softmax(-1)[index]


class RandomConditionals(nn.Module):
    """p(y_l | what is shown) is looked up by the whole pattern of shown and hidden tokens."""

    def __init__(self, length: int, seed: int = 0) -> None:
        super().__init__()
        self.length = length
        patterns = (VOCABULARY + 1) ** length
        self.table = _random_parameter(seed, NUM_CONTEXTS, patterns, length, VOCABULARY)

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None, targets: Tensor, scored: Tensor
    ) -> Tensor:
        """See `unmask.models.denoiser.Denoiser.token_logprobs`."""
        context, shown, wanted, asked = _split(self.length, ids, attention_mask, targets, scored)
        pattern = (shown * (VOCABULARY + 1) ** torch.arange(self.length)).sum(-1)
        rows, columns = asked.nonzero(as_tuple=True)
        scores = self.table[context[rows], pattern[rows], columns].log_softmax(-1)
        return scores[torch.arange(len(rows)), wanted[rows, columns]]


def every_mask(model: nn.Module, prompt: Tensor, completion: Tensor) -> tuple[Tensor, Tensor]:
    """All 2 ** L hidden sets and log p of their hidden tokens, bool and float [2 ** L, L]."""
    hidden = torch.tensor(list(product([False, True], repeat=len(completion))))
    return hidden, _hidden_logprobs(model, prompt, completion, hidden)


def order_log_likelihoods(model: nn.Module, prompt: Tensor, completion: Tensor) -> Tensor:
    """Log-likelihood of revealing the completion one token at a time, for all L! orders."""
    length = len(completion)
    orders = torch.tensor(list(permutations(range(length))))
    ranks = orders.argsort(-1)
    hidden = ranks[:, None] >= torch.arange(length)[:, None]
    logp = _hidden_logprobs(model, prompt, completion, hidden.flatten(0, 1))
    revealed = ranks[:, None] == torch.arange(length)[:, None]
    return (logp.view_as(revealed) * revealed).sum((1, 2))


def enumerated_elbo(model: nn.Module, prompt: Tensor, completion: Tensor) -> Tensor:
    """The evidence lower bound as the mean over all orders, a form that no estimator here uses."""
    return order_log_likelihoods(model, prompt, completion).mean()


def one_view_at_a_time(
    model: nn.Module, completions: Completions, maskings: Maskings, mask_id: int = MASK
) -> Tensor:
    """Log p [B, M, L] from one unpadded forward pass per view, all graphs alive at once."""
    result = []
    for row, size in enumerate(completions.prompt_mask.sum(-1).tolist()):
        prompt = completions.prompt_ids[row, completions.prompt_ids.shape[1] - size :]
        completion = completions.completion_ids[row]
        for view in range(maskings.num_views):
            shown = prompt
            if maskings.prompt_hidden is not None:
                marks = maskings.prompt_hidden[row, view]
                shown = prompt.masked_fill(marks[len(marks) - size :], mask_id)
            noisy = completion.masked_fill(maskings.hidden[row, view], mask_id)
            scored = maskings.weight[row, view] > 0
            values = model(
                torch.cat([shown, noisy])[None],
                None,
                torch.cat([prompt, completion])[None],
                torch.cat([torch.zeros(size, dtype=torch.bool), scored])[None],
            )
            result.append(values.new_zeros(scored.shape).masked_scatter(scored, values))
    return torch.stack(result).view(maskings.weight.shape)


def random_completions(
    length: int, prompt_lengths: list[int], seed: int = 0, extra_padding: int = 0
) -> Completions:
    """Random prompts of the given lengths with random completions; padding holds real token ids."""
    generator = torch.Generator().manual_seed(seed)
    batch, width = len(prompt_lengths), max(prompt_lengths) + extra_padding
    completion_ids = torch.randint(VOCABULARY, (batch, length), generator=generator)
    prompt_ids = torch.ones(batch, width, dtype=torch.int64)
    prompt_mask = torch.zeros(batch, width, dtype=torch.int64)
    for row, size in enumerate(prompt_lengths):
        prompt_ids[row, width - size :] = torch.randint(VOCABULARY, (size,), generator=generator)
        prompt_mask[row, width - size :] = 1
    return Completions(prompt_ids, prompt_mask, completion_ids)


def _random_parameter(seed: int, *shape: int) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(*shape, dtype=torch.float64, generator=generator))


def _context(prompt: Tensor, mask: Tensor | None) -> Tensor:
    """Which of NUM_CONTEXTS tables a prompt selects: depends on tokens, places and hidden ones."""
    places = torch.arange(prompt.shape[1], 0, -1)
    tokens = prompt + 1 if mask is None else (prompt + 1) * mask
    return (tokens * places).sum(-1) % NUM_CONTEXTS


def _split(
    length: int, ids: Tensor, attention_mask: Tensor | None, targets: Tensor, scored: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = ids.shape[1] - length
    mask = None if attention_mask is None else attention_mask[:, :width]
    assert not scored[:, :width].any(), "a prompt token is scored"
    context = _context(ids[:, :width], mask)
    return context, ids[:, width:], targets[:, width:], scored[:, width:]


def _log_total(scores: Tensor, keep: Tensor) -> Tensor:
    return scores.masked_fill(~keep, -torch.inf).logsumexp(-1)


def _hidden_logprobs(
    model: nn.Module, prompt: Tensor, completion: Tensor, hidden: Tensor
) -> Tensor:
    """Log p [N, L] of the hidden tokens of each of N hidden sets, 0 elsewhere."""
    prompts = prompt.expand(len(hidden), -1)
    completions = completion.expand(len(hidden), -1)
    scored = torch.cat([torch.zeros_like(prompts, dtype=torch.bool), hidden], dim=1)
    ids = torch.cat([prompts, completions.masked_fill(hidden, MASK)], dim=1)
    values = model(ids, None, torch.cat([prompts, completions], dim=1), scored)
    return values.new_zeros(hidden.shape).masked_scatter(hidden, values)
