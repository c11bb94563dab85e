"""Completions of many prompts: encode, pad, sample in batches, decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unmask.maskings import derive_seed
from unmask.models.policy import Policy, Prompt
from unmask.sampling.sampler import OnReveal, OnStep, Samples, sample as sample_batch
from unmask.sampling.settings import Sampler


@dataclass(frozen=True)
class Completion:
    """One completion as text, with how it came about.

    Attributes:
        prompt: as given.
        text: up to the first EOS, without special tokens.
        ids: all L token ids.
        tokens: the text of each token by itself.
        step_map: denoising step at which each token was revealed.
        confidence: the model's probability of each token when it was revealed.
    """

    prompt: Prompt
    text: str
    ids: list[int]
    tokens: list[str]
    step_map: list[int]
    confidence: list[float]


def generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    seeds: Sequence[int],
    *,
    max_tokens: int = 16384,
    on_step: OnStep | None = None,
    on_reveal: OnReveal | None = None,
) -> Samples:
    """Sample a completion for each encoded prompt, at most `max_tokens` tokens at a time.

    Args:
        policy: the model.
        prompts: token ids; repeat a prompt to get several completions.
        sampler: the settings.
        seeds: one per prompt.
        max_tokens: padded tokens of one forward pass.
        on_step: see `unmask.sampling.sampler.sample`.
        on_reveal: likewise.

    Returns:
        Samples on the CPU, in the order of the prompts.
    """
    device = policy.denoiser.device
    ids, mask = policy.pad_prompts(prompts)
    samples = sample_batch(
        policy.denoiser,
        ids.to(device),
        mask.to(device),
        torch.tensor(seeds, device=device),
        sampler,
        eos_ids=policy.family.eos_ids,
        max_tokens=max_tokens,
        on_step=on_step,
        on_reveal=on_reveal,
    )
    on_cpu = {name: value.cpu() for name, value in samples.tensors.items()}
    return Samples(**on_cpu, num_forwards=samples.num_forwards)


def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    sampler: Sampler,
    *,
    seed: int = 42,
    on_step: OnStep | None = None,
) -> list[Completion]:
    """Write one completion per prompt; the i-th depends on `seed` and i, not on its mates.

    Args:
        policy: see `unmask.load_policy`.
        prompts: plain texts or lists of messages.
        sampler: the settings.
        seed: of the draws.
        on_step: see `unmask.sampling.sampler.sample`.

    Raises:
        ValueError: if a prompt and its completion need more positions than the network has.
    """
    if not prompts:
        return []
    encoded = [policy.encode(prompt) for prompt in prompts]
    policy.require_room(max(map(len, encoded)) + sampler.gen_length)
    policy.require_blocks(sampler.block_length)
    seeds = [derive_seed("sample", seed, index) for index in range(len(prompts))]
    samples = generate(policy, encoded, sampler, seeds, on_step=on_step)
    return [
        Completion(
            prompt,
            policy.decode(ids),
            ids,
            policy.token_texts(ids),
            samples.step_map[row].tolist(),
            samples.confidence[row].tolist(),
        )
        for row, (prompt, ids) in enumerate(
            zip(prompts, samples.completion_ids.tolist(), strict=True)
        )
    ]


def prompt_text(prompt: Prompt) -> str:
    """A prompt for a reader: plain text, or the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def as_reply(prompt: Prompt, text: str) -> str | list[dict[str, str]]:
    """A completion in the form of its prompt, as TRL hands it to rewards."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
