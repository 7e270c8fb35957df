"""When the fingerprints within a step are taken: before its gradients, and before its update."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainables.fingerprints import (
    RunningStatistics,
    bn_drift,
    bn_gap,
    label_counts,
    label_entropy,
    moment_norm,
    of_every_rank,
    running_statistics,
    zero_gradient_share,
)
from trainables.norms import NormSettings, batch_norms
from trainables.signals import WITHIN
from trainables.state import TrainState


class Measurement:
    """The fingerprints of one step, which cost a few more passes over the weights.

    Made before the gradients are; then `see_labels` for each micro-batch, `before_update` and `known`, on all ranks.
    Nothing is changed, and nothing waits for the device.

    Args:
        state: that the step starts from.
        norm: how the step's batch norms take their statistics; None: as the layers say.

    """

    def __init__(self, state: TrainState, norm: NormSettings | None) -> None:
        self.state = state
        self.momentum = _momentum(state, norm)
        self.statistics = running_statistics(state.model)
        self.counts: Tensor | None = None
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

    def known(self) -> Tensor:
        """The values that `WITHIN` names, rank 0's on every rank, float64 on the device; nan where there is none."""
        absent = torch.full((), math.nan, dtype=torch.float64, device=self.state.device)
        own = torch.stack([self.values.get(name, absent).double() for name in WITHIN])
        return of_every_rank(own, self.state.ranks)[0] if self.state.ranks.world_size > 1 else own

    def _compare(self, now: RunningStatistics | None) -> None:
        if self.statistics is not None and now is not None:
            self.values["bn_drift"] = bn_drift(self.statistics, now)
            self.values["bn_gap"] = bn_gap(self.statistics, now, self.momentum)


def unmeasured(device: torch.device) -> Tensor:
    """What `Measurement.known` gives where nothing was measured."""
    return torch.full((len(WITHIN),), math.nan, dtype=torch.float64, device=device)


def _momentum(state: TrainState, norm: NormSettings | None) -> float:
    """Share of a batch's statistics in the running ones, the same in all layers; nan where it varies by the step."""
    own = [layer.momentum for layer in batch_norms(state.model)]
    momentum = norm.momentum if norm is not None else (own[0] if own else None)
    return math.nan if momentum is None else momentum
