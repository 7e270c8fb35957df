"""The signals of one step, as plain data: what detectors and logs need, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True)
class StepSignals:
    """The signals of one step over the global batch; nan where a source has none."""

    step: int
    loss: float
    """Mean training loss, in nats."""
    loss_noise: float = math.nan
    """Standard error of that mean, from the spread of the per-sample losses, in nats."""
    learning_rate: float = math.nan
    grad_norm: float = math.nan
    """Global L2 norm before clipping."""
    loss_scale: float = math.nan
    """Factor on the loss that the step was taken with, where there is one."""
    logit_rms: float = math.nan
    """Root mean square of the logits."""
    update_ratio: float = math.nan
    """Norm of the update over the norm of the weights; this and what follows is measured on some steps only."""
    update_error: float = math.nan
    """Norm of what the update was more than one step of the optimizer's rule, over the norm of the update."""
    weight_norm: float = math.nan
    """Global L2 norm of the weights after the step."""
    weight_checksum_spread: float = math.nan
    """How many ranks' weights are not rank 0's after the step, to the last bit; nan where there is one rank."""
    grad_zero_share: float = math.nan
    """Share of the elements of the gradient that are exactly zero."""
    moment_norm: float = math.nan
    """Global L2 norm of the optimizer's average of the gradients before the step."""
    bn_drift: float = math.nan
    """How far the step moved batch norm's running statistics, in running stds; 0: frozen."""
    bn_gap: float = math.nan
    """How far the batch's statistics lay from the running ones, in running stds."""
    label_entropy: float = math.nan
    """Entropy of the batch's labels over ln(min(classes, samples)); 0: all of one class."""
    top1: float = math.nan
    """Share of the batch classified right, in training mode."""
    input_mean: tuple[float, ...] = ()
    """Per-channel mean of the normalised input."""
    input_std: tuple[float, ...] = ()
    """Per-channel standard deviation of the normalised input."""
    applied: bool = True
    """False: the gradient or the loss was not finite, and the step changed nothing."""
    overflowed: bool = False
    """True: only the fp16 loss scale was too large, which is halved; no fault of the run."""
    mixed_share: float = 0.0
    """Share of each image and label that mixup or CutMix took from another one, at most a half; 0: not mixed."""
    notice: bool = False
    """Some rank was told to stop."""

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """The signals that `dataclasses.asdict` made a mapping of, through JSON too, and by an earlier version."""
        known = {field.name for field in fields(cls)}
        moments = {key: tuple(row[key]) for key in ("input_mean", "input_std")}
        numbers = {key: one_nan(value) for key, value in row.items() if isinstance(value, float)}
        return cls(**{key: value for key, value in {**row, **numbers, **moments}.items() if key in known})

    @property
    def target_entropy(self) -> float:
        """Entropy of the two labels of a mixed sample, in nats: what even a perfect model's loss is; 0: not mixed."""
        return -sum(part * math.log(part) for part in (self.mixed_share, 1.0 - self.mixed_share) if part > 0)

    def unmixed(self, cost: float) -> Self:
        """The step at the loss that it would have had without mixing, where that costs `cost` nats a nat of entropy."""
        return replace(self, loss=self.loss - cost * self.target_entropy) if cost and self.mixed_share else self

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite, but for the loss scale's own overflows."""
        if self.overflowed:
            return math.isfinite(self.loss)
        return math.isfinite(self.loss) and not math.isinf(self.grad_norm) and self.applied


def one_nan(value: float) -> float:
    """One nan for all, so that equal signals compare as equal."""
    return math.nan if math.isnan(value) else value
