"""AdamW and its schedule, from a recipe's `optimizer` section."""

from __future__ import annotations

import torch
from torch import nn
from transformers import get_scheduler

from unmask.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only.

    Raises:
        ValueError: if no parameter is trainable.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(
            "the model has 0 trainable parameters: set model.lora to the r and alpha of its "
            "adapters to train them further"
        )
    groups = [
        {
            "params": [parameter for parameter in trainable if parameter.dim() >= 2],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [parameter for parameter in trainable if parameter.dim() < 2],
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, num_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning-rate schedule over `num_steps` updates, from transformers."""
    name: str = config.schedule
    if name == "constant" and config.warmup_steps:
        name = "constant_with_warmup"
    return get_scheduler(
        name, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=num_steps
    )
