"""What a step tells about itself: cheap numbers, the same on every rank.

A step leaves one small vector on its device; vectors are read in batches, so that a GPU never waits for the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.ranks import Ranks
from trainables.step_signals import StepSignals, one_nan

SUMS = 6
"""Samples, losses, squared losses, right ones, notices to stop, mean squared logits; the sums over pixels follow."""
LOSSES, NOTICE = 1, 4
"""Places in the sums."""
BAD = 1
"""Place in what is known after the step."""
WITHIN = ("grad_zero_share", "moment_norm", "bn_drift", "bn_gap", "label_entropy")
"""Signals that are measured within some steps only, as they stand at the end of what is known after the step."""
OF_WEIGHTS = ("update_ratio", "weight_norm", "update_error", "weight_checksum_spread")
"""Signals of what the same steps did to the weights, looked at from outside."""
MEASURED = (*WITHIN, *OF_WEIGHTS)
"""Signals of some steps only."""
AFTER = 4 + len(WITHIN)
"""Values that are known after the step."""


@dataclass(frozen=True)
class StepRecord:
    """One step before it is read: what the host knows, and a float64 vector on the device."""

    step: int
    learning_rate: float
    sums: Tensor
    """Sums over the global batch: `batch_sums`."""
    after: Tensor
    """Gradient norm, bad (0 or 1), overflowed (0 or 1), loss scale (nan: none), `WITHIN` (nan: not measured)."""
    mixed_share: float = 0.0
    """Share of each image that was another one's."""
    of_weights: Tensor | None = None
    """`OF_WEIGHTS`; None: not measured."""


def batch_sums(losses: Tensor, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
    """Sums of one rank's samples from which the signals follow, float64, on the device.

    losses [n], logits [n, classes], labels [n], images [n, 3, side, side].
    """
    losses = losses.detach().double()
    right = (logits.detach().argmax(1) == labels).double().sum()
    count = torch.full_like(right, float(len(losses)))
    squares = logits.detach().double().square().mean(1).sum()
    head = torch.stack([count, losses.sum(), losses.square().sum(), right, torch.zeros_like(right), squares])
    return torch.cat([head, pixel_sums(images)])


def pixel_sums(images: Tensor) -> Tensor:
    """Pixels of a channel, each channel's sum, each channel's sum of squares: float64 [1 + 2 * channels]."""
    pixels = images.detach().double()
    sums = pixels.sum(dim=(0, 2, 3))
    area = torch.full_like(sums[:1], float(images[:, 0].numel()))
    return torch.cat([area, sums, pixels.square().sum(dim=(0, 2, 3))])


def read_signals(records: Sequence[StepRecord]) -> list[StepSignals]:
    """Bring the vectors of some steps to the host, in one copy, and make signals of them."""
    if not records:
        return []
    unmeasured = torch.full((len(OF_WEIGHTS),), math.nan, dtype=torch.float64, device=records[0].sums.device)
    parts = [(r.sums, r.after, unmeasured if r.of_weights is None else r.of_weights) for r in records]
    rows = torch.stack([torch.cat(part) for part in parts]).cpu().tolist()
    return [_signals(record, row) for record, row in zip(records, rows, strict=True)]


def _signals(record: StepRecord, row: list[float]) -> StepSignals:
    count, loss_sum, squares, right, notices, logits = row[:SUMS]
    of_step = len(row) - AFTER - len(OF_WEIGHTS)
    grad_norm, bad, overflowed, scale, *measured = row[of_step:]
    loss = loss_sum / count
    spread = max(0.0, squares / count - loss**2) if count > 1 else math.nan
    mean, std = moments(row[SUMS:of_step])
    return StepSignals(
        step=record.step,
        loss=one_nan(loss),
        loss_noise=one_nan(math.sqrt(spread / (count - 1)) if count > 1 else math.nan),
        learning_rate=record.learning_rate,
        grad_norm=one_nan(grad_norm),
        loss_scale=one_nan(scale),
        logit_rms=one_nan(math.sqrt(logits / count)),
        top1=right / count,
        input_mean=mean,
        input_std=std,
        applied=not bad,
        overflowed=bool(overflowed),
        mixed_share=record.mixed_share,
        notice=notices > 0,
        **{name: one_nan(value) for name, value in zip(MEASURED, measured, strict=True)},
    )


def input_moments(images: Tensor, ranks: Ranks) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of [n, channels, height, width] over the global batch."""
    return moments(ranks.sum(pixel_sums(images)).tolist())


def moments(sums: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation from what `pixel_sums` gives."""
    area, *totals = sums
    channels = len(totals) // 2
    means = tuple(total / area for total in totals[:channels])
    variances = (total / area - mean**2 for total, mean in zip(totals[channels:], means, strict=True))
    return means, tuple(math.sqrt(max(0.0, variance)) for variance in variances)
