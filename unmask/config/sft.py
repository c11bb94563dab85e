"""A supervised fine-tuning run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from unmask.config.sections import (
    CheckpointConfig,
    Count,
    EstimatorSection,
    LoggingConfig,
    OptimizerConfig,
)
from unmask.estimators import ELBO
from unmask.models.settings import LoRA, TinyArchitecture
from unmask.sampling.settings import Sampler
from unmask.schema import Section


class SFTModelConfig(Section):
    """The model to teach: a checkpoint, or a tiny one from scratch.

    Args:
        path: a checkpoint as in `train`; null = build `init`.
        init: the shape of a new tiny model, with a tokenizer of the task's symbols.
        lora: train low-rank adapters instead of all weights.
        mask_token_id: the mask token, where the checkpoint does not name it; null = as it says.
        block_length: of block-causal attention, where the checkpoint does not tell; null = as it
            says, or its family's.
        quantization: 4bit or 8bit weights under adapters, through bitsandbytes on CUDA.
    """

    path: str | None = None
    init: TinyArchitecture = TinyArchitecture()
    lora: LoRA | None = None
    mask_token_id: int | None = Field(None, ge=0)
    block_length: int | None = Field(None, ge=1)
    quantization: Literal["4bit", "8bit"] | None = None


class DemonstrationConfig(Section):
    """Prompts with completions to imitate.

    Args:
        name: of a task, see `unmask tasks`.
        dataset: a local file or folder, or a hub id, with `prompt` and `completion` columns;
            null = the task's generator.
        split: of the dataset.
        size: demonstrations to generate.
        noise: fraction of generated demonstrations that are corrupted.
        prompt: format of the generated prompts, or null for the task's first one.
        max_prompt_length: longest prompt in tokens.
        long_prompts: drop longer prompts and count them, or refuse to run.
        options: settings of the task itself.
    """

    name: str = "sudoku"
    dataset: str | None = None
    split: str = "train"
    size: int = Field(10_000, ge=1)
    noise: float = Field(0.0, ge=0, le=1)
    prompt: str | None = None
    max_prompt_length: int = Field(400, ge=1)
    long_prompts: Literal["drop", "refuse"] = "drop"
    options: dict[str, Any] = {}


class SFTTrainingConfig(Section):
    """The supervised loop.

    Args:
        num_steps: updates.
        batch_size: demonstrations per update, over all processes.
        max_tokens_per_batch: padded tokens of one forward pass; auto = 16384.
        precision: bf16 = autocast with float32 weights.
    """

    num_steps: int = Field(1000, ge=1)
    batch_size: int = Field(128, ge=1)
    max_tokens_per_batch: Count | Literal["auto"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"

    @property
    def tokens_per_pass(self) -> int:
        """`max_tokens_per_batch` with auto resolved."""
        return 16384 if self.max_tokens_per_batch == "auto" else self.max_tokens_per_batch


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
