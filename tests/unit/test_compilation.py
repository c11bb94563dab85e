"""Compiled layers: the same values, one compilation for all of them, and caches without it."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_policies import saved
from torch import Tensor
from torch._dynamo.utils import counters

from unmask.models.denoiser import Denoiser
from unmask.models.policy import Policy, load_policy
from unmask.models.settings import LoRA
from unmask.sampling.sampler import Samples, sample
from unmask.sampling.settings import Sampler

pytestmark = pytest.mark.slow

PROMPTS = [[5, 6, 7], [8, 9, 10, 11], [6], [12, 12, 5, 9, 8]]


@pytest.fixture(autouse=True)
def forget_compilations() -> None:
    torch.compiler.reset()
    counters.clear()


def logprobs(policy: Policy, rows: int = 4, length: int = 8) -> Tensor:
    """Of completions that are half hidden, behind prompts of several lengths."""
    prompt, mask = policy.pad_prompts(PROMPTS[:rows])
    targets = torch.arange(rows * length).view(rows, length) % 9 + 5
    hidden = torch.zeros_like(targets, dtype=torch.bool)
    hidden[:, ::2] = True
    noisy = targets.masked_fill(hidden, policy.family.mask_token_id)
    attention = torch.cat([mask, torch.ones_like(targets)], dim=1)
    return policy.denoiser(
        torch.cat([prompt, noisy], dim=1),
        None if bool(mask.all()) else attention,
        torch.cat([prompt, targets], dim=1),
        torch.cat([torch.zeros_like(prompt, dtype=torch.bool), hidden], dim=1),
    )


def gradients(policy: Policy) -> tuple[Tensor, dict[str, Tensor]]:
    values = logprobs(policy)
    (values * torch.arange(1, len(values) + 1)).sum().backward()
    parameters = policy.denoiser.named_parameters()
    return values, {name: leaf.grad for name, leaf in parameters if leaf.grad is not None}


def rollout(policy: Policy, sampler: Sampler) -> Samples:
    prompts, mask = policy.pad_prompts(PROMPTS)
    return sample(policy.denoiser, prompts, mask, torch.arange(len(PROMPTS)), sampler)


def test_values_and_gradients_are_those_of_the_plain_network(tmp_path: Path) -> None:
    path = str(saved(tmp_path))
    plain, compiled = (
        load_policy(path, lora=LoRA(r=2), gradient_checkpointing=True, compile=compile)
        for compile in (False, True)
    )
    expected, expected_gradients = gradients(plain)
    assert not counters["stats"]
    found, found_gradients = gradients(compiled)
    assert counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in found_gradients.items():
        largest = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(
            gradient, expected_gradients[name], rtol=1e-3, atol=1e-5 * largest
        )


def test_one_compilation_serves_all_layers_and_shapes(tmp_path: Path) -> None:
    policy = load_policy(str(saved(tmp_path)), compile=True)
    logprobs(policy)
    once = counters["stats"]["unique_graphs"]
    for rows, length in ((3, 8), (2, 11), (4, 5)):
        logprobs(policy, rows, length)
    assert counters["stats"]["unique_graphs"] == once == 1


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_rollouts_are_those_of_the_plain_network(tmp_path: Path, cache: str) -> None:
    path = str(saved(tmp_path))
    settings: dict[str, object] = {"gen_length": 8, "block_length": 4, "steps": 8, "cache": cache}
    sampler = Sampler(**settings)  # type: ignore[arg-type]
    expected = rollout(load_policy(path), sampler)
    found = rollout(load_policy(path, compile=True), sampler)
    assert torch.equal(found.completion_ids, expected.completion_ids)
    assert bool(counters["stats"]) == (cache == "none")


def test_a_copy_compiles_its_own_layers(tmp_path: Path) -> None:
    policy = load_policy(str(saved(tmp_path)), compile=True)
    before = logprobs(policy)
    other: Denoiser = copy.deepcopy(policy.denoiser)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(logprobs(policy), before)
    policy.denoiser = other
    changed = logprobs(policy)
    assert not torch.allclose(changed, before, atol=1e-2)
    other.compiled = False
    for layer in other.causal_lm.get_decoder().layers:
        layer._compiled_call_impl = None
    torch.testing.assert_close(changed, logprobs(policy))


def test_block_causal_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are not compiled"):
        load_policy(str(saved(tmp_path)), compile=True, block_length=4)


def test_a_missing_compiler_is_said_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="needs a C"):
        load_policy("tiny-sudoku", compile=True, device="cpu")
