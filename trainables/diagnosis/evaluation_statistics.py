"""Batch norm's running statistics as a value: the run's own, or counted anew over training batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainables.ingredients import Ingredients, Stream, load_batch
from trainables.loop import forward, to_input
from trainables.norms import batch_norms, norm_settings
from trainables.precision import matrix_precision
from trainables.recipe import Recipe
from trainables.rng import generator
from trainables.state import TrainState

SAMPLES = 1024
"""Training samples that statistics are counted over, in batches of the run's own size."""
LEAST_BATCH = 32
"""Samples of such a batch at least."""


@dataclass(frozen=True)
class Statistics:
    """Every buffer of a model by name, and the moving averages of those that have one."""

    buffers: dict[str, Tensor]
    averages: dict[str, Tensor]


def own_statistics(state: TrainState) -> Statistics:
    """The run's own, rank 0's on every rank, as an evaluation takes them."""
    for buffer in state.buffers:
        state.ranks.broadcast(buffer)
    buffers = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
    return Statistics(buffers, {name: state.averages[name].clone() for name in buffers if name in state.averages})


@torch.no_grad()
def set_statistics(state: TrainState, statistics: Statistics) -> None:
    """Let the state have them."""
    for name, buffer in state.model.named_buffers():
        buffer.copy_(statistics.buffers[name])
        if name in statistics.averages:
            state.averages[name].copy_(statistics.averages[name])


def training_batches(recipe: Recipe, stream: Stream, step: int, draw: int) -> list[Ingredients]:
    """Random training samples through the path of the run's `step`; `draw` keys which."""
    size = max(recipe.config.global_batch_size, LEAST_BATCH)
    num_samples = len(recipe.index.train)
    order = generator(recipe.config.seed, "recalibration", draw).permutation(num_samples)[:SAMPLES]
    parts = [order[i : i + size] for i in range(0, max(1, len(order) - size + 1), size)]
    as_run = replace(stream(step), mix=None, companions=None)
    return [replace(as_run, sample_ids=ids, epochs=np.full(len(ids), as_run.epochs[0])) for ids in parts]


@torch.no_grad()
def recalibrate(state: TrainState, batches: Sequence[Ingredients]) -> Statistics:
    """Cumulative averages of the batches' statistics, under the weights that an evaluation uses; leaves the state be.

    Source: how weight averaging settles its statistics, Izmailov et al. 2018, section 3.
    """
    layers = batch_norms(state.model)
    state.model.train()
    with state.held_buffers(), state.averaged_weights():
        for layer in layers:
            # Batch renorm then is plain batch norm, which looks at no statistics of before.
            layer.reset_running_stats()
        for done, ingredients in enumerate(batches):
            _count(state, ingredients, momentum=1.0 / (done + 1))
        for layer in layers:
            for statistic in (layer.running_mean, layer.running_var):
                assert statistic is not None
                statistic.copy_(state.ranks.sum(statistic.clone()) / state.ranks.world_size)
        buffers = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
    # The number of batches steers batch renorm's ramps in the run that goes on.
    buffers |= {n: b.clone() for n, b in state.model.named_buffers() if not b.is_floating_point()}
    return Statistics(buffers, {name: buffers[name].clone() for name in buffers if name in state.averages})


def _count(state: TrainState, ingredients: Ingredients, *, momentum: float) -> None:
    """One forward pass in training mode whose statistics get a share of `momentum` in the running ones."""
    batch = load_batch(ingredients, state.ranks)
    plain = replace(ingredients, norm=None)
    with norm_settings(state.model, ingredients.norm), matrix_precision(ingredients.amp, state.device):
        layers = batch_norms(state.model)
        before = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = momentum
            layer.train()
        images = to_input(batch.images, ingredients.normalize, state)
        forward(state, state.model, plain, images, None)
        for layer, own in zip(layers, before, strict=True):
            layer.momentum = own
