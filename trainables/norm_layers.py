"""Kinds of batch norm that neither torch nor timm has: statistics of ghost batches, of all ranks, renormalised."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm as SyncBatchNormFunction

from trainables.ranks import Ranks

PURE_STEPS = 100
"""Batch renorm is plain batch norm for so many steps, ten times the memory of its running statistics. This and the two
ends of ramps are the 5000, 40,000 and 25,000 steps of Ioffe 2017 over 50: the statistics there had ten times the memory
(momentum 0.01), and trials here are shorter."""
R_MAX = 3.0
"""Batch renorm's r_max from `R_RAMP_END` on (Ioffe 2017)."""
R_RAMP_END = 800
"""Step at which r_max, which grows linearly from 1 after `PURE_STEPS`, is at its limit."""
D_MAX = 5.0
"""Batch renorm's d_max from `D_RAMP_END` on (Ioffe 2017)."""
D_RAMP_END = 500
"""Step at which d_max, which grows linearly from 0 after `PURE_STEPS`, is at its limit."""


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


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are taken over the batches of all ranks, of any sizes.

    torch's nn.SyncBatchNorm on CUDA; on a CPU, where that refuses to train, the same by way of sums over the ranks. It
    is no subclass of it, since DistributedDataParallel refuses any on a CPU. One rank does what batch norm does.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise [n, channels, height, width]; while training every rank must call it."""
        ranks = Ranks.current()
        if not self.training or ranks.world_size == 1:
            return super().forward(images)
        cast("Tensor", self.num_batches_tracked).add_(1)
        if images.is_cuda:
            statistics = (self.running_mean, self.running_var, self.eps, self.momentum)
            group = (dist.group.WORLD, ranks.world_size)
            return cast("Tensor", SyncBatchNormFunction.apply(images, self.weight, self.bias, *statistics, *group))
        values = images.float()
        own_count = values.new_tensor([values.numel() / self.num_features])
        sums = _SumOverRanks.apply(torch.cat([own_count, values.sum((0, 2, 3))]))
        count, total = sums.tensor_split([1])
        mean = total / count
        centred = values - _by_channel(mean)
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        self._track(mean, variance * count / (count - 1.0))
        normalized = centred * _by_channel(self.weight * (variance + self.eps).rsqrt()) + _by_channel(self.bias)
        return normalized.to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Move the running statistics, as batch norm does."""
        momentum = cast("float", self.momentum)
        cast("Tensor", self.running_mean).lerp_(mean, momentum)
        cast("Tensor", self.running_var).lerp_(unbiased_variance, momentum)


class BatchRenorm2d(nn.BatchNorm2d):
    """Batch norm corrected towards the running statistics, within limits that widen as training goes on (Ioffe 2017).

    The normalised value is (x - mean) / std * r + d, with r = std / running_std in [1 / r_max, r_max] and
    d = (mean - running_mean) / running_std in [-d_max, d_max], both without a gradient. r_max and d_max are functions
    of the buffer `num_batches_tracked`. Within the limits a sample is treated in training as it is in evaluation.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise [n, channels, height, width]."""
        if not self.training:
            return super().forward(images)
        mean, variance = cast("Tensor", self.running_mean), cast("Tensor", self.running_var)
        ratio, shift = self._correction(images, mean, (variance + self.eps).sqrt())
        cast("Tensor", self.num_batches_tracked).add_(1)
        weight, bias = self.weight * ratio, self.weight * shift + self.bias
        momentum = cast("float", self.momentum)
        return F.batch_norm(images, mean, variance, weight, bias, training=True, momentum=momentum, eps=self.eps)

    @torch.no_grad()
    def _correction(self, images: Tensor, running_mean: Tensor, running_std: Tensor) -> tuple[Tensor, Tensor]:
        """The paper's r and d, [channels] each; nothing is read back from the device."""
        variance, mean = torch.var_mean(images.float(), (0, 2, 3), correction=0)
        ratio_limit = 1.0 + (R_MAX - 1.0) * self._ramp(R_RAMP_END)
        shift_limit = D_MAX * self._ramp(D_RAMP_END)
        ratio = (variance + self.eps).sqrt() / running_std
        shift = (mean - running_mean) / running_std
        return ratio.clamp(1.0 / ratio_limit, ratio_limit), shift.clamp(-shift_limit, shift_limit)

    def _ramp(self, end: int) -> Tensor:
        """Share of the ramp from `PURE_STEPS` to `end` that is done, a scalar in [0, 1]."""
        steps = cast("Tensor", self.num_batches_tracked)
        return ((steps - PURE_STEPS) / (end - PURE_STEPS)).clamp(0.0, 1.0)


class _SumOverRanks(torch.autograd.Function):
    """Sum over all ranks, whose gradient is the sum of all ranks' gradients.

    torch.distributed.nn.functional.all_reduce does the same and is deprecated; what is to replace it is private.
    """

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        return Ranks.current().sum(values.clone())

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return Ranks.current().sum(gradients[0].clone(memory_format=torch.contiguous_format))


def _by_channel(values: Tensor) -> Tensor:
    """[channels] -> [1, channels, 1, 1]."""
    return values.view(1, -1, 1, 1)
