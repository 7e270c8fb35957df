"""Normalisation by name, as torchvision's `norm_layer` takes it: a function of the number of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from timm.layers.evo_norm import EvoNorm2dS0
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from trainables.config import NormName
from trainables.norm_layers import BatchRenorm2d, GhostBatchNorm2d, SyncBatchNorm2d

NormLayer = Callable[[int], nn.Module]

GROUPS = 32
"""Groups of group norm (Wu and He 2018, section 3)."""
ACTIVATED: tuple[NormName, ...] = ("evonorm_s0", "frn_tlu")
"""Norms with an activation of their own, in the ReLU's place."""


@dataclass(frozen=True)
class NormSettings:
    """How the batch norms of a model, of any kind, take their statistics."""

    momentum: float = 0.1
    """Share of the batch's statistics in the running ones, as torch has it."""
    eps: float = 1e-5
    """Added to the variance."""
    frozen: bool = False
    """True: running statistics are used in training too, and stay as they are."""


def build_norm_layer(name: NormName, ghost_batch_size: int) -> NormLayer:
    """The layer that `name` stands for; the identity for norm_free."""
    layer: NormLayer
    match name:
        case "bn":
            layer = nn.BatchNorm2d
        case "sync_bn":
            layer = SyncBatchNorm2d
        case "ghost_bn":
            return lambda channels: GhostBatchNorm2d(channels, ghost_batch_size)
        case "batch_renorm":
            layer = BatchRenorm2d
        case "frozen_bn":
            layer = FrozenBatchNorm2d
        case "gn" | "gn_ws":
            return lambda channels: nn.GroupNorm(GROUPS, channels)
        case "evonorm_s0":
            layer = EvoNorm2dS0
        case "frn_tlu":
            layer = FilterResponseNormTlu2d
        case "norm_free":
            return lambda channels: nn.Identity()
    return layer


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Every batch norm of a model, of whatever kind."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a sample's output depends on the others in its batch while training."""
    return bool(batch_norms(model))


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


@contextmanager
def norm_settings(model: nn.Module, settings: NormSettings | None) -> Iterator[None]:
    """Let every batch norm have `settings` for the time being; None leaves them as they are."""
    layers = batch_norms(model) if settings is not None else []
    before = [(layer.momentum, layer.eps, layer.training) for layer in layers]
    try:
        for layer in layers:
            assert settings is not None
            layer.momentum, layer.eps = settings.momentum, settings.eps
            layer.train(layer.training and not settings.frozen)
        yield
    finally:
        for layer, (momentum, eps, training) in zip(layers, before, strict=True):
            layer.momentum, layer.eps = momentum, eps
            layer.train(training)
