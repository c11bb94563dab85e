"""One round of rollouts: prompts -> completions -> rewards -> advantages, all as small tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unmask.advantages import ADVANTAGES
from unmask.config import AdvantageConfig, TrainConfig
from unmask.generation import prompt_text
from unmask.maskings import derive_seed
from unmask.models.policy import Policy
from unmask.sampling.entropies import Entropies
from unmask.sampling.sampler import OnReveal, OnStep, Reveal
from unmask.training.data import Example
from unmask.training.mismatch import Mismatch
from unmask.training.policy_gradient import Completions
from unmask.training.scoring import write_and_score

if TYPE_CHECKING:
    from unmask.training.setup import Problems


@dataclass
class Rollout:
    """The completions of one rank in one round; groups stand side by side.

    Attributes:
        completions: token ids, on the model's device.
        sequence_ids: number of each completion in the whole round, over all ranks.
        step_map: int64 [B, L], see `unmask.sampling.sampler.Samples`.
        lengths: int64 [B], tokens up to and including the first EOS.
        rewards: float64 [B], NaN = not scored.
        advantages: float32 [B].
        records: one row per completion for the run folder.
        num_tokens: completion tokens that were denoised.
        num_forwards: sequences x denoising passes spent.
        values: float32 [B], `Objective.value` of the prompts, or None.
        entropy: float32 [B, L], see `unmask.sampling.entropies`, where the estimator reads it.
        mismatch: what was measured of an approximate sampler, by name.
    """

    completions: Completions
    sequence_ids: list[int]
    step_map: Tensor
    lengths: Tensor
    rewards: Tensor
    advantages: Tensor
    records: list[dict[str, Any]]
    num_tokens: int
    num_forwards: int = 0
    values: Tensor | None = None
    entropy: Tensor | None = None
    mismatch: dict[str, list[float]] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on with the updates of this round."""
        tensors = {
            "prompt_ids": self.completions.prompt_ids.cpu(),
            "prompt_mask": self.completions.prompt_mask.cpu(),
            "completion_ids": self.completions.completion_ids.cpu(),
            "sequence_ids": torch.tensor(self.sequence_ids),
            "step_map": self.step_map,
            "lengths": self.lengths,
            "rewards": self.rewards,
            "advantages": self.advantages,
        }
        optional = {"values": self.values, "entropy": self.entropy}
        return tensors | {name: value for name, value in optional.items() if value is not None}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], device: torch.device) -> Rollout:
        """The reverse of `tensors`; the records were written before."""
        names = ("prompt_ids", "prompt_mask", "completion_ids")
        return Rollout(
            Completions(*(tensors[name].to(device) for name in names)),
            tensors["sequence_ids"].tolist(),
            tensors["step_map"],
            tensors["lengths"],
            tensors["rewards"],
            tensors["advantages"],
            [],
            int((tensors["step_map"] < tensors["step_map"].shape[1]).sum()),
            values=tensors.get("values"),
            entropy=tensors.get("entropy"),
        )


