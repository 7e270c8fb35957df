"""Whether a global batch can be shared by ranks and micro-batches."""

from __future__ import annotations

import math

from trainables.config import SMALL_IMAGE, TrialConfig
from trainables.errors import ConfigError, complaint


def check_shares(config: TrialConfig, world_size: int) -> None:
    """Raise ConfigError where `world_size` ranks can't train on shares of the global batch."""
    _check_batch(config, world_size)
    _check_statistics(config, world_size)


def _check_batch(config: TrialConfig, world_size: int) -> None:
    batch, micro = config.global_batch_size, config.optim.micro_batch_size
    mixed = config.data.mixup_alpha > 0 or config.data.cutmix_alpha > 0
    parts = math.ceil(math.ceil(batch / world_size) / micro) if micro else 1
    least = world_size * parts * (2 if mixed else 1)
    if batch < least:
        allowed = f"at least {least}, on {world_size} ranks in {parts} micro-batches"
        remedy = "raise global_batch_size or lower resources.workers"
        raise ConfigError(complaint("global_batch_size", batch, allowed, remedy))
    if mixed and batch % (2 * world_size):
        allowed = f"a multiple of {2 * world_size}, since mixup and CutMix mix pairs on {world_size} ranks"
        raise ConfigError(complaint("global_batch_size", batch, allowed, "change it, or set the alphas to 0"))


def _check_statistics(config: TrialConfig, world_size: int) -> None:
    """Batch norm must not see a single value a channel: one sample whose last stage is a pixel."""
    stride = 16 if config.data.image_size < SMALL_IMAGE else 32
    last_side = -(-config.data.image_size // stride)
    alone = config.global_batch_size == world_size and last_side == 1
    if alone and config.model.norm in ("bn", "ghost_bn"):
        allowed = f"at least {2 * world_size} with model.norm {config.model.norm} at {config.data.image_size} px"
        raise ConfigError(
            complaint("global_batch_size", config.global_batch_size, allowed, "raise it, or set model.norm to gn")
        )
