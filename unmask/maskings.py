"""Which tokens a Monte Carlo draw hides, and what each hidden token's log-probability is worth.

A masking is a value: it is drawn from a generator of its own, stored with the rollout, and served
unchanged to the current, the old and the reference policy. Nothing here knows of a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Maskings:
    """M views of each of B completions; an estimate is `(weight * logp).sum(-1)` per view.

    A draw is `views_per_draw` consecutive views (a coupled draw is two). The estimate of a draw is
    the sum over its views, that of a sequence the mean over its draws; `weight` holds every other
    factor. A token is scored where `weight > 0`.

    One coupled draw of a completion of L = 3 with k = 1 hidden first, weights (L+1)/k / 2 and
    (L+1)/(L-k) / 2:

        hidden = [[[0, 1, 0], [1, 0, 1]]]      weight = [[[0, 2, 0], [1, 0, 1]]]

    Attributes:
        hidden: bool [B, M, L], True where the token is replaced by the mask token.
        weight: float [B, M, L], 0 where the token is not scored.
        prompt_hidden: bool [B, M, P], True where a prompt token is replaced by the mask token, or
            None where prompts stay clean. Aligned with prompts padded on the left.
        views_per_draw: consecutive views that make one draw.
        candidates: int [B, M, L, C], the tokens that the softmax of each scored token runs over,
            -1 = none, or None for the whole vocabulary; see `Denoiser.token_logprobs`.
    """

    hidden: Tensor
    weight: Tensor
    prompt_hidden: Tensor | None = None
    views_per_draw: int = 1
    candidates: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that do not belong together."""
        if self.hidden.dim() != 3 or self.hidden.shape != self.weight.shape:
            raise ValueError(
                f"hidden {list(self.hidden.shape)} and weight {list(self.weight.shape)}: "
                "both must be [B, M, L]"
            )
        if self.views_per_draw < 1 or self.num_views % self.views_per_draw:
            raise ValueError(
                f"{self.num_views} views cannot be split into draws of {self.views_per_draw}: "
                "give a number of views that views_per_draw divides"
            )
        prompt = self.prompt_hidden
        if prompt is not None and (prompt.dim() != 3 or prompt.shape[:2] != self.hidden.shape[:2]):
            raise ValueError(
                f"prompt_hidden {list(prompt.shape)} does not fit hidden "
                f"{list(self.hidden.shape)}: it must be [B, M, P]"
            )

    @property
    def num_views(self) -> int:
        """M, the forward passes of one estimate."""
        return self.hidden.shape[1]

    @property
    def num_draws(self) -> int:
        """Monte Carlo draws per sequence, M / views_per_draw."""
        return self.num_views // self.views_per_draw

    @property
    def scored(self) -> Tensor:
        """Bool [B, M, L], True where a token's log-probability enters the estimate."""
        return self.weight > 0

    def to(self, device: torch.device | str) -> Maskings:
        """The same maskings on another device."""
        prompt = None if self.prompt_hidden is None else self.prompt_hidden.to(device)
        tokens = None if self.candidates is None else self.candidates.to(device)
        return Maskings(
            self.hidden.to(device), self.weight.to(device), prompt, self.views_per_draw, tokens
        )


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any number of parts, the same on every machine (BLAKE2b).

    Args:
        parts: what the stream belongs to, such as ("masking", run seed, iteration, sequence id).

    Returns:
        An int in [0, 2**63).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def make_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per sequence, so that a draw depends on its own seed and nothing else."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw_elbo(
    generators: Sequence[torch.Generator],
    length: int,
    num_mc: int,
    *,
    coupled: bool = False,
    stratified: bool = True,
    include_zero: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """Random-count ELBO draws (LLaDA, arXiv 2502.09992; ESPO, arXiv 2512.03759).

    Uncoupled: a count k ~ U{1..L}, then k of the L positions, weight L/k on each; with
    `include_zero`, k ~ U{0..L} and weight (L+1)/k, where k = 0 contributes nothing. Both are
    unbiased for the ELBO. Coupled (antithetic): k ~ U{0..L}; one view hides the k positions
    with weight (L+1)/k, a second their complement with weight (L+1)/(L-k), each halved, so that
    every token is scored once per draw.

    Args:
        generators: one per sequence, B in all.
        length: L, the completion canvas in tokens.
        num_mc: draws per sequence; a coupled draw is two views.
        coupled: draw pairs of complementary views.
        stratified: space a sequence's counts evenly from one random start, in integers.
        include_zero: the k ~ U{0..L} form for uncoupled draws.
        dtype: of the weights.

    Raises:
        ValueError: if `length` or `num_mc` is below 1.
    """
    _require_positive(length=length, num_mc=num_mc)
    lowest = 0 if coupled or include_zero else 1
    num_counts = length + 1 - lowest
    counts, hidden = [], []
    for generator in generators:
        if stratified:
            start = torch.randint(num_counts, (1,), generator=generator)
            offsets = torch.tensor([j * num_counts // num_mc for j in range(num_mc)])
            count = (start + offsets) % num_counts + lowest
        else:
            count = torch.randint(num_counts, (num_mc,), generator=generator) + lowest
        order = torch.rand(num_mc, length, dtype=torch.float64, generator=generator).argsort(-1)
        counts.append(count)
        hidden.append(order.argsort(-1) < count[:, None])
    count = torch.stack(counts).unsqueeze(-1)
    first = torch.stack(hidden)
    first_weight = num_counts / count.clamp(min=1).to(dtype) * first
    if not coupled:
        return Maskings(first, first_weight)
    second = ~first
    second_weight = num_counts / (length - count).clamp(min=1).to(dtype) * second
    return Maskings(
        torch.stack([first, second], dim=2).flatten(1, 2),
        torch.stack([first_weight, second_weight], dim=2).flatten(1, 2) / 2,
        views_per_draw=2,
    )


def draw_time_uniform(
    generators: Sequence[torch.Generator],
    length: int,
    num_mc: int,
    *,
    stratified: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """Time-uniform ELBO draws: t ~ U(0, 1], each token hidden with probability t, weight 1/t.

    The form of LLaDA's training loss and of BGPO (arXiv 2510.11683). t has no floor: a floor
    biases the estimate.

    Args:
        generators: one per sequence, B in all.
        length: L, the completion canvas in tokens.
        num_mc: draws per sequence.
        stratified: space a sequence's times evenly from one random start.
        dtype: of the weights.

    Raises:
        ValueError: if `length` or `num_mc` is below 1.
    """
    _require_positive(length=length, num_mc=num_mc)
    times, noise = [], []
    for generator in generators:
        if stratified:
            start = torch.rand(1, dtype=torch.float64, generator=generator)
            uniform = (start + torch.arange(num_mc, dtype=torch.float64) / num_mc) % 1
        else:
            uniform = torch.rand(num_mc, dtype=torch.float64, generator=generator)
        times.append(1 - uniform)
        noise.append(torch.rand(num_mc, length, dtype=torch.float64, generator=generator))
    time = torch.stack(times).unsqueeze(-1)
    hidden = torch.stack(noise) < time
    return Maskings(hidden, (hidden / time).to(dtype))


def draw_one_step(
    generators: Sequence[torch.Generator],
    lengths: Tensor,
    length: int,
    *,
    prompt_lengths: Tensor | None = None,
    p_mask_prompt: float = 0.15,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """One-step mean field (d1, arXiv 2504.12216): hide the whole completion, score it once.

    Tokens up to and including the first EOS are scored with weight 1. Each prompt token is hidden
    with probability `p_mask_prompt`.

    Args:
        generators: one per sequence, B in all.
        lengths: int [B], tokens up to and including the first EOS.
        length: L, the completion canvas in tokens.
        prompt_lengths: int [B], real tokens of each prompt; None leaves prompts clean.
        p_mask_prompt: probability in [0, 1] that a prompt token is hidden.
        dtype: of the weights.

    Raises:
        ValueError: if `length` is below 1 or `p_mask_prompt` is no probability.
    """
    _require_positive(length=length)
    if not 0 <= p_mask_prompt <= 1:
        raise ValueError(f"p_mask_prompt={p_mask_prompt} is no probability: give one in [0, 1]")
    lengths = lengths.cpu()
    hidden = torch.ones(len(generators), 1, length, dtype=torch.bool)
    weight = (torch.arange(length) < lengths[:, None]).to(dtype).unsqueeze(1)
    if prompt_lengths is None or p_mask_prompt == 0:
        return Maskings(hidden, weight)
    width = int(prompt_lengths.max())
    prompt_hidden = torch.zeros(len(generators), 1, width, dtype=torch.bool)
    for row, (generator, size) in enumerate(zip(generators, prompt_lengths.tolist(), strict=True)):
        noise = torch.rand(size, dtype=torch.float64, generator=generator)
        prompt_hidden[row, 0, width - size :] = noise < p_mask_prompt
    return Maskings(hidden, weight, prompt_hidden)


def draw_quadrature(
    generators: Sequence[torch.Generator],
    length: int,
    num_mc: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """ELBO draws at fixed noise levels (GDPO, arXiv 2510.08554): one per Gauss-Legendre node.

    Draw n of N hides each token with probability t_n and weighs it N w_n / t_n, for the nodes t_n
    and weights w_n of [0, 1]. Only which tokens are hidden is random, and most of an ELBO's
    variance comes from t. The expectation is the ELBO for L <= 2N and biased beyond.

    Args:
        generators: one per sequence, B in all.
        length: L, the completion canvas in tokens.
        num_mc: N, nodes and draws per sequence.
        dtype: of the weights.

    Raises:
        ValueError: if `length` or `num_mc` is below 1.
    """
    _require_positive(length=length, num_mc=num_mc)
    time, mass = _gauss_legendre(num_mc)
    shape = (num_mc, length)
    noise = [torch.rand(shape, dtype=torch.float64, generator=g) for g in generators]
    hidden = torch.stack(noise) < time[:, None]
    return Maskings(hidden, (hidden * (num_mc * mass / time)[:, None]).to(dtype))


def draw_coupled_time(
    generators: Sequence[torch.Generator],
    length: int,
    num_mc: int,
    *,
    t_min: float = 0.2,
    t_max: float = 0.8,
    full_view: bool = True,
    lengths: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """Complementary hidden sets at a random noise level (coupled-GRPO, arXiv 2506.20639; DMPO).

    t ~ U(t_min, t_max); one view hides each token with probability t and weighs it 1/t, the next
    hides the others and weighs them 1/(1-t). With `full_view` a view before them hides everything
    with weight 1. All weights are halved, so that coupled-GRPO's value of a token is the sum of
    `weight * logp` over the views of a draw.

    Args:
        generators: one per sequence, B in all.
        length: L, the completion canvas in tokens.
        num_mc: draws per sequence, of three views with `full_view` and two without.
        t_min: lowest noise level.
        t_max: highest noise level.
        full_view: put a view that hides everything before each pair.
        lengths: int [B], only so many tokens are scored; None scores the whole canvas.
        dtype: of the weights.

    Raises:
        ValueError: if `length` or `num_mc` is below 1, or not 0 < t_min <= t_max <= 1.
    """
    _require_positive(length=length, num_mc=num_mc)
    if not 0 < t_min <= t_max <= 1:
        raise ValueError(
            f"t_min={t_min}, t_max={t_max} are no range of noise levels: give "
            "0 < t_min <= t_max <= 1"
        )
    times, noise = [], []
    for generator in generators:
        uniform = torch.rand(num_mc, dtype=torch.float64, generator=generator)
        times.append(t_min + (t_max - t_min) * uniform)
        noise.append(torch.rand(num_mc, length, dtype=torch.float64, generator=generator))
    time = torch.stack(times).unsqueeze(-1)
    first = torch.stack(noise) < time
    everywhere = torch.ones_like(first)
    # At t = 1 nothing is left for the second view, and 1 / (1 - t) is never read.
    views = [(first, 1 / time), (~first, 1 / (1 - time))]
    if full_view:
        views.insert(0, (everywhere, torch.ones_like(time)))
    hidden = torch.stack([shown for shown, _ in views], dim=2).flatten(1, 2)
    weight = torch.stack([factor.expand_as(first) for _, factor in views], dim=2).flatten(1, 2) / 2
    scored = hidden
    if lengths is not None:
        scored = hidden & (torch.arange(length) < lengths.cpu()[:, None, None])
    return Maskings(hidden, weight.masked_fill(~scored, 0.0).to(dtype), views_per_draw=len(views))


def draw_spaced_time(
    generators: Sequence[torch.Generator],
    start_generators: Sequence[torch.Generator],
    length: int,
    *,
    update: int = 0,
    num_updates: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Maskings:
    """One view per update, its noise level spaced over the updates (UniGRPO, arXiv 2505.15809).

    t_u = t_0 + (1 - t_0) u / (mu - 1) for update u of mu, from one random start t_0 ~ U(0, 1] per
    rollout; each token is hidden with probability t_u and weighs 1/t_u.

    Args:
        generators: one per sequence, B in all, for what is hidden.
        start_generators: one per sequence, the same for every update of a rollout.
        length: L, the completion canvas in tokens.
        update: u, from 0.
        num_updates: mu.
        dtype: of the weights.

    Raises:
        ValueError: if `length` is below 1 or `update` is not one of `num_updates`.
    """
    _require_positive(length=length, num_updates=num_updates)
    if not 0 <= update < num_updates:
        raise ValueError(f"update={update} is none of {num_updates}: count them from 0")
    times, noise = [], []
    for generator, start_generator in zip(generators, start_generators, strict=True):
        start = 1 - torch.rand(1, 1, dtype=torch.float64, generator=start_generator)
        times.append(start + (1 - start) * (update / max(num_updates - 1, 1)))
        noise.append(torch.rand(1, length, dtype=torch.float64, generator=generator))
    time = torch.stack(times)
    hidden = torch.stack(noise) < time
    return Maskings(hidden, (hidden / time).to(dtype))


def _gauss_legendre(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of [0, 1], float64 [N] each, by the method of Golub and Welsch."""
    index = torch.arange(1, num_nodes, dtype=torch.float64)
    beside = index / (4 * index.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(beside.diag(1) + beside.diag(-1))
    return (nodes + 1) / 2, vectors[0].square()


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value} is too small: it must be at least 1")
