"""Sections that recipes are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from unmask.estimators import ESTIMATORS, Estimator
from unmask.models.settings import LoRA
from unmask.objectives import OBJECTIVES, Objective
from unmask.schema import Section, by_name

Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _as_list(value: Any) -> Any:
    """One value as a list of one."""
    return value if value is None or isinstance(value, list | tuple) else [value]


def as_rewards(value: Any) -> Any:
    """Terms of a reward, each as a mapping where only its function is named."""
    if value is None:
        return None
    return [{"function": item} if isinstance(item, str) else item for item in _as_list(value)]


class ModelConfig(Section):
    """The checkpoint.

    Args:
        path: a folder, the name of a packaged model, or a hub id.
        family: the expected checkpoint family; auto = as its config.json says.
        dtype: of the weights; auto = float32 where all weights are trained, else the checkpoint's.
        attention: transformers' attention implementation.
        gradient_checkpointing: recompute activations in the backward pass.
        compile: compile the network's layers at their first pass (torch.compile); what runs with
            a cache stays uncompiled, and block-causal networks are refused.
        lora: train low-rank adapters instead of all weights.
        mask_token_id: the mask token, where the checkpoint does not name it; null = as it says.
        block_length: of block-causal attention, where the checkpoint does not tell; null = as it
            says, or its family's.
        quantization: 4bit or 8bit weights under adapters, through bitsandbytes on CUDA.
    """

    path: str = "tiny-sudoku"
    family: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    gradient_checkpointing: bool = False
    compile: bool = False
    lora: LoRA | None = None
    mask_token_id: int | None = Field(None, ge=0)
    block_length: int | None = Field(None, ge=1)
    quantization: Literal["4bit", "8bit"] | None = None

    @property
    def for_use(self) -> dict[str, Any]:
        """What `load_policy` takes, without new adapters and what a backward pass needs."""
        return {**dict(self), "lora": None, "gradient_checkpointing": False}


class DataConfig(Section):
    """Where prompts come from.

    Args:
        name: of a task, see `unmask tasks`.
        split: trained on.
        size: problems to generate.
        prompt: format of the generated prompts, or null for the task's first one.
        max_prompt_length: longest prompt in tokens.
        long_prompts: drop longer prompts and count them, or refuse to run.
        options: settings of the task itself.
    """

    name: str = "sudoku"
    dataset: str | None = None
    split: str = "train"
    size: int = Field(10_000, ge=1)
    prompt: str | None = None
    max_prompt_length: int = Field(400, ge=1)
    long_prompts: Literal["drop", "refuse"] = "drop"
    options: dict[str, Any] = {}


class TaskConfig(DataConfig):
    """Prompts and the default reward.

    Args:
        dataset: a local JSON / JSON Lines / CSV / Parquet file or folder, or a hub id, with a
            `prompt` column and what the reward needs, or in the schema of the task's own data set;
            sample = the few problems in the package; null = the task's generator or hub data set.
        eval_split: measured on.
    """

    eval_split: str = "heldout"


class RewardConfig(Section):
    """One term of the reward.

    Args:
        function: "module:name" of a callable in TRL's signature.
        weight: factor in the sum.
    """

    function: str
    weight: float = 1.0


class AdvantageConfig(Section):
    """How the rewards of a group become advantages.

    Args:
        name: of a function in `unmask.advantages`.
        eps: added to the standard deviation, where the method divides by one.
        unbiased: sample (G-1) standard deviation in group_norm, else the population's.
    """

    name: Literal["leave_one_out", "group_mean", "group_norm", "rloo_scaled", "maxrl"] = (
        "leave_one_out"
    )
    eps: float = Field(1e-4, ge=0)
    unbiased: bool = True


class MismatchConfig(Section):
    """What to do about a sampler that is not the policy: one with a cache or a parallel rule.

    Args:
        states: revealed tokens per round and process of which the distribution that they were
            drawn from is compared with the exact conditionals; 0 = none.
        weights: multiply each advantage by the completion's importance weight, by exact
            conditionals at each step or of each token; none leaves samples as they are.
        truncate: largest weight.
    """

    states: int = Field(64, ge=0)
    weights: Literal["none", "step", "token"] = "none"
    truncate: float = Field(2.0, gt=0)


class OptimizerConfig(Section):
    """AdamW, clipping and the learning-rate schedule.

    Args:
        lr: peak learning rate.
        betas: AdamW's.
        weight_decay: AdamW's, on matrices only.
        max_grad_norm: gradients are clipped to this norm; null = not at all.
        schedule: after warm-up.
        warmup_steps: updates of linear warm-up.
    """

    lr: float = Field(3e-6, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float | None = Field(0.2, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)


class PassConfig(Section):
    """How the model is run.

    Args:
        max_tokens_per_batch: padded tokens of one forward pass; auto = 16384.
        precision: bf16 = autocast with float32 weights.
    """

    max_tokens_per_batch: Count | Literal["auto"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"

    @property
    def tokens_per_pass(self) -> int:
        """`max_tokens_per_batch` with auto resolved."""
        return 16384 if self.max_tokens_per_batch == "auto" else self.max_tokens_per_batch


class TrainingConfig(PassConfig):
    """The loop.

    Args:
        num_rollouts: rollout rounds.
        prompts_per_rollout: prompts of one round, over all processes.
        num_generations: G, completions per prompt.
        num_iterations: mu, updates on one round.
        reference_sync_every: copy the policy into the reference every n rounds; null = never.
        max_skipped_updates: stop after so many updates in a row with a non-finite loss or gradient.
    """

    num_rollouts: int = Field(500, ge=1)
    prompts_per_rollout: int = Field(16, ge=1)
    num_generations: int = Field(6, ge=1)
    num_iterations: int = Field(8, ge=1)
    reference_sync_every: int | None = Field(None, ge=1)
    max_skipped_updates: int = Field(5, ge=1)


class EvaluationConfig(Section):
    """Measuring on `task.eval_split`.

    Args:
        every: rollout rounds between measurements; null = only before and after.
        num_examples: problems; null = all of a data set.
        greedy: measure at temperature 0.
        sampled: measure at `temperature`.
        temperature: of the sampled measurement.
        gen_length: in `unmask eval`, one or several lengths, with steps in proportion; null =
            the sampler's.
        samplers: in `unmask eval`, sampler settings to measure under, by name; empty = the
            sampler's.
        num_samples: in `unmask eval`, completions of each problem in the sampled measurement.
        k: in `unmask eval`, the k of pass@k and maj@k.
        keep_best: while training, keep the model that measured best as `best/` in the run folder.
    """

    every: int | None = Field(50, ge=1)
    num_examples: int | None = Field(256, ge=1)
    greedy: bool = True
    sampled: bool = True
    temperature: float = Field(1.0, gt=0)
    gen_length: Annotated[list[Count], BeforeValidator(_as_list)] | None = None
    samplers: dict[str, dict[str, Any]] = {}
    num_samples: int = Field(1, ge=1)
    k: Annotated[list[Count], BeforeValidator(_as_list), Field(min_length=1)] = [1]
    keep_best: bool = True

    @model_validator(mode="after")
    def _check_k(self) -> EvaluationConfig:
        if max(self.k) > self.num_samples:
            raise ValueError(
                f"evaluation.k={self.k} with evaluation.num_samples={self.num_samples}: k answers "
                "are drawn from the samples of a problem, so take at least as many samples"
            )
        return self


class CheckpointConfig(Section):
    """What makes a run survive.

    Args:
        every: rollout rounds between checkpoints; null = only when stopped.
        keep: newest checkpoints to keep.
        resume: never; auto = the newest whole checkpoint of output_dir; or a checkpoint's path.
    """

    every: int | None = Field(50, ge=1)
    keep: int = Field(3, ge=1)
    resume: str = "never"


class LoggingConfig(Section):
    """Where metrics go, besides metrics.jsonl.

    Args:
        trackers: accelerate's trackers: tensorboard, wandb, trackio, mlflow, …
        rollouts: keep every rollout on disk.
    """

    trackers: list[str] = ["tensorboard"]
    rollouts: bool = True


ObjectiveSection = Annotated[Objective, *by_name(OBJECTIVES, "objective")]
EstimatorSection = Annotated[Estimator, *by_name(ESTIMATORS, "estimator")]
