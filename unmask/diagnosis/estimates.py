"""Bias and variance of likelihood estimators on fixed completions, over repeated draws.

Every estimator is compared with one target, the ELBO of each completion. Estimators of another
quantity (mean field, a trajectory) are measured against it too: their bias is what they leave out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from math import comb, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from unmask.estimators import (
    ELBO,
    Block,
    CoupledTime,
    DrawContext,
    Estimator,
    LeftToRight,
    OneStep,
    Quadrature,
    TimeUniform,
    Trajectory,
)
from unmask.likelihood import draw_estimates
from unmask.maskings import Maskings, derive_seed
from unmask.maskings_trajectory import last_steps
from unmask.training.policy_gradient import Completions, evaluate_logprobs

# Up to this canvas the ELBO is enumerated: 2^6 - 1 hidden sets.
LONGEST_ENUMERATED = 6
TARGET_REPEATS = 32

# A round of one update makes spaced_time the same as time_uniform, so it is not listed.
CANDIDATES: dict[str, Estimator] = {
    "elbo": ELBO(coupled=False, stratified=False),
    "elbo_stratified": ELBO(coupled=False, stratified=True),
    "elbo_coupled": ELBO(coupled=True, stratified=False),
    "elbo_coupled_stratified": ELBO(coupled=True, stratified=True),
    "time_uniform": TimeUniform(stratified=False),
    "time_uniform_stratified": TimeUniform(stratified=True),
    "quadrature": Quadrature(),
    "coupled_time": CoupledTime(),
    "block": Block(),
    "trajectory": Trajectory(until="first_eos"),
    "one_step": OneStep(),
    "left_to_right": LeftToRight(),
}


@dataclass(frozen=True)
class Subject:
    """The completions that everything is measured on, and the model.

    Attributes:
        model: a `Denoiser`, or anything with its forward.
        completions: B sequences.
        lengths: int [B], tokens up to and including the first EOS.
        step_map: int [B, L], see `DrawContext`.
        eos: bool [B, L], or None.
        mask_token_id: the token that stands for "hidden".
        max_tokens: padded tokens of one forward pass.
        seed: of all draws.
        entropy: float [B, L] or None, see `DrawContext`.
    """

    model: nn.Module
    completions: Completions
    lengths: Tensor
    step_map: Tensor
    eos: Tensor | None
    mask_token_id: int
    max_tokens: int
    seed: int
    entropy: Tensor | None = None

    @property
    def canvas(self) -> int:
        """L."""
        return self.completions.completion_ids.shape[1]

    def maskings(self, estimator: Estimator, *stream: int | str) -> Maskings:
        """Maskings of every completion, each from a generator of (seed, stream, completion)."""
        ids = self.completions.completion_ids
        context = DrawContext(
            seeds=[derive_seed("diagnose", self.seed, *stream, row) for row in range(len(ids))],
            lengths=self.lengths,
            prompt_lengths=self.completions.prompt_lengths.cpu(),
            canvas=self.canvas,
            step_map=self.step_map,
            eos=self.eos,
            entropy=self.entropy,
        )
        return estimator.draw(context).to(ids.device)

    def estimates(self, maskings: Maskings) -> Tensor:
        """The estimate of every draw, float64 [B, J] on the CPU."""
        logp = evaluate_logprobs(
            self.model,
            self.completions,
            maskings,
            mask_token_id=self.mask_token_id,
            max_tokens=self.max_tokens,
        )
        views = maskings.views_per_draw
        return draw_estimates(logp.double(), maskings.weight.double(), views).cpu()

    def scale(self, estimator: Estimator) -> Tensor:
        """What turns an estimate into one of the whole completion: float64 [B].

        A trajectory's is the mean over its T_i steps.
        """
        if not isinstance(estimator, Trajectory):
            return torch.ones(len(self.lengths), dtype=torch.float64)
        until_eos = estimator.until == "first_eos"
        last = last_steps(self.step_map, self.lengths, self.eos, until_eos=until_eos)
        return (last // estimator.shrink + 1).double()


@dataclass(frozen=True)
class Target:
    """The ELBO of each completion.

    Attributes:
        value: float64 [B].
        noise: float64 [B], variance of `value`; 0 where it is enumerated.
        num_draws: coupled draws behind each value; None where it is enumerated.
    """

    value: Tensor
    noise: Tensor
    num_draws: int | None


@dataclass(frozen=True)
class Moments:
    """What repeated estimates of each completion look like.

    Attributes:
        num_mc: draws of one estimate.
        mean: float64 [B].
        variance: float64 [B], of one estimate.
        noise: float64 [B], variance of `mean`.
        views: forward passes of one estimate.
        seconds: of one estimate of one completion.
    """

    num_mc: int
    mean: Tensor
    variance: Tensor
    noise: Tensor
    views: int
    seconds: float

    def against(self, target: Target) -> dict[str, Any]:
        """Averages over completions: bias with its standard error, variance, error.

        The standard error is that of the draws, for these completions. `rmse` counts only the part
        of the squared bias that is above its noise.
        """
        bias = self.mean - target.value
        noise = self.noise + target.noise
        variance = self.variance.mean().item()
        squared_bias = max(0.0, (bias.square() - noise).mean().item())
        return {
            "num_mc": self.num_mc,
            "views": self.views,
            "variance": variance,
            "std": sqrt(variance),
            "bias": bias.mean().item(),
            "bias_se": noise.sum().sqrt().item() / len(bias),
            "rmse": sqrt(variance + squared_bias),
            "seconds": self.seconds,
        }


def elbo_target(subject: Subject, num_draws: int) -> Target:
    """The ELBO, enumerated for a canvas of up to 6 tokens and estimated otherwise.

    Args:
        subject: the completions.
        num_draws: coupled draws per completion, spread over 32 independent stratified sets, from
            whose scatter the noise is taken.
    """
    if subject.canvas <= LONGEST_ENUMERATED:
        value = subject.estimates(_every_hidden_set(subject)).squeeze(1)
        return Target(value, torch.zeros_like(value), None)
    estimator = ELBO(num_mc=-(-num_draws // TARGET_REPEATS), coupled=True, stratified=True)
    sets = _repeated(subject, estimator, "target", TARGET_REPEATS).mean(-1)
    noise = sets.var(1) / TARGET_REPEATS
    return Target(sets.mean(1), noise, TARGET_REPEATS * estimator.num_mc)


def estimator_moments(
    subject: Subject, name: str, estimator: Estimator, num_mc: Sequence[int], repeats: int
) -> list[Moments]:
    """Moments of an estimator by number of draws.

    Draws that are independent of each other are made once: with M of them the variance is that of
    one draw over M. Stratified draws, and others that know of each other, are made anew for each M.

    Args:
        subject: the completions.
        name: of the stream of random numbers.
        estimator: its own num_mc is not read.
        num_mc: numbers of draws M; one estimate as it is where the estimator has no num_mc.
        repeats: independent estimates of every completion, for the largest M.
    """
    if not any(field.name == "num_mc" for field in fields(estimator)):  # type: ignore[arg-type]
        return [_measured(subject, name, estimator, 1, repeats)]
    sized = [replace(estimator, num_mc=count) for count in num_mc]  # type: ignore[type-var]
    if not _independent(estimator):
        pairs = zip(sized, num_mc, strict=True)
        return [_measured(subject, name, each, count, repeats) for each, count in pairs]
    largest = max(num_mc)
    one = _measured(
        subject, name, sized[list(num_mc).index(largest)], largest, repeats, singly=True
    )
    return [
        replace(
            one,
            num_mc=count,
            variance=one.variance / count,
            views=one.views * count,
            seconds=one.seconds * count,
        )
        for count in num_mc
    ]


def _measured(
    subject: Subject,
    name: str,
    estimator: Estimator,
    num_mc: int,
    repeats: int,
    *,
    singly: bool = False,
) -> Moments:
    """Moments of the mean over draws, or of every draw by itself."""
    if isinstance(estimator, LeftToRight):
        repeats = 1  # nothing is random
    began = time.monotonic()
    draws = _repeated(subject, estimator, name, repeats, num_mc)
    seconds = time.monotonic() - began
    draws = draws * subject.scale(estimator)[:, None, None]
    values = draws.flatten(1) if singly else draws.mean(-1)
    count = values.shape[1]
    variance = values.var(1, correction=min(1, count - 1))
    views = subject.maskings(estimator, name).num_views
    return Moments(
        1 if singly else num_mc,
        values.mean(1),
        variance,
        variance / count,
        views // num_mc if singly else views,
        seconds / values.numel(),
    )


def _repeated(
    subject: Subject, estimator: Estimator, name: str, repeats: int, num_mc: int = 0
) -> Tensor:
    """Estimates of independent repetitions: float64 [B, repeats, J]."""
    return torch.stack(
        [
            subject.estimates(subject.maskings(estimator, name, num_mc, repeat))
            for repeat in range(repeats)
        ],
        dim=1,
    )


def _independent(estimator: Estimator) -> bool:
    if isinstance(estimator, ELBO | TimeUniform):
        return not estimator.stratified
    return isinstance(estimator, CoupledTime)


def _every_hidden_set(subject: Subject) -> Maskings:
    """All 2^L - 1 hidden sets as one draw; a set of k tokens counts 1 / (k C(L, k)) per token."""
    length = subject.canvas
    hidden = torch.tensor(list(product([False, True], repeat=length)))[1:]
    shares = [1 / (k * comb(length, k)) for k in hidden.sum(-1).tolist()]
    share = torch.tensor(shares, dtype=torch.float64)
    batch = len(subject.lengths)
    maskings = Maskings(
        hidden.expand(batch, -1, -1),
        (hidden * share[:, None]).expand(batch, -1, -1),
        views_per_draw=len(hidden),
    )
    return maskings.to(subject.completions.completion_ids.device)