def collect(
    policy: Policy,
    problems: Problems,
    config: TrainConfig,
    examples: Sequence[Example],
    first_sequence: int,
    *,
    rollout: int,
    on_step: OnStep | None = None,
) -> Rollout:
    """Sample a recipe's number of completions of each example and score them.

    Args:
        policy: the model.
        problems: what scores the completions.
        config: how they are written, and how rewards become advantages.
        examples: this rank's prompts of the round.
        first_sequence: number of this rank's first completion in the whole round.
        rollout: number of the round; with the seed and a completion's number it decides its draws.
        on_step: see `unmask.sampling.sampler.sample`.

    Raises:
        RewardError: see `unmask.training.rewards.score`.
    """
    sampler = config.sampler
    group_size, max_tokens = config.training.num_generations, config.training.tokens_per_pass
    repeated = [example for example in examples for _ in range(group_size)]
    sequence_ids = list(range(first_sequence, first_sequence + len(repeated)))
    seeds = [derive_seed("rollout", config.seed, rollout, number) for number in sequence_ids]
    device = policy.denoiser.device
    gap = Mismatch(config.mismatch, sampler, seeds)
    entropies = None
    if config.estimator.reads_entropy:
        entropies = Entropies(len(repeated), sampler.gen_length, device)
    scored = write_and_score(
        policy,
        repeated,
        sampler,
        seeds,
        reward=problems.reward,
        exact=problems.exact,
        max_tokens=max_tokens,
        on_step=on_step,
        on_reveal=_together(gap.probe, entropies),
    )
    samples, ids = scored.samples, scored.samples.completion_ids.tolist()
    rewards = torch.tensor(scored.totals, dtype=torch.float64)
    advantages = _advantages(rewards, group_size, config.advantage)
    prompt_ids, prompt_mask = policy.pad_prompts([example.prompt_ids for example in repeated])
    prompt_ids, prompt_mask = prompt_ids.to(device), prompt_mask.to(device)
    weights = gap.weights(policy.denoiser, prompt_ids, prompt_mask, samples, max_tokens)
    if weights is not None:
        advantages = advantages * weights.cpu()
    records = [
        {
            "rollout": rollout,
            "group": number // group_size,
            "sequence": number,
            "prompt": prompt_text(repeated[row].prompt),
            "completion": scored.texts[row],
            "tokens": policy.token_texts(ids[row]),
            "completion_ids": ids[row],
            "step_map": samples.step_map[row].tolist(),
            "confidence": [round(value, 4) for value in samples.confidence[row].tolist()],
            "rewards": {name: values[row] for name, values in scored.terms.items()},
            "reward": scored.totals[row],
            "advantage": advantages[row].item(),
            "solved": scored.solved[row],
            "length": int(samples.lengths[row]),
        }
        for row, number in enumerate(sequence_ids)
    ]
    return Rollout(
        Completions(prompt_ids, prompt_mask, samples.completion_ids.to(device)),
        sequence_ids,
        samples.step_map,
        samples.lengths,
        rewards,
        advantages,
        records,
        int((samples.step_map < sampler.steps).sum()),
        samples.num_forwards,
        entropy=None if entropies is None else entropies.values.cpu(),
        mismatch=gap.measure(policy.denoiser, prompt_ids, prompt_mask, max_tokens),
    )


def _together(*observers: OnReveal | None) -> OnReveal | None:
    """One observer of the sampler in place of those that there are; None if there are none."""
    present = [observer for observer in observers if observer is not None]

    def observe(reveal: Reveal) -> None:
        for observer in present:
            observer(reveal)

    return observe if present else None


def _advantages(rewards: Tensor, group_size: int, settings: AdvantageConfig) -> Tensor:
    if group_size == 1:
        return torch.zeros(len(rewards))  # an objective that compares nothing reads none
    options = {
        "group_norm": {"eps": settings.eps, "unbiased": settings.unbiased},
        "rloo_scaled": {"eps": settings.eps},
    }.get(settings.name, {})
    return ADVANTAGES[settings.name](rewards, group_size, **options).float()


def summarise_records(records: Sequence[dict[str, Any]], zero_std: float) -> dict[str, float]:
    """Metrics of a round from its records: reward, solved, length, confidence, reward terms."""
    rewards = [row["reward"] for row in records if not math.isnan(row["reward"])]
    spread = torch.tensor(rewards, dtype=torch.float64).std(correction=0).item()
    summary = {
        "reward": _mean(rewards),
        "reward_std": spread,
        "frac_zero_std": zero_std,
        "completion_length": _mean([row["length"] for row in records]),
        "confidence": _mean([value for row in records for value in row["confidence"]]),
    }
    solved = [row["solved"] for row in records if row["solved"] is not None]
    if solved:
        summary["solved"] = _mean(solved)
    for name in records[0]["rewards"]:
        values = [row["rewards"][name] for row in records if row["rewards"][name] is not None]
        summary[f"rewards/{name}"] = _mean(values)
    return summary


def _mean(values: Sequence[float] | Iterator[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
