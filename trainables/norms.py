"""Normalisation layers, as torchvision's `norm_layer` takes them: a function of the number of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from trainables.config import NormName

NormLayer = Callable[[int], nn.Module]

GROUPS = 32
"""Groups of group norm (Wu and He 2018, section 3)."""


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are taken over `ghost_batch_size` samples at a time (Hoffer et al. 2017).

    A batch that is no multiple of it is cut into equal parts of at least that size. `ghost_batch_size` None takes the
    statistics over the whole batch.
    """

    def __init__(self, num_features: int, ghost_batch_size: int | None) -> None:
        super().__init__(num_features)
        self.ghost_batch_size = ghost_batch_size

    def forward(self, images: Tensor) -> Tensor:
        """Normalise each ghost batch of [n, channels, height, width] by itself while training."""
        if not self.training or self.ghost_batch_size is None or len(images) <= self.ghost_batch_size:
            return super().forward(images)
        ghosts = max(1, len(images) // self.ghost_batch_size)
        return torch.cat([super(GhostBatchNorm2d, self).forward(part) for part in images.tensor_split(ghosts)])


def build_norm_layer(name: NormName, ghost_batch_size: int) -> NormLayer:
    """The layer that `name` stands for."""
    match name:
        case "bn":
            return nn.BatchNorm2d
        case "ghost_bn":
            return lambda channels: GhostBatchNorm2d(channels, ghost_batch_size)
        case "gn":
            return lambda channels: nn.GroupNorm(GROUPS, channels)
        case "frozen_bn":
            frozen: NormLayer = FrozenBatchNorm2d
            return frozen


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a sample's output depends on the others in its batch while training."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@contextmanager
def whole_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let ghost batch norm take its statistics over the whole batch for the time being."""
    ghosts = [module for module in model.modules() if isinstance(module, GhostBatchNorm2d)]
    sizes = [module.ghost_batch_size for module in ghosts]
    try:
        for module in ghosts:
            module.ghost_batch_size = None
        yield
    finally:
        for module, size in zip(ghosts, sizes, strict=True):
            module.ghost_batch_size = size
