"""The exact gradient of any objective, in memory that does not grow with the number of views.

An objective only sees logp [B, M, L], so d loss / d logp is a small tensor. Where the views of a
sequence do not fit in one pass: evaluate logp for all of them without a graph; differentiate the
objective on that small leaf; run each slice again with a graph and backpropagate
(logp * gradient).sum(). One slice's graph is alive at a time, and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unmask.maskings import Maskings
from unmask.objectives.base import Objective, ObjectiveInputs, ObjectiveOutput


@dataclass(frozen=True)
class Completions:
    """The token ids that likelihoods are taken of.

    Attributes:
        prompt_ids: int64 [B, P], padded on the left.
        prompt_mask: int64 [B, P], 1 for real tokens.
        completion_ids: int64 [B, L].
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor

    @property
    def prompt_lengths(self) -> Tensor:
        """Real tokens of each prompt, int64 [B]."""
        return self.prompt_mask.sum(-1)


@dataclass(frozen=True)
class Slice:
    """Views that share a forward pass: view `views[i]` of sequence `rows[i]`, int64 [N] each."""

    rows: Tensor
    views: Tensor


@dataclass(frozen=True)
class Engine:
    """How a process group runs a backward pass; the defaults are one plain process.

    Attributes:
        backward: called on a scalar that carries the slice's graph.
        no_sync: a context for every slice but the last: no gradient exchange yet.
        agree_on_slices: the largest number of slices over all ranks, so that every rank makes as
            many passes.
        scale: multiplies the loss, to undo an averaging over ranks.
    """

    backward: Callable[[Tensor], None] = torch.Tensor.backward
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext
    agree_on_slices: Callable[[int], int] = int
    scale: float = 1.0


