"""Mismatch between sampler and model: by enumeration on tables, and on a real network."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from oracle import TableProposer
from tiny_policies import tiny_policy
from torch import Tensor

from unmask.config import MismatchConfig, TrainConfig
from unmask.sampling.mismatch import Probe, effective_sample_size, log_weights
from unmask.sampling.sampler import Samples, sample
from unmask.sampling.settings import Sampler
from unmask.training.mismatch import Mismatch, summarise_mismatch

LENGTH, TOKENS = 3, 2


def worth(canvas: tuple[int, ...]) -> float:
    """Any function of a completion."""
    return 1.0 + canvas[0] + 2.5 * canvas[1] * canvas[2] - 0.7 * canvas[2]


def weights_of(
    exact: TableProposer, drawn: TableProposer, path: list[tuple[int, ...]], by: Any
) -> tuple[Tensor, float]:
    """log_weights of one completion written along a path of places, and its chance."""
    canvas, chance = [exact.mask_token_id] * LENGTH, 1.0
    step_map, probability = torch.zeros(1, LENGTH).long(), torch.ones(1, LENGTH)
    for step, moves in enumerate(path):
        before = drawn.logits_of(canvas).softmax(-1)
        for place, token in moves:
            step_map[0, place], probability[0, place] = step, before[place, token]
            chance *= float(before[place, token])
        for place, token in moves:
            canvas[place] = token
    samples = Samples(
        torch.tensor([canvas]), step_map, probability, probability, torch.tensor([LENGTH]), 0
    )
    sampler = Sampler(gen_length=LENGTH, block_length=LENGTH, steps=LENGTH)
    ones = torch.ones(1, 1).long()
    found = log_weights(exact, ones, ones, samples, sampler, by=by, max_tokens=100)
    return found, chance


@pytest.mark.parametrize("by", ["step", "token"])
def test_weighted_averages_are_exact_by_enumeration(by: Any) -> None:
    # Places are chosen from the state alone: two at first (the outer ones), then the last.
    exact, drawn = (TableProposer(TOKENS, LENGTH, seed=seed) for seed in (0, 1))
    weighted = plain = expected = total = 0.0
    mask = exact.mask_token_id
    for tokens in product(range(TOKENS), repeat=LENGTH):
        path: Any = [[(0, tokens[0]), (2, tokens[2])], [(1, tokens[1])]]
        found, chance = weights_of(exact, drawn, path, by)
        weighted += chance * math.exp(found.item()) * worth(tokens)
        total += chance * math.exp(found.item())
        plain += chance * worth(tokens)
        empty, both = [mask] * 3, [tokens[0], mask, tokens[2]]
        between = empty if by == "step" else [tokens[0], mask, mask]
        p = exact.logits_of(empty).softmax(-1)[0, tokens[0]]
        p = p * exact.logits_of(between).softmax(-1)[2, tokens[2]]
        p = p * exact.logits_of(both).softmax(-1)[1, tokens[1]]
        expected += float(p) * worth(tokens)
    assert total == pytest.approx(1, abs=1e-6)
    assert weighted == pytest.approx(expected, abs=1e-6)
    assert abs(plain - expected) > 0.05  # without weights it is biased


def test_weights_are_at_the_samplers_temperature_and_among_its_tokens() -> None:
    exact = TableProposer(num_tokens=4, length=3, seed=2)
    sampler = Sampler(gen_length=3, block_length=3, steps=3, temperature=0.6, top_k=2)
    prompt, seeds = torch.ones(20, 1).long(), torch.arange(20)
    samples = sample(exact, prompt, None, seeds, sampler)
    for by in ("step", "token"):
        found = log_weights(exact, prompt, prompt, samples, sampler, by=by, max_tokens=50)
        torch.testing.assert_close(found, torch.zeros(20), rtol=0, atol=1e-5)


def probed(sampler: Sampler, size: int = 40) -> tuple[dict[str, Tensor], Samples, Any]:
    policy = tiny_policy()
    ids, mask = policy.pad_prompts([[5, 6, 7], [8, 9, 10, 11], [6], [12, 12, 5, 9, 8], [13, 7]] * 4)
    seeds = torch.arange(len(ids))
    probe = Probe(size, seeds)
    eos = policy.family.eos_ids
    samples = sample(policy.denoiser, ids, mask, seeds, sampler, eos_ids=eos, on_reveal=probe)
    found = probe.measure(policy.denoiser, ids, mask, sampler, max_tokens=200)
    weights = {
        by: log_weights(policy.denoiser, ids, mask, samples, sampler, by=by, max_tokens=200)
        for by in ("step", "token")
    }
    return found, samples, weights


SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 12}


@pytest.mark.parametrize("extra", [{}, {"cfg_scale": 1.0}, {"temperature": 0.7}], ids=str)
def test_one_exact_token_at_a_time_has_no_mismatch(extra: dict[str, Any]) -> None:
    found, _, weights = probed(Sampler(**SHAPE, **extra))
    for name, values in found.items():
        assert len(values) == 40
        assert values.abs().max() < 1e-4, name
    for values in weights.values():
        assert values.abs().max() < 1e-3


def test_parallel_reveals_differ_by_token_and_caches_by_step() -> None:
    parallel, _, weights = probed(Sampler(**SHAPE, entropy_bound=3.0))
    assert parallel["kl_step"].abs().max() < 1e-4 < 1e-2 < parallel["kl_token"].max()
    assert weights["step"].abs().max() < 1e-3 < 1e-2 < weights["token"].abs().max()
    cached, _, weights = probed(Sampler(**SHAPE, cache="dual"))
    assert cached["kl_step"].max() > 1e-2
    assert cached["kl_step"].min() > -1e-5
    torch.testing.assert_close(cached["kl_step"], cached["kl_token"])
    torch.testing.assert_close(weights["step"], weights["token"], rtol=1e-3, atol=1e-3)


def test_a_probe_keeps_a_sample_that_depends_on_the_seeds_alone() -> None:
    sampler = Sampler(**SHAPE, cache="dual")
    everything, samples, _ = probed(sampler, size=10_000)
    revealed = int((samples.step_map < 12).sum())
    assert len(everything["kl_step"]) == revealed
    some, _, _ = probed(sampler, size=40)
    again, _, _ = probed(sampler, size=40)
    assert torch.equal(some["kl_step"], again["kl_step"])
    # The whole, sorted by the same keys, begins with the sample.
    torch.testing.assert_close(everything["kl_step"][:40], some["kl_step"], rtol=1e-3, atol=1e-4)


def test_the_whole_sample_adds_up_to_the_weights() -> None:
    found, _, weights = probed(Sampler(**SHAPE, cache="prefix"), size=10_000)
    total = found["log_ratio_step"].sum()
    torch.testing.assert_close(total, weights["step"].sum(), rtol=1e-3, atol=1e-3)


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(torch.zeros(5)) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([0.0, -1e4])) == pytest.approx(0.5)
    assert effective_sample_size(torch.tensor([3.0, 1.0]).log()) == pytest.approx(16 / 20)


def test_a_round_reports_the_mismatch_and_cuts_the_weights() -> None:
    policy = tiny_policy()
    sampler = Sampler(**SHAPE, cache="dual")
    ids, mask = policy.pad_prompts([[5, 6, 7], [8, 9]] * 4)
    seeds = list(range(8))
    gap = Mismatch(MismatchConfig(states=20, weights="step", truncate=1.1), sampler, seeds)
    samples = sample(policy.denoiser, ids, mask, torch.tensor(seeds), sampler, on_reveal=gap.probe)
    weights = gap.weights(policy.denoiser, ids, mask, samples, 200)
    assert weights is not None
    whole = log_weights(policy.denoiser, ids, mask, samples, sampler, by="step", max_tokens=200)
    torch.testing.assert_close(weights, whole.exp().clamp(max=1.1))
    assert 0 < (weights < 1.1).sum() < 8
    metrics = summarise_mismatch([gap.measure(policy.denoiser, ids, mask, 200), {}])
    assert metrics["mismatch/kl_step"] > 0
    assert metrics["mismatch/weight_truncated"] == (whole > math.log(1.1)).double().mean()
    assert metrics["mismatch/weight_ess"] == pytest.approx(effective_sample_size(whole))


def test_an_exact_sampler_is_neither_watched_nor_weighed() -> None:
    gap = Mismatch(MismatchConfig(), Sampler(**SHAPE), [1, 2])
    assert gap.probe is None
    assert summarise_mismatch([{}]) == {}


def test_weights_of_greedy_rollouts_are_refused() -> None:
    with pytest.raises(ValueError, match="set it to none, or a temperature above 0"):
        TrainConfig(
            sampler=Sampler(**SHAPE, temperature=0.0), mismatch=MismatchConfig(weights="step")
        )
