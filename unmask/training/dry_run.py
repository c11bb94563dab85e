"""`unmask train RECIPE --dry-run`: all of a recipe but its size, on a tiny random model.

Prompts, rollouts, rewards, updates, saving and measuring run with the recipe's own task, sampler,
objective, estimator and advantage; the model, the data and the numbers are small stand-ins. The
model is one of the recipe's family, in the format that the family is published in.
"""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.config import ModelConfig, TrainConfig
from unmask.models.denoiser import Denoiser
from unmask.models.families import recognise
from unmask.models.policy import Policy
from unmask.models.rehearsal import family_of, write_random_checkpoint
from unmask.models.settings import LoRA, TinyArchitecture
from unmask.models.tiny import build_network, build_tokenizer
from unmask.recipe import validate
from unmask.sampling.settings import Sampler
from unmask.tasks import TASKS
from unmask.training.setup import SAMPLE

LONGEST_PROMPT = 4_096
MOST_TOKENS = 16
ARCHITECTURE = TinyArchitecture(
    num_layers=2,
    hidden_size=32,
    intermediate_size=64,
    num_heads=2,
    max_length=2 * LONGEST_PROMPT,
    rope_theta=10_000.0,
)


def shrink(config: TrainConfig, folder: Path) -> TrainConfig:
    """The recipe on a tiny random model and the packaged problems, for two rounds.

    Args:
        config: the recipe.
        folder: where the model and the run go.

    Raises:
        ValueError: for a recipe that cannot run at any size.
    """
    raw = config.model_dump(mode="json")
    raw["model"] |= {
        "path": str(_write_model(config.model, folder)),
        "mask_token_id": None,
        "quantization": None,
        "dtype": "auto",
        "attention": "sdpa",
    }
    if config.model.lora is not None:
        lora = config.model.lora
        raw["model"]["lora"] = _plain(LoRA(min(lora.r, 4), min(lora.alpha, 4), lora.target_modules))
    raw["task"] |= {"size": 8, "max_prompt_length": LONGEST_PROMPT}
    if config.task.name in TASKS and config.task.name != "reasoning_gym":
        # A file of one's own is what a dry run is to try.
        own = Path(config.task.dataset or SAMPLE).expanduser().exists()
        raw["task"]["dataset"] = config.task.dataset if own else SAMPLE
        raw["task"] |= {} if own else {"split": "train", "eval_split": "heldout"}
    if config.task.name == "code":
        raw["task"] |= {"dataset": None, "options": {**config.task.options, "problems": SAMPLE}}
    raw["sampler"] = _plain(shrink_sampler(config.sampler))
    raw["estimator"] = {
        name: min(value, 2) if name == "num_mc" else value
        for name, value in raw["estimator"].items()
    }
    raw["training"] |= {
        "num_rollouts": 2,
        "prompts_per_rollout": 2,
        "num_generations": min(config.training.num_generations, 3),
        "num_iterations": min(config.training.num_iterations, 2),
        "reference_sync_every": 1 if config.training.reference_sync_every else None,
    }
    raw["evaluation"] |= {"every": 1, "num_examples": 2}
    raw["checkpoint"] |= {"every": 1, "resume": "never"}
    raw["logging"] |= {"trackers": []}
    raw["output_dir"] = str(folder / "run")
    small = validate(TrainConfig, raw)
    assert isinstance(small, TrainConfig)
    return small


def shrink_sampler(sampler: Sampler) -> Sampler:
    """The same sampler on at most 16 tokens: as many tokens a step, and two blocks if there were.

    Whatever else it is set to stays.
    """
    blocks = min(sampler.num_blocks, 2)
    block_length = min(sampler.block_length, MOST_TOKENS // blocks)
    per_step = max(1, sampler.gen_length // sampler.steps)
    steps = max(1, block_length // per_step) * blocks
    return replace(
        sampler, gen_length=block_length * blocks, block_length=block_length, steps=steps
    )


def _plain(settings: Any) -> dict[str, Any]:
    return dict(vars(settings))


def _write_model(model: ModelConfig, folder: Path) -> Path:
    """A random model of the recipe's family that reads printable ASCII character by character.

    Where the family has no format of its own, or is unknown, it is a bidirectional Llama.
    """
    symbols = [character for character in string.printable if not character.isspace()]
    # The names of some checkpoints tell their block length.
    folder = folder / "random" / (Path(model.path).name or "model")
    spec = family_of(model.path, model.family)
    if spec is not None and spec.tiny:
        write_random_checkpoint(spec, folder, symbols)
        return folder
    tokenizer = build_tokenizer(symbols)
    network = build_network(ARCHITECTURE, tokenizer, seed=0)
    family = recognise(network.config.to_dict(), "the random model")
    denoiser = Denoiser(network, mask_token_id=family.mask_token_id)
    Policy(denoiser, tokenizer, family, None).save(folder)
    return folder
