"""One way of sampling from a trained tiny model, on held-out problems: time, accuracy, mismatch."""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from reference import plain_sample

from unmask.config import TrainConfig
from unmask.generation import generate
from unmask.maskings import derive_seed
from unmask.models.policy import Policy, load_policy
from unmask.sampling.mismatch import Probe, effective_sample_size, log_weights
from unmask.sampling.settings import Sampler
from unmask.tasks import get_task


def measure_mode(args: argparse.Namespace, mode: str) -> dict[str, float]:
    """Seconds, passes per completion and accuracy at temperature 0; mismatch at temperature 1.

    A mode names what it changes, as dual+threshold. One token is revealed per scheduled step.
    Where caches are compared, a block is a quarter of the canvas, so that there is something to
    keep.
    """
    policy = load_policy(args.model, device="cpu")
    config = TrainConfig.model_validate(policy.defaults)
    length = config.sampler.gen_length
    block = length // 4 if args.mismatch else config.sampler.block_length
    settings: dict[str, Any] = {"block_length": block, "steps": length, "temperature": 0.0}
    for part in mode.split("+"):
        if part in ("prefix", "dual"):
            settings["cache"] = part
        elif part == "threshold":
            settings["threshold"] = args.threshold
    sampler: Sampler = replace(config.sampler, **settings)
    task = get_task(config.task.name, **config.task.options)
    prompt = config.task.prompt or task.prompts[0]
    rows = task.build("heldout", size=args.problems, seed=0, prompt=prompt)
    prompts = [policy.encode(row["prompt"]) for row in rows]
    seeds = [derive_seed("bench", 0, index) for index in range(len(rows))]
    seconds = []
    for _ in range(args.repeats + 1):
        began = time.perf_counter()
        if mode == "plain":
            passes, written = plain(policy, prompts, sampler)
        else:
            samples = generate(policy, prompts, sampler, seeds)
            passes, written = samples.num_forwards / len(rows), samples.completion_ids
        seconds.append(time.perf_counter() - began)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    replies = [[{"role": "assistant", "content": policy.decode(row)}] for row in written.tolist()]
    solved = task.exact([row["prompt"] for row in rows], replies, written.tolist(), **columns)
    found = {
        "seconds": statistics.median(seconds[1:]),
        "passes": passes,
        "accuracy": sum(solved) / len(solved),
    }
    if args.mismatch:
        found |= mismatch(policy, prompts, replace(sampler, temperature=1.0), seeds)
    return found


def plain(policy: Policy, prompts: list[list[int]], sampler: Sampler) -> tuple[float, torch.Tensor]:
    """The published loop, on prompts of one length at a time as it knows no padding."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    written = torch.zeros(len(prompts), sampler.gen_length, dtype=torch.int64)
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().squeeze(-1)
        ids = torch.tensor([prompts[row] for row in rows.tolist()])
        network = policy.denoiser.network
        written[rows] = plain_sample(network, ids, sampler, policy.family.mask_token_id)
    return float(sampler.steps), written


def mismatch(
    policy: Policy, prompts: list[list[int]], sampler: Sampler, seeds: list[int]
) -> dict[str, float]:
    """KL per token and effective sample sizes of a sample of tokens, and of whole completions."""
    ids, mask = policy.pad_prompts(prompts)
    probe = Probe(1024, torch.tensor(seeds))
    samples = generate(policy, prompts, sampler, seeds, on_reveal=probe)
    found = probe.measure(policy.denoiser, ids, mask, sampler, 16384)
    result = {name: found[name].mean().item() for name in ("kl_step", "kl_token")}
    for by in ("step", "token"):
        result[f"ess_{by}"] = effective_sample_size(found[f"log_ratio_{by}"])
    whole = log_weights(policy.denoiser, ids, mask, samples, sampler, by="token", max_tokens=16384)
    return result | {"weight_ess": effective_sample_size(whole)}
