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
from unmask.models.settings import Promising
from unmask.objectives.base import Objective, ObjectiveInputs, ObjectiveOutput
from unmask.training.packing import Passes, Slice, cuts_through, plan_slices


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
    arguments, scored = _model_inputs(completions, maskings, part, mask_token_id)
    if maskings.candidates is not None:
        arguments = (*arguments, maskings.candidates[part.rows, part.views][scored])
    values = model(*arguments)
    return values.new_zeros(scored.shape).masked_scatter(scored, values)


@torch.no_grad()
def with_candidates(
    reference: nn.Module,
    completions: Completions,
    maskings: Maskings,
    promising: Promising,
    *,
    mask_token_id: int,
    max_tokens: int,
    engine: Engine = Engine(),
) -> Maskings:
    """The maskings with the reference policy's promising tokens as `candidates`.

    Args:
        reference: a `Denoiser`, or what accelerate made of one.
        completions: B sequences.
        maskings: their views.
        promising: how many tokens.
        mask_token_id: the token that stands for "hidden".
        max_tokens: padded tokens of one forward pass.
        engine: agrees on the number of passes.
    """
    passes = Passes.of(maskings)
    slices = _plan(completions, passes, passes.needed, max_tokens)
    found: Tensor | None = None
    for index in range(engine.agree_on_slices(len(slices))):
        part = _slice(slices, index)
        arguments, scored = _model_inputs(completions, passes.maskings, part, mask_token_id)
        tokens = reference(*arguments, None, promising)
        if found is None:
            found = tokens.new_full((*maskings.weight.shape, tokens.shape[-1]), -1)
        values = tokens.new_full((*scored.shape, tokens.shape[-1]), -1)
        values[scored] = tokens
        found[part.rows, part.views] = values
    if found is None:
        return maskings
    source = passes.source[..., None, None].expand_as(found)
    return replace(maskings, candidates=found.gather(1, source))


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
    passes = Passes.of(maskings)
    slices = _plan(completions, passes, passes.needed, max_tokens)
    return passes.spread(_run(model, completions, passes, slices, mask_token_id, engine))


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
    passes = Passes.of(maskings)
    slices = _plan(completions, passes, passes.needed, max_tokens)

    def gradient_of(values: Tensor) -> Tensor:
        """d loss / d logp of the views that are run, from their logp: [B, M, L] both."""
        leaf = passes.spread(values).requires_grad_()
        with torch.enable_grad():
            loss = evaluate(leaf).loss
        if not loss.requires_grad:
            return torch.zeros_like(leaf)
        return passes.collect(torch.autograd.grad(loss, leaf)[0])

    def evaluate(logp: Tensor) -> ObjectiveOutput:
        old = logp.detach() if on_policy else inputs.old_logp
        return objective(replace(inputs, logp=logp, old_logp=old))

    # What a slice does not hold is filled with any finite value: without a first pass, no
    # sequence's derivative reads another's logp, and no draw of a separable objective another draw.
    values = torch.zeros_like(maskings.weight) if on_policy else inputs.old_logp.detach().clone()
    gradient = None
    separable = objective.separable_on_policy if on_policy else objective.separable
    unit = maskings.views_per_draw if separable else maskings.num_views
    first_pass = cuts_through(slices, passes, unit) or (objective.pairwise and len(slices) > 1)
    if engine.agree_on_slices(int(first_pass)):
        values = _run(model, completions, passes, slices, mask_token_id, engine)
        gradient = gradient_of(values)
        # What has no gradient (a group of equal rewards, a clipped ratio) is not run again.
        slices = _plan(completions, passes, (gradient != 0).any(-1), max_tokens)
    # At least one pass, so that every parameter has a gradient: an optimizer's momentum goes on.
    num_slices = max(engine.agree_on_slices(len(slices)), 1)
    for index in range(num_slices):
        part = _slice(slices, index)
        last = index == num_slices - 1
        with nullcontext() if last else engine.no_sync():
            logp = view_logprobs(model, completions, passes.maskings, part, mask_token_id)
            values = values.to(logp.dtype)
            values[part.rows, part.views] = logp.detach()
            weights = gradient_of(values) if gradient is None else gradient
            weights = weights[part.rows, part.views]
            if index >= len(slices):
                weights = torch.zeros_like(weights)  # another rank has more slices
            engine.backward((logp * weights).sum() * engine.scale)
    logp = passes.spread(values)
    with torch.no_grad():
        return evaluate(logp), logp


def _plan(completions: Completions, passes: Passes, needed: Tensor, max_tokens: int) -> list[Slice]:
    lengths = completions.prompt_lengths + completions.completion_ids.shape[1]
    return plan_slices(lengths.cpu(), needed, passes.maskings.views_per_draw, max_tokens)


def _model_inputs(
    completions: Completions, maskings: Maskings, part: Slice, mask_token_id: int
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    """What the model gets for some views, without needless padding, and `scored` [N, L]."""
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
    return (torch.cat([prompt, noisy], dim=1), attention, targets, everywhere), scored


def _slice(slices: list[Slice], index: int) -> Slice:
    """Slice `index`; where a rank has fewer than others, its last, or else any one view."""
    if not slices:
        return Slice(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return slices[min(index, len(slices) - 1)]


@torch.no_grad()
def _run(
    model: nn.Module,
    completions: Completions,
    passes: Passes,
    slices: list[Slice],
    mask_token_id: int,
    engine: Engine,
) -> Tensor:
    """log p of the views that are run, without a graph: [B, M, L] in the model's dtype."""
    result = torch.zeros_like(passes.maskings.weight)
    for index in range(engine.agree_on_slices(len(slices))):
        part = _slice(slices, index)
        values = view_logprobs(model, completions, passes.maskings, part, mask_token_id)
        result = result.to(values.dtype)
        result[part.rows, part.views] = values
    return result
