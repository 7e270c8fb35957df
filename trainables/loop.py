"""The training loop, top to bottom: a step, and a run of steps.

`record = run_step(state, ingredients, batch)`: training, replay and recovery all go through `run_steps`. Nothing in a
step waits for the device: what it has to say stays there until it is read, many steps at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from trainables.data.loader_times import LoaderTimes
from trainables.data.mixing import mix_images
from trainables.data.prefetch import Prefetcher
from trainables.ingredients import Batch, Ingredients, Normalize, Stream, load_batch
from trainables.measurement import Measurement, unmeasured
from trainables.norms import norm_settings, whole_batch_statistics
from trainables.optim import clip_unitwise, set_hyperparameters, step_unless
from trainables.precision import LEAST_SCALE, autocast, matrix_precision, unscale
from trainables.signals import (
    LOSSES,
    NOTICE,
    StepRecord,
    batch_sums,
    input_moments,
    read_signals,
)
from trainables.state import TrainState
from trainables.step_signals import StepSignals
from trainables.updates import Update

RATIO_EVERY = 32
"""Steps between two measurements of the update ratio and the other fingerprints, which cost passes over the weights."""


def train_step(state: TrainState, ingredients: Ingredients, batch: Batch, *, notice: bool = False) -> StepRecord:
    """One optimizer step; a step whose loss or gradient is not finite changes nothing, buffers included.

    `notice`: this rank was told to stop, which all ranks learn from the step's signals.
    """
    for edit in ingredients.edits:
        edit(state)
    set_hyperparameters(state.optimizer, ingredients.optim, ingredients.step)
    buffers_before = state.copy_buffers()
    measurement = Measurement(state, ingredients.norm) if ingredients.step % RATIO_EVERY == 0 else None
    sums = backward(state, ingredients, batch, measurement)
    for edit in ingredients.gradient_edits:
        edit(state)
    sums[NOTICE] += notice
    totals = state.ranks.sum(sums)
    if measurement is not None:
        measurement.before_update(len(ingredients.sample_ids))
    scale = loss_scale_of(state, ingredients)
    scale = torch.full_like(totals[:1], math.nan) if scale is None else scale.double()
    grad_norm, bad = clip_gradients(state, ingredients), ~torch.isfinite(totals[LOSSES])
    bad = (bad | ~torch.isfinite(grad_norm)).float()
    step_unless(state.optimizer, bad)
    state.undo_buffers(buffers_before, bad)
    state.update_averages(bad, ingredients.step)
    overflowed = settle_loss_scale(state, ingredients, bad, totals[LOSSES])
    state.step = ingredients.step + 1
    measured = measurement.known() if measurement is not None else unmeasured(state.device)
    known = torch.stack([value.double() for value in (grad_norm, bad, overflowed)])
    after = torch.cat([known, scale, measured])
    return StepRecord(ingredients.step, ingredients.learning_rate, totals, after, ingredients.mixed_share)


def run_step(state: TrainState, ingredients: Ingredients, batch: Batch, *, notice: bool = False) -> StepRecord:
    """One step by its own code; on some steps with what it did to the weights."""
    update = Update(state) if ingredients.step % RATIO_EVERY == 0 else None
    record = ingredients.code(state, ingredients, batch, notice=notice)
    return record if update is None else update.add_to(record, ingredients.optim)


def backward(
    state: TrainState, ingredients: Ingredients, batch: Batch, measurement: Measurement | None = None
) -> Tensor:
    """Gradients of the global batch's mean loss, in micro-batches; this rank's part of the signals, `batch_sums`."""
    state.optimizer.zero_grad(set_to_none=True)
    total, scale = len(ingredients.sample_ids), loss_scale_of(state, ingredients)
    parts = micro_batches(batch, state.ranks.largest_share(total), state.micro_batch_size, mixed=ingredients.mix)
    sums = None
    for i, part in enumerate(parts):
        images = to_input(part.images, ingredients.normalize, state)
        labels = part.labels.to(state.device, non_blocking=True)
        inputs = images if ingredients.mix is None else mix_images(images, ingredients.mix)
        with gradients_summed(state, last=i == len(parts) - 1), matrix_precision(ingredients.amp, state.device):
            logits = forward(state, state.network, ingredients, inputs, part.companions)
            losses = ingredients.loss(logits, labels, ingredients.mix)
            # DDP divides by the world size; shares and micro-batches may differ in length.
            loss = losses.mean() * (len(labels) * state.ranks.world_size / total)
            (loss if scale is None else loss * scale).backward()
        if measurement is not None:
            measurement.see_labels(labels, logits.shape[1])
        mine = batch_sums(losses, logits, labels, images)
        sums = mine if sums is None else sums + mine
    assert sums is not None
    return sums


def run_steps(
    state: TrainState,
    stream: Stream,
    start: int,
    stop: int,
    *,
    loader_threads: int,
    reading: Reading | None = None,
    notice: Callable[[], bool] = lambda: False,
    times: LoaderTimes | None = None,
) -> Generator[StepSignals, None, None]:
    """Run steps [start, stop), decoding ahead in threads; closing the iterator closes the threads.

    Signals come as `reading` says; by default each step's at once. `times` takes what the loader costs.
    """

    def fetch(step: int) -> tuple[Ingredients, Batch]:
        ingredients = stream(step)
        batch = load_batch(ingredients, state.ranks)
        return ingredients, batch.pinned() if state.device.type == "cuda" else batch

    reading = reading or Reading()
    state.model.train()
    unread: list[StepRecord] = []
    with Prefetcher(fetch, loader_threads, stop_step=stop, times=times) as prefetcher:
        for step in range(start, stop):
            ingredients, batch = prefetcher.get(step)
            unread.append(run_step(state, ingredients, batch, notice=notice()))
            if len(unread) == reading.every or step + 1 == stop or reading.now(step + 1):
                signals = read_signals(unread)
                unread.clear()
                yield from signals


def warm_up(state: TrainState, side: int) -> None:
    """One backward pass on black images that leaves nothing behind but DDP's final gradient buckets.

    DDP orders its buckets anew after the first backward pass, and with three ranks or more the order shows in the last
    bits of a sum: without this, a resumed run's first step would differ.
    """
    images = torch.zeros(2, 3, side, side, device=state.device).contiguous(memory_format=state.memory_format)
    with state.held_buffers():
        state.network(images).float().sum().backward()
    state.optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Reading:
    """When the signals of steps are read from the device."""

    every: int = 1
    """At the latest after so many steps."""
    now: Callable[[int], bool] = lambda done: False
    """Whether to read when `done` steps are done, since something is due then."""


@torch.no_grad()
def observe_inputs(state: TrainState, stream: Stream, start: int, stop: int) -> Iterator[StepSignals]:
    """Input moments of steps [start, stop), all else nan: what the model would see does not depend on its weights."""
    for step in range(start, stop):
        ingredients = stream(step)
        images = to_input(load_batch(ingredients, state.ranks).images, ingredients.normalize, state)
        mean, std = input_moments(images, state.ranks)
        yield StepSignals(step, math.nan, learning_rate=ingredients.learning_rate, input_mean=mean, input_std=std)


def to_input(images: Tensor, normalize: Normalize, state: TrainState) -> Tensor:
    """uint8 [n, side, side, 3] -> the model's input, float32 [n, 3, side, side] on the state's device."""
    return normalize(images.to(state.device, non_blocking=True)).contiguous(memory_format=state.memory_format)


def micro_batches(batch: Batch, largest_share: int, size: int | None, *, mixed: object) -> list[Batch]:
    """Cut a rank's share into as many parts as the largest share needs; companions go with every part.

    `mixed`: not None where neighbours are mixed, which no cut may part.
    """
    count = -(-largest_share // size) if size is not None else 1
    if count == 1:
        return [batch]
    unit = 2 if mixed is not None else 1
    cuts = [unit * len(part) for part in np.array_split(np.arange(len(batch.labels) // unit), count)]
    pieces = zip(batch.images.split(cuts), batch.labels.split(cuts), strict=True)
    return [Batch(images, labels, batch.companions) for images, labels in pieces]


def gradients_summed(state: TrainState, *, last: bool) -> contextlib.AbstractContextManager[None]:
    """Ranks add up their gradients in the backward pass of the last micro-batch only."""
    if isinstance(state.network, DistributedDataParallel) and not last:
        return state.network.no_sync()
    return contextlib.nullcontext()


def forward(
    state: TrainState, network: nn.Module, ingredients: Ingredients, images: Tensor, companions: Tensor | None
) -> Tensor:
    """Logits [n, classes] of `images`; companions share the normalisation statistics and nothing else."""
    with autocast(ingredients.amp, state.device), norm_settings(state.model, ingredients.norm):
        if companions is None:
            logits: Tensor = network(images)
            return logits
        together = torch.cat([images, to_input(companions, ingredients.normalize, state)])
        with whole_batch_statistics(state.model):
            logits = network(together.contiguous(memory_format=state.memory_format))
            return logits[: len(images)]


def clip_gradients(state: TrainState, ingredients: Ingredients) -> Tensor:
    """Clip each unit, then the whole; the global L2 norm of the gradients before both, 0-dim on the device."""
    gradients = [p.grad for p in state.parameters if p.grad is not None]
    scale = loss_scale_of(state, ingredients)
    if scale is not None:
        unscale(gradients, scale)
    norm = left = torch.nn.utils.get_total_norm(gradients)
    if ingredients.agc is not None:
        clip_unitwise(state.model, ingredients.agc)
    if ingredients.clip_grad_norm is not None:
        if ingredients.agc is not None:
            left = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(state.parameters, ingredients.clip_grad_norm, left)
    return norm


def loss_scale_of(state: TrainState, ingredients: Ingredients) -> Tensor | None:
    """The factor on the step's loss, [1]: the step's own, else the state's; None: none."""
    if ingredients.loss_scale is not None:
        return torch.full((1,), ingredients.loss_scale, device=state.device)
    return None if state.loss_scale is None else state.loss_scale.scale


