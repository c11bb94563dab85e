"""A reinforcement-learning run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from unmask.config.sections import (
    AdvantageConfig,
    CheckpointConfig,
    EstimatorSection,
    EvaluationConfig,
    LoggingConfig,
    MismatchConfig,
    ModelConfig,
    ObjectiveSection,
    OptimizerConfig,
    RewardConfig,
    TaskConfig,
    TrainingConfig,
    as_rewards,
)
from unmask.estimators import ELBO
from unmask.models.settings import Promising
from unmask.objectives import ESPO
from unmask.sampling.settings import Sampler
from unmask.schema import Section
from unmask.tasks.sandbox.settings import SandboxSettings


class TrainConfig(Section):
    """A reinforcement-learning run.

    Args:
        command: which command the recipe is for.
        model: the checkpoint.
        task: prompts and the default reward.
        reward: terms of the reward; null = the task's own.
        sandbox: where programs that the model writes are run.
        sampler: how completions are written.
        mismatch: between an approximate sampler and the policy.
        objective: the loss, by name.
        estimator: of a completion's likelihood, by name.
        advantage: rewards to advantages, by name.
        promising: the likelihood's softmax over promising tokens only; null = all tokens.
        optimizer: AdamW, clipping, schedule.
        training: the loop.
        evaluation: measuring on held-out problems.
        checkpoint: saving and resuming.
        logging: trackers.
        output_dir: the run folder; {recipe} and {time} are filled in.
        seed: of everything random.
    """

    command: Literal["train"] = "train"
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    sandbox: SandboxSettings = SandboxSettings()
    reward: Annotated[list[RewardConfig] | None, BeforeValidator(as_rewards)] = None
    sampler: Sampler = Sampler()
    mismatch: MismatchConfig = MismatchConfig()
    objective: ObjectiveSection = ESPO()
    estimator: EstimatorSection = ELBO()
    advantage: AdvantageConfig = AdvantageConfig()
    promising: Promising | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    output_dir: str = "runs/{recipe}-{time}"
    seed: int = 42

    @model_validator(mode="after")
    def _check_objective(self) -> TrainConfig:
        self.objective.check(self.estimator)
        sampler = self.sampler
        if self.objective.sampling_logprobs:
            if sampler.temperature == 0:
                raise ValueError(
                    "sampler.temperature=0: this objective compares probabilities as the sampler "
                    "takes tokens, and it takes none by chance; set a temperature above 0"
                )
            if sampler.top_p < 1 and not sampler.top_k:
                raise ValueError(
                    f"sampler.top_p={sampler.top_p}, top_k=0: this objective compares "
                    "probabilities as the sampler takes tokens, and keeps a list of those that "
                    "it could; limit the list by sampler.top_k (150 in AGRPO's paper)"
                )
            if self.promising is not None:
                raise ValueError(
                    f"promising={asdict(self.promising)}: this objective compares probabilities "
                    "over the tokens that the sampler could take; set it to null"
                )
        return self

    @property
    def sampled_candidates(self) -> Promising | None:
        """The tokens that the sampler can take, where the objective reads its probabilities."""
        if self.objective.sampling_logprobs and self.sampler.top_k:
            return Promising(self.sampler.top_k, self.sampler.top_p)
        return None

    @model_validator(mode="after")
    def _check_mismatch(self) -> TrainConfig:
        if self.mismatch.weights != "none" and self.sampler.temperature == 0:
            raise ValueError(
                f"mismatch.weights={self.mismatch.weights}: at sampler.temperature=0 nothing is "
                "drawn that a weight could correct; set it to none, or a temperature above 0"
            )
        return self

    @model_validator(mode="after")
    def _check_promising(self) -> TrainConfig:
        if self.promising is not None and self.objective.rollout_estimator is not None:
            raise ValueError(
                f"promising={asdict(self.promising)}: this objective weighs completions by their "
                "likelihood over all tokens; set it to null"
            )
        return self

    @model_validator(mode="after")
    def _check_group(self) -> TrainConfig:
        if self.objective.offline and self.training.num_generations != 2:
            raise ValueError(
                f"training.num_generations={self.training.num_generations}: this objective learns "
                "from pairs; set it to 2"
            )
        if self.training.num_generations < 2 and self.objective.grouped:
            raise ValueError(
                f"training.num_generations={self.training.num_generations} with "
                f"advantage.name={self.advantage.name}: a completion is compared with others of "
                "its prompt, so sample at least 2"
            )
        return self