def plan_slices(
    lengths: Tensor, num_views: int, views_per_draw: int, max_tokens: int
) -> list[Slice]:
    """Pack views into slices of at most `max_tokens` padded tokens, longest sequences first.

    A sequence's views stay together where they fit, whole draws where not. A slice always holds at
    least one view, also where that is over the budget.

    Args:
        lengths: int [B], prompt plus canvas tokens of each sequence.
        num_views: M.
        views_per_draw: consecutive views that make one draw.
        max_tokens: budget of a slice.
    """
    slices: list[Slice] = []
    rows: list[int] = []
    views: list[int] = []
    width = 0
    for row in lengths.argsort(descending=True, stable=True).tolist():
        length = int(lengths[row])
        for piece in _pieces(num_views, views_per_draw, max_tokens // length):
            if rows and (len(rows) + len(piece)) * width > max_tokens:
                slices.append(Slice(torch.tensor(rows), torch.tensor(views)))
                rows, views = [], []
            if not rows:
                width = length
            rows += [row] * len(piece)
            views += piece
    slices.append(Slice(torch.tensor(rows), torch.tensor(views)))
    return slices


def view_logprobs(
    model: nn.Module, completions: Completions, maskings: Maskings, part: Slice, mask_token_id: int
) -> Tensor:
    """log p of the scored completion tokens of some views; 0 where not scored.

    Args:
        model: a `Denoiser`, or what accelerate made of one.
        completions: B sequences.
        maskings: their views.
        part: the N views to evaluate.
        mask_token_id: the token that stands for "hidden".

    Returns:
        float [N, L] in the model's dtype, with a graph unless under `torch.no_grad`.
    """
    rows, views = part.rows, part.views
    lengths = completions.prompt_lengths[rows]
    width = completions.prompt_ids.shape[1]
    longest = int(lengths.max())
    padding = width - longest
    prompt = completions.prompt_ids[rows, padding:]
    if maskings.prompt_hidden is not None:
        hidden = maskings.prompt_hidden[rows, views]
        hidden = hidden[:, hidden.shape[1] - longest :]
        prompt = prompt.masked_fill(hidden, mask_token_id)
    completion = completions.completion_ids[rows]
    noisy = completion.masked_fill(maskings.hidden[rows, views], mask_token_id)
    scored = maskings.scored[rows, views]
    attention = None
    if bool((lengths < longest).any()):
        mask = completions.prompt_mask[rows, padding:]
        attention = torch.cat([mask, torch.ones_like(completion)], dim=1)
    everywhere = torch.cat([torch.zeros_like(prompt, dtype=torch.bool), scored], dim=1)
    targets = torch.cat([prompt, completion], dim=1)
    values = model(torch.cat([prompt, noisy], dim=1), attention, targets, everywhere)
    return values.new_zeros(scored.shape).masked_scatter(scored, values)


@torch.no_grad()
def evaluate_logprobs(
    model: nn.Module,
    completions: Completions,
    maskings: Maskings,
    *,
    mask_token_id: int,
    max_tokens: int,
    engine: Engine = Engine(),
) -> Tensor:
    """log p of every scored token of every view, without a graph: [B, M, L] in its dtype."""
    slices = _plan(completions, maskings, max_tokens)
    result = torch.zeros_like(maskings.weight)
    for index in range(engine.agree_on_slices(len(slices))):
        part = slices[min(index, len(slices) - 1)]
        values = view_logprobs(model, completions, maskings, part, mask_token_id)
        result = result.to(values.dtype)
        result[part.rows, part.views] = values
    return result


def streamed_backward(
    model: nn.Module,
    completions: Completions,
    maskings: Maskings,
    objective: Objective,
    inputs: ObjectiveInputs,
    *,
    on_policy: bool,
    mask_token_id: int,
    max_tokens: int,
    engine: Engine = Engine(),
) -> tuple[ObjectiveOutput, Tensor]:
    """Add the exact gradient of `objective` to the parameters' `.grad`, one slice at a time.

    Args:
        model: a `Denoiser`, or what accelerate made of one.
        completions: B sequences, whole groups.
        maskings: their views.
        objective: any objective.
        inputs: all but `logp`, which is filled in here.
        on_policy: the current policy made the rollout, so that `old_logp` is `logp` itself and
            the given one is not read.
        mask_token_id: the token that stands for "hidden".
        max_tokens: padded tokens of one slice.
        engine: how to run a backward pass.

    Returns:
        The objective's output on all views, detached, and logp [B, M, L] in the model's dtype.
    """
    slices = _plan(completions, maskings, max_tokens)
    num_slices = engine.agree_on_slices(len(slices))

    def evaluate(logp: Tensor) -> ObjectiveOutput:
        old = logp.detach() if on_policy else inputs.old_logp
        return objective(replace(inputs, logp=logp, old_logp=old))

    def forward(part: Slice) -> Tensor:
        return view_logprobs(model, completions, maskings, part, mask_token_id)

    # What a slice does not hold is filled with any finite value: no sequence's derivative reads
    # another's logp, and a separable objective's draw reads no other draw.
    logp = torch.zeros_like(maskings.weight) if on_policy else inputs.old_logp.detach().clone()
    gradient = None
    if engine.agree_on_slices(int(_needs_first_pass(slices, maskings, objective))):
        logp = evaluate_logprobs(
            model,
            completions,
            maskings,
            mask_token_id=mask_token_id,
            max_tokens=max_tokens,
            engine=engine,
        )
        gradient = _derivative(evaluate, logp, Slice(*torch.ones_like(logp[..., 0]).nonzero().T))
        gradient = gradient.view_as(logp)
    for index in range(num_slices):
        part = slices[min(index, len(slices) - 1)]
        last = index == num_slices - 1
        with nullcontext() if last else engine.no_sync():
            values = forward(part)
            logp = logp.to(values.dtype)
            logp[part.rows, part.views] = values.detach()
            if gradient is None:
                weights = _derivative(evaluate, logp, part)
            else:
                weights = gradient[part.rows, part.views]
            if index >= len(slices):
                weights = torch.zeros_like(weights)  # another rank has more slices
            engine.backward((values * weights).sum() * engine.scale)
    with torch.no_grad():
        return evaluate(logp), logp


def _plan(completions: Completions, maskings: Maskings, max_tokens: int) -> list[Slice]:
    lengths = completions.prompt_lengths + completions.completion_ids.shape[1]
    return plan_slices(lengths.cpu(), maskings.num_views, maskings.views_per_draw, max_tokens)


def _pieces(num_views: int, views_per_draw: int, room: int) -> list[list[int]]:
    """The views of one sequence in pieces of at most `room`, cut between draws if possible."""
    if room >= views_per_draw:
        room -= room % views_per_draw
    room = min(max(room, 1), num_views)
    views = list(range(num_views))
    return [views[start : start + room] for start in range(0, num_views, room)]


def _needs_first_pass(slices: list[Slice], maskings: Maskings, objective: Objective) -> bool:
    """Whether some slice cuts through what the objective's derivative is taken over."""
    unit = maskings.views_per_draw if objective.separable else maskings.num_views
    for part in slices:
        keys = part.rows * maskings.num_views + part.views - part.views % unit
        if (torch.unique(keys, return_counts=True)[1] < unit).any():
            return True
    return False


def _derivative(evaluate: Callable[[Tensor], ObjectiveOutput], logp: Tensor, part: Slice) -> Tensor:
    """d loss / d logp [N, L] of the views in `part`."""
    with torch.enable_grad():
        leaf = logp[part.rows, part.views].detach().requires_grad_()
        loss = evaluate(logp.index_put((part.rows, part.views), leaf)).loss
        if not loss.requires_grad:
            return torch.zeros_like(leaf)
        return torch.autograd.grad(loss, leaf)[0]
