"""What an evaluation measured, in a form that says whether another one measured the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.config import TrainConfig
from unmask.evaluation.conditions import Condition
from unmask.evaluation.samples import content_hash
from unmask.models.policy import Policy
from unmask.training.data import Example
from unmask.training.rewards import RewardTerm
from unmask.training.run_folder import describe_environment

# Bytes at both ends of each weight file that its fingerprint reads: training changes all weights.
EDGE = 1 << 20


def make_manifest(
    config: TrainConfig,
    policy: Policy,
    examples: Sequence[Example],
    measured: Sequence[Condition],
    terms: Sequence[RewardTerm],
) -> dict[str, Any]:
    """Settings, hashes, versions and hardware of an evaluation.

    Returns:
        `identity`, everything that decides the completions; `num_samples` by condition; `rewards`;
        `example_prompt` as the model reads it; `environment`.
    """
    network: Any = policy.denoiser.causal_lm
    identity = {
        "model": {
            "path": config.model.path,
            "fingerprint": fingerprint(policy.source),
            "family": policy.family.name,
            "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
            "attention": config.model.attention,
        },
        "task": {
            "name": config.task.name,
            "options": config.task.options,
            "prompt": config.task.prompt,
            "dataset": config.task.dataset,
            "split": config.task.eval_split,
        },
        "num_problems": len(examples),
        "dataset_hash": content_hash([problem_hash(example) for example in examples]),
        "prompt_hash": content_hash([example.prompt for example in examples]),
        "prompt_ids_hash": content_hash([example.prompt_ids for example in examples]),
        "conditions": {condition.name: condition.settings() for condition in measured},
        "seed": config.seed,
    }
    return {
        "identity": identity,
        "num_samples": {condition.name: condition.num_samples for condition in measured},
        "rewards": [{"name": term.name, "weight": term.weight} for term in terms],
        "max_tokens_per_batch": config.training.tokens_per_pass,
        "example_prompt": policy.tokenizer.decode(examples[0].prompt_ids),
        "environment": describe_environment(1),
    }


def problem_hash(example: Example) -> str:
    """A problem by its content, whatever the prompt's wording; without columns, by its prompt."""
    return content_hash(example.columns or example.prompt)


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings that differ."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        left, right = then.get(name), now.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            found.append(f"{prefix}{name}")
    return found


def fingerprint(folder: Path | None) -> str | None:
    """Hash of a model's folder: names, sizes and both ends of its weights, and config.json."""
    if folder is None:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            digest.update(file.read())
    return digest.hexdigest()
