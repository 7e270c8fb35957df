"""What a step tells about itself: cheap numbers, the same on every rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.ranks import Ranks


@dataclass(frozen=True)
class StepSignals:
    """The signals of one step over the global batch; nan where a source has none."""

    step: int
    loss: float
    """Mean cross-entropy, in nats."""
    loss_noise: float = math.nan
    """Standard error of that mean, from the spread of the per-sample losses, in nats."""
    learning_rate: float = math.nan
    grad_norm: float = math.nan
    """Global L2 norm before clipping."""
    update_ratio: float = math.nan
    """Norm of the update over the norm of the weights."""
    top1: float = math.nan
    """Share of the batch classified right, in training mode."""
    input_mean: tuple[float, ...] = ()
    """Per-channel mean of the normalised input."""
    input_std: tuple[float, ...] = ()
    """Per-channel standard deviation of the normalised input."""
    applied: bool = True
    """False: the step was not finite and changed nothing."""

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite."""
        return math.isfinite(self.loss) and not math.isinf(self.grad_norm) and self.applied


@dataclass(frozen=True)
class BatchTotals:
    """Sums over the global batch, from which the signals follow."""

    loss: float
    loss_noise: float
    top1: float
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]


def batch_totals(losses: Tensor, logits: Tensor, labels: Tensor, images: Tensor, ranks: Ranks) -> BatchTotals:
    """Loss, its standard error, accuracy and input moments in one reduction over all ranks.

    losses [n], logits [n, classes], labels [n], images [n, 3, side, side]; sums are in float64.
    """
    parts = [
        torch.tensor([float(len(losses))], dtype=torch.float64),
        _on_host(losses.detach().double().sum()),
        _on_host(losses.detach().double().square().sum()),
        _on_host((logits.detach().argmax(1) == labels).double().sum()),
        *_pixel_sums(images),
    ]
    count, loss, squares, right, *pixels = ranks.sum(torch.cat(parts)).tolist()
    mean_loss = loss / count
    spread = max(0.0, squares / count - mean_loss**2) if count > 1 else math.nan
    mean, std = _moments(pixels)
    return BatchTotals(
        loss=mean_loss,
        loss_noise=math.sqrt(spread / (count - 1)) if count > 1 else math.nan,
        top1=right / count,
        input_mean=mean,
        input_std=std,
    )


def input_moments(images: Tensor, ranks: Ranks) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of [n, channels, height, width] over the global batch."""
    return _moments(ranks.sum(torch.cat(_pixel_sums(images))).tolist())


def _pixel_sums(images: Tensor) -> list[Tensor]:
    """Pixels of a channel, and each channel's sum and sum of squares, in float64 on the host."""
    pixels = images.detach().double()
    area = torch.tensor([float(images[:, 0].numel())], dtype=torch.float64)
    return [area, _on_host(pixels.sum(dim=(0, 2, 3))), _on_host(pixels.square().sum(dim=(0, 2, 3)))]


def _moments(sums: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    area, *totals = sums
    channels = len(totals) // 2
    means = tuple(total / area for total in totals[:channels])
    variances = (total / area - mean**2 for total, mean in zip(totals[channels:], means, strict=True))
    return means, tuple(math.sqrt(max(0.0, variance)) for variance in variances)


def _on_host(value: Tensor) -> Tensor:
    return value.reshape(-1).cpu()
