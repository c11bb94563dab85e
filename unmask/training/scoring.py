"""Write one completion of each example and score it: what rollouts, values and measuring share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unmask.generation import as_reply, generate
from unmask.models.policy import Policy
from unmask.sampling.sampler import OnReveal, OnStep, Samples
from unmask.sampling.settings import Sampler
from unmask.training.data import Example
from unmask.training.rewards import RewardTerm, score


@dataclass(frozen=True)
class Scored:
    """Completions with their scores, one of each example.

    Attributes:
        samples: on the CPU.
        texts: up to the first EOS, without special tokens.
        totals: weighted sum of the reward's terms, NaN = not scored.
        terms: values by term, None = not scored.
        solved: values of the exact verifier, None without one.
    """

    samples: Samples
    texts: list[str]
    totals: list[float]
    terms: dict[str, list[float | None]]
    solved: Sequence[float | None]


def write_and_score(
    policy: Policy,
    examples: Sequence[Example],
    sampler: Sampler,
    seeds: Sequence[int],
    *,
    reward: Sequence[RewardTerm],
    exact: Callable[..., Sequence[float | None]] | None = None,
    max_tokens: int,
    on_step: OnStep | None = None,
    on_reveal: OnReveal | None = None,
) -> Scored:
    """Sample and score.

    Args:
        policy: the model.
        examples: at least one; repeat an example to get several completions.
        sampler: the settings.
        seeds: one per example.
        reward: terms of the reward.
        exact: the exact verifier, or None.
        max_tokens: padded tokens of one forward pass.
        on_step: see `unmask.sampling.sampler.sample`.
        on_reveal: likewise.

    Raises:
        RewardError: see `unmask.training.rewards.score`.
    """
    samples = generate(
        policy,
        [example.prompt_ids for example in examples],
        sampler,
        seeds,
        max_tokens=max_tokens,
        on_step=on_step,
        on_reveal=on_reveal,
    )
    ids = samples.completion_ids.tolist()
    texts = [policy.decode(row) for row in ids]
    prompts = [example.prompt for example in examples]
    replies = [as_reply(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    columns = {
        name: [example.columns[name] for example in examples] for name in examples[0].columns
    }
    totals, terms = score(reward, prompts, replies, ids, columns)
    solved: Sequence[float | None] = [None] * len(examples)
    if exact is not None:
        solved = score([RewardTerm("exact", exact)], prompts, replies, ids, columns)[1]["exact"]
    return Scored(samples, texts, totals, terms, solved)