def settle_loss_scale(state: TrainState, ingredients: Ingredients, bad: Tensor, loss: Tensor) -> Tensor:
    """1 where only the loss scale was too large, else 0; the scale moves, unless the step brought its own."""
    if state.loss_scale is None or ingredients.loss_scale is not None:
        return torch.zeros_like(bad)
    may_overflow = (state.loss_scale.scale > LEAST_SCALE).squeeze() & torch.isfinite(loss)
    state.loss_scale.update(bad)
    return bad * may_overflow


@torch.no_grad()
def score_batch(state: TrainState, ingredients: Ingredients, batch: Batch) -> float:
    """Mean loss of a batch in training mode, changing nothing: no gradient, and buffers are put back."""
    with state.held_buffers(), matrix_precision(ingredients.amp, state.device):
        images = to_input(batch.images, ingredients.normalize, state)
        # Not through DDP, which would leave out its copying of the buffers in the next step.
        logits = forward(state, state.model, ingredients, images, batch.companions)
        losses = F.cross_entropy(logits.float(), batch.labels.to(state.device), reduction="none").double()
        totals = state.ranks.sum(torch.stack([losses.sum(), torch.full_like(losses[0], float(len(losses)))]))
    loss_sum, count = totals.tolist()
    return float(loss_sum / count)
