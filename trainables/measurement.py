"""When the fingerprints of a step are taken: before its gradients, before its update, after it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainables.fingerprints import (
    RunningStatistics,
    bn_drift,
    bn_gap,
    checksum_spread,
    label_counts,
    label_entropy,
    moment_norm,
    of_every_rank,
    running_statistics,
    update_ratio,
    weight_checksum,
    weight_norm,
    zero_gradient_share,
)
from trainables.norms import NormSettings, batch_norms
from trainables.signals import MEASURED
from trainables.state import TrainState


class Measurement:
    """The fingerprints of one step, which cost a few more passes over the weights.

    Made before the gradients are; then `see_labels` for each micro-batch, `before_update` and `after_update`, on all
    ranks. Nothing is changed, and nothing waits for the device.

    Args:
        state: that the step starts from.
        norm: how the step's batch norms take their statistics; None: as the layers say.

    """

    def __init__(self, state: TrainState, norm: NormSettings | None) -> None:
        self.state = state
        self.weights = [p.detach() for p in state.parameters]
        self.momentum = _momentum(state, norm)
        self.statistics = running_statistics(state.model)
        self.counts: Tensor | None = None
        self.before: list[Tensor] = []
        self.values: dict[str, Tensor] = {}
        moments = moment_norm(state.optimizer)
        if moments is not None:
            self.values["moment_norm"] = moments

    def see_labels(self, labels: Tensor, classes: int) -> None:
        """Take the labels [n] of a micro-batch."""
        counts = label_counts(labels, classes)
        self.counts = counts if self.counts is None else self.counts + counts

    @torch.no_grad()
    def before_update(self, samples: int) -> None:
        """Look at the gradients as the backward pass left them, of a global batch of `samples`."""
        state = self.state
        self.values["grad_zero_share"] = zero_gradient_share(state.parameters)
        if self.counts is not None:
            self.values["label_entropy"] = label_entropy(state.ranks.sum(self.counts), samples)
        self._compare(running_statistics(state.model))
        self.before = [weight.clone() for weight in self.weights]

    @torch.no_grad()
    def after_update(self) -> Tensor:
        """The values that `MEASURED` names, rank 0's on every rank, float64 on the device; nan where there is none."""
        norm = weight_norm(self.weights)
        self.values |= {"weight_norm": norm, "update_ratio": update_ratio(self.weights, self.before, norm)}
        absent = torch.full((), math.nan, dtype=torch.float64, device=self.state.device)
        ranks = self.state.ranks
        if ranks.world_size == 1:
            return torch.stack([self.values.get(name, absent).double() for name in MEASURED])
        own = [self.values.get(name, absent).double() for name in MEASURED]
        rows = of_every_rank(torch.stack([*own, weight_checksum(self.weights)]), ranks)
        values = rows[0, :-1].clone()
        values[MEASURED.index("weight_checksum_spread")] = checksum_spread(rows[:, -1])
        return values

    def _compare(self, now: RunningStatistics | None) -> None:
        if self.statistics is not None and now is not None:
            self.values["bn_drift"] = bn_drift(self.statistics, now)
            self.values["bn_gap"] = bn_gap(self.statistics, now, self.momentum)


def unmeasured(device: torch.device) -> Tensor:
    """What `Measurement.after_update` gives where nothing was measured."""
    return torch.full((len(MEASURED),), math.nan, dtype=torch.float64, device=device)


def _momentum(state: TrainState, norm: NormSettings | None) -> float:
    """Share of a batch's statistics in the running ones, the same in all layers; nan where it varies by the step."""
    own = [layer.momentum for layer in batch_norms(state.model)]
    momentum = norm.momentum if norm is not None else (own[0] if own else None)
    return math.nan if momentum is None else momentum
