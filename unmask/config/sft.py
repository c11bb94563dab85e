"""A supervised fine-tuning run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unmask.config.sections import (
    CheckpointConfig,
    DataConfig,
    EstimatorSection,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    PassConfig,
)
from unmask.estimators import ELBO
from unmask.models.settings import TinyArchitecture
from unmask.sampling.settings import Sampler
from unmask.schema import Section


class SFTModelConfig(ModelConfig):
    """The model to teach: a checkpoint, or a tiny one from scratch.

    Args:
        path: a checkpoint as in `train`; null = build `init`.
        init: the shape of a new tiny model, with a tokenizer of the task's symbols.
    """

    path: str | None = None  # type: ignore[assignment]
    init: TinyArchitecture = TinyArchitecture()


class DemonstrationConfig(DataConfig):
    """Prompts with completions to imitate.

    Args:
        dataset: a local file or folder, or a hub id, with `prompt` and `completion` columns;
            null = the task's generator.
        noise: fraction of generated demonstrations that are corrupted.
    """

    noise: float = Field(0.0, ge=0, le=1)


class SFTTrainingConfig(PassConfig):
    """The supervised loop.

    Args:
        num_steps: updates.
        batch_size: demonstrations per update, over all processes.
    """

    num_steps: int = Field(1000, ge=1)
    batch_size: int = Field(128, ge=1)


class SFTConfig(Section):
    """A masked-diffusion supervised fine-tuning run.

    Args:
        command: which command the recipe is for.
        model: the model to teach.
        task: demonstrations.
        sampler: gen_length is the canvas; all of it becomes the model's default for sampling.
        estimator: of the likelihood that is maximised.
        optimizer: AdamW, clipping, schedule.
        training: the loop.
        checkpoint: saving and resuming; `every` counts updates.
        logging: trackers.
        output_dir: the run folder; {recipe} and {time} are filled in.
        seed: of everything random.
    """

    command: Literal["sft"] = "sft"
    model: SFTModelConfig = SFTModelConfig()
    task: DemonstrationConfig = DemonstrationConfig()
    sampler: Sampler = Sampler()
    estimator: EstimatorSection = ELBO(num_mc=1, coupled=False)
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=1.0)
    training: SFTTrainingConfig = SFTTrainingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig(every=500)
    logging: LoggingConfig = LoggingConfig()
    output_dir: str = "runs/{recipe}-{time}"
    seed: int = 42
