"""The optimizer: SGD with momentum, its decayed and undecayed parameters, and the linear scaling rule."""

from __future__ import annotations

import torch
from torch import nn

from trainables.config import OptimConfig


def peak_learning_rate(config: OptimConfig, global_batch_size: int) -> float:
    """`lr`, scaled linearly with the batch where `lr_batch_size` is set (Goyal et al. 2017, section 2.1)."""
    if config.lr_batch_size is None:
        return config.lr
    return config.lr * global_batch_size / config.lr_batch_size


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """SGD over `model`; vectors (norms and biases) are not decayed.

    Momentum buffers exist from the start, as zeros: the first step then does what torch's own lazy ones do, and a
    snapshot always has the same tensors.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )
    if config.momentum > 0:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
