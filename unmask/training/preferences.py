"""Pairs of a preference data set, as the trainer takes rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from unmask.generation import prompt_text
from unmask.models.policy import Policy
from unmask.sampling.sampler import completion_lengths
from unmask.training.data import Example, check_fit, require_column, require_prompt
from unmask.training.policy_gradient import Completions
from unmask.training.rollout import Rollout

if TYPE_CHECKING:
    from datasets import Dataset

# In the order of a pair, with their rewards.
SIDES = {"chosen": 1.0, "rejected": 0.0}
PREFERENCE_COLUMNS = ("prompt", *SIDES)


def require_preferences(data: Dataset) -> None:
    """Raise ValueError unless every row is a pair of two different replies to a prompt."""
    source = "the preference set"
    for name in PREFERENCE_COLUMNS:
        require_column(data, name, source)
    for index, row in enumerate(data):
        require_prompt(row["prompt"], index, source)
        chosen, rejected = (_reply(row[side], side, index) for side in SIDES)
        if chosen == rejected:
            raise ValueError(
                f"preference pair {index} has chosen and rejected both {repr(chosen)[:60]}: "
                "nothing is preferred in it; leave the pair out"
            )


def encode_preferences(examples: Sequence[Example], policy: Policy, canvas: int) -> list[Example]:
    """Examples with the token ids of both completions; those longer than the canvas are dropped.

    Raises:
        ValueError: if no pair fits.
    """
    kept = []
    for example in examples:
        ids = {
            side: policy.encode_completion(_reply(example.columns[side], side, example.index))
            for side in SIDES
        }
        if max(map(len, ids.values())) <= canvas:
            kept.append(replace(example, columns={**example.columns, "ids": ids}))
    check_fit(len(kept), len(examples), canvas, "preference pair")
    return kept


def preference_rollout(
    policy: Policy,
    examples: Sequence[Example],
    first_sequence: int,
    *,
    rollout: int,
    canvas: int,
) -> Rollout:
    """The pairs of some prompts, the chosen completion before the rejected one.

    Args:
        policy: encodes and decodes.
        examples: from `encode_preferences`.
        first_sequence: number of the first completion in the whole round.
        rollout: number of the round.
        canvas: L.
    """
    repeated = [(example, side) for example in examples for side in SIDES]
    ids = [policy.fill_canvas(example.columns["ids"][side], canvas) for example, side in repeated]
    prompt_ids, prompt_mask = policy.pad_prompts([example.prompt_ids for example, _ in repeated])
    device = policy.denoiser.device
    completion_ids = torch.tensor(ids)
    lengths = completion_lengths(completion_ids, policy.family.eos_ids)
    rewards = torch.tensor([SIDES[side] for _, side in repeated], dtype=torch.float64)
    numbers = list(range(first_sequence, first_sequence + len(repeated)))
    records = [
        _record(policy, example, side, ids[row], int(lengths[row]), rollout, numbers[row])
        for row, (example, side) in enumerate(repeated)
    ]
    return Rollout(
        Completions(prompt_ids.to(device), prompt_mask.to(device), completion_ids.to(device)),
        numbers,
        torch.zeros_like(completion_ids),
        lengths,
        rewards,
        (2 * rewards - 1).float(),
        records,
        0,
    )


def _reply(value: Any, side: str, index: int) -> str:
    """The text of one side of a pair: the value itself, or the last of a list of messages."""
    text = value
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        # A conversation that ends with the user's turn has no reply.
        text = None if value[-1].get("role") == "user" else value[-1].get("content")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"{side} of preference pair {index} is {repr(value)[:60]}: give a text that is not "
            "empty, or messages that end with the reply"
        )
    return text


def _record(
    policy: Policy,
    example: Example,
    side: str,
    ids: list[int],
    length: int,
    rollout: int,
    number: int,
) -> dict[str, Any]:
    """A row of the run folder, of a completion that nobody denoised."""
    return {
        "rollout": rollout,
        "group": number // len(SIDES),
        "sequence": number,
        "prompt": prompt_text(example.prompt),
        "completion": policy.decode(ids),
        "tokens": policy.token_texts(ids),
        "completion_ids": ids,
        "step_map": [0] * len(ids),
        "confidence": [1.0] * len(ids),
        "rewards": {},
        "reward": SIDES[side],
        "advantage": 2 * SIDES[side] - 1,
        "solved": None,
        "length": length,
    }
