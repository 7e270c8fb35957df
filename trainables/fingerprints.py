"""The cheap fingerprints of causes: one small function each, whose value stays on the device.

Each looks at one ingredient of a step: the weights, their gradients, the optimizer's moments, batch norm's running
statistics, the labels, the other ranks. `measurement` says when they are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from trainables.norms import batch_norms
from trainables.ranks import Ranks

VARIANCE_FLOOR = 1e-5
"""Added to a running variance before a distance is divided by it; torch's own default for batch norm's eps."""
CHECKSUM_PRIME = 3_141_592_653_589_861
"""Checksums are taken modulo it: float64 holds each exactly, and no power of two, as of a flipped bit, is lost."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of so many bytes."""
FIRST_MOMENTS = ("momentum_buffer", "exp_avg")
"""What torch and timm call an optimizer's average of the gradients."""


def weight_norm(weights: Sequence[Tensor]) -> Tensor:
    """L2 norm of all weights together, 0-dim."""
    return get_total_norm(weights)


def update_ratio(weights: list[Tensor], before: list[Tensor], norm: Tensor) -> Tensor:
    """Norm of the last update over the `norm` of the weights, 0-dim. `before` is used up."""
    # In place: fresh memory would cost as much as the sum.
    torch._foreach_sub_(before, weights)
    return get_total_norm(before) / norm


def zero_gradient_share(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Share of the parameters' elements whose gradient is exactly zero, or that have none, 0-dim float64."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = sum(p.numel() for p in parameters)
    if not gradients:
        return torch.ones((), dtype=torch.float64, device=parameters[0].device)
    others = torch.stack([torch.count_nonzero(gradient) for gradient in gradients]).sum()
    return 1.0 - others.double() / total


def moment_norm(optimizer: torch.optim.Optimizer) -> Tensor | None:
    """L2 norm of the optimizer's average of the gradients, 0-dim; None where it keeps none."""
    states = optimizer.state.values()
    moments = [state[name] for state in states for name in FIRST_MOMENTS if isinstance(state.get(name), Tensor)]
    return get_total_norm(moments) if moments else None


def label_counts(labels: Tensor, classes: int) -> Tensor:
    """How many of the labels [n] are of each class, float64 [classes]."""
    # Not torch.bincount, for which a GPU waits.
    counts = torch.zeros(classes, dtype=torch.float64, device=labels.device)
    return counts.scatter_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))


def label_entropy(counts: Tensor, samples: int) -> Tensor:
    """Entropy of a label histogram [classes] over the largest that `samples` labels can have, 0-dim.

    1: as even as ln(min(classes, samples)) allows; 0: one class alone; nan where it can't be anything else.
    """
    largest = math.log(max(1, min(len(counts), samples)))
    entropy: Tensor = torch.special.entr(counts / counts.sum()).sum()
    return entropy / (largest or math.nan)


@dataclass(frozen=True)
class RunningStatistics:
    """A copy of the running statistics of every batch norm, one after the other: float32 [channels] each."""

    mean: Tensor
    variance: Tensor
    batches: Tensor
    """How many batches its layer has seen."""


def running_statistics(model: nn.Module) -> RunningStatistics | None:
    """Those of now; None where the model keeps none."""
    layers = [layer for layer in batch_norms(model) if layer.running_mean is not None]
    if not layers:
        return None
    means, variances, batches = [], [], []
    for layer in layers:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        means.append(layer.running_mean)
        variances.append(layer.running_var)
        batches.append(layer.num_batches_tracked.expand(layer.num_features))
    return RunningStatistics(torch.cat(means), torch.cat(variances), torch.cat(batches))


def bn_drift(before: RunningStatistics, after: RunningStatistics) -> Tensor:
    """How far a step moved the running statistics, in running stds, 0-dim; 0: they are frozen."""
    return _distance(after.mean, after.variance, before)


def bn_gap(before: RunningStatistics, after: RunningStatistics, momentum: float) -> Tensor:
    """How far the statistics of a step's batch lay from the running ones, in running stds, 0-dim; nan: it had none.

    The batch's follow from what they moved: each of k batches leaves the share 1 - `momentum` of what was before.
    """
    taken = 1.0 - (1.0 - momentum) ** (after.batches - before.batches).double()
    mean = before.mean + (after.mean - before.mean) / taken
    variance = before.variance + (after.variance - before.variance) / taken
    return _distance(mean, variance.clamp_min(0.0), before)


def _distance(mean: Tensor, variance: Tensor, origin: RunningStatistics) -> Tensor:
    """Root mean square over channels of the changes of mean and std, in units of the std that they come from."""
    std = (origin.variance + VARIANCE_FLOOR).sqrt()
    shift = (mean - origin.mean) / std
    scale = (variance + VARIANCE_FLOOR).sqrt() / std - 1.0
    return (shift.square() + scale.square()).mean().sqrt()


def weight_checksum(weights: Sequence[Tensor]) -> Tensor:
    """A checksum of the bits of all weights, a whole number, 0-dim float64; one flipped bit changes it."""
    sums = [w.view(INTEGERS[w.element_size()]).sum(dtype=torch.int64) for w in weights]
    # Times its place, or two tensors of one shape could change theirs.
    places = torch.arange(1, 2 * len(sums), 2, device=sums[0].device)
    return (torch.stack(sums) * places).sum().remainder(CHECKSUM_PRIME).double()


def checksum_spread(checksums: Tensor) -> Tensor:
    """How many of the ranks' checksums [ranks] are not rank 0's, 0-dim float64; 0: all hold the same weights."""
    return (checksums != checksums[0]).sum().double()


def of_every_rank(values: Tensor, ranks: Ranks) -> Tensor:
    """Each rank's `values` [n], the same on every rank: [ranks, n]. Every rank must call it."""
    rows = values.new_zeros(ranks.world_size, len(values))
    rows[ranks.rank] = values
    return ranks.sum(rows)
