"""All that a recipe can say, checked in no time: nothing here imports torch.

A recipe is a YAML file plus dotted overrides. Settings of samplers, objectives and estimators are
the classes that do the work; they are validated here and handed over as they are.
"""

from unmask.config.compare import CompareConfig, TuneConfig
from unmask.config.sections import (
    AdvantageConfig,
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    MismatchConfig,
    ModelConfig,
    OptimizerConfig,
    RewardConfig,
    TaskConfig,
    TrainingConfig,
)
from unmask.config.sft import DemonstrationConfig, SFTConfig, SFTModelConfig, SFTTrainingConfig
from unmask.config.train import TrainConfig

AnyConfig = TrainConfig | SFTConfig | CompareConfig
COMMANDS: dict[str, type[TrainConfig] | type[SFTConfig] | type[CompareConfig]] = {
    "train": TrainConfig,
    "sft": SFTConfig,
    "compare": CompareConfig,
}

__all__ = [
    "COMMANDS",
    "AdvantageConfig",
    "AnyConfig",
    "CheckpointConfig",
    "CompareConfig",
    "DemonstrationConfig",
    "EvaluationConfig",
    "LoggingConfig",
    "MismatchConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RewardConfig",
    "SFTConfig",
    "SFTModelConfig",
    "SFTTrainingConfig",
    "TaskConfig",
    "TrainConfig",
    "TrainingConfig",
    "TuneConfig",
]
