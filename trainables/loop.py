"""The training loop, top to bottom: a step, a run of steps, an evaluation.

`state, signals = step(state, ingredients)`: training, replay and recovery all go through `run_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.images import ImageSource
from trainables.data.prefetch import Prefetcher
from trainables.ingredients import Batch, Ingredients, Normalize, Stream, load_batch
from trainables.norms import whole_batch_statistics
from trainables.signals import StepSignals, batch_totals, input_moments
from trainables.state import TrainState


def train_step(state: TrainState, ingredients: Ingredients, batch: Batch) -> StepSignals:
    """One optimizer step; a step whose loss or gradient is not finite changes nothing, buffers included."""
    for group in state.optimizer.param_groups:
        group["lr"], group["momentum"] = ingredients.learning_rate, ingredients.momentum
    buffers_before = [buffer.clone() for buffer in state.buffers]

    images = to_input(batch.images, ingredients.normalize, state)
    logits = forward(state, ingredients, images, batch.companions)
    losses = F.cross_entropy(logits.float(), batch.labels.to(state.device), reduction="none")
    state.optimizer.zero_grad(set_to_none=True)
    losses.mean().backward()
    grad_norm = clip_gradients(state, ingredients.clip_grad_norm)
    totals = batch_totals(losses, logits, batch.labels.to(state.device), images, state.ranks)

    applied = math.isfinite(totals.loss) and math.isfinite(grad_norm)
    if applied:
        state.optimizer.step()
    else:
        with torch.no_grad():
            for buffer, before in zip(state.buffers, buffers_before, strict=True):
                buffer.copy_(before)
    return StepSignals(
        step=ingredients.step,
        loss=totals.loss,
        loss_noise=totals.loss_noise,
        learning_rate=ingredients.learning_rate,
        grad_norm=grad_norm,
        update_ratio=update_ratio(state, ingredients.learning_rate) if applied else 0.0,
        top1=totals.top1,
        input_mean=totals.input_mean,
        input_std=totals.input_std,
        applied=applied,
    )


def run_steps(
    state: TrainState, stream: Stream, start: int, stop: int, *, loader_threads: int
) -> Iterator[StepSignals]:
    """Run steps [start, stop), decoding ahead in threads; closing the iterator closes the threads."""

    def fetch(step: int) -> tuple[Ingredients, Batch]:
        ingredients = stream(step)
        return ingredients, load_batch(ingredients, state.ranks)

    state.model.train()
    with Prefetcher(fetch, loader_threads, stop_step=stop) as prefetcher:
        for step in range(start, stop):
            yield train_step(state, *prefetcher.get(step))


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


def forward(state: TrainState, ingredients: Ingredients, images: Tensor, companions: Tensor | None) -> Tensor:
    """Logits [n, classes] of `images`; companions share the normalisation statistics and nothing else."""
    with torch.autocast(state.device.type, torch.bfloat16, enabled=ingredients.amp == "bf16"):
        if companions is None:
            return cast("Tensor", state.network(images))
        together = torch.cat([images, to_input(companions, ingredients.normalize, state)])
        with whole_batch_statistics(state.model):
            logits: Tensor = state.network(together.contiguous(memory_format=state.memory_format))
            return logits[: len(images)]


def clip_gradients(state: TrainState, limit: float | None) -> float:
    """Global L2 norm of the gradients before clipping them to `limit`."""
    gradients = [p.grad for p in state.parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(state.parameters, limit, norm)
    return float(norm)


def update_ratio(state: TrainState, learning_rate: float) -> float:
    """Norm of the last update over the norm of the weights (without Nesterov's look-ahead and weight decay's share)."""
    updates = [state.optimizer.state[p].get("momentum_buffer", p.grad) for p in state.parameters]
    weights = torch.nn.utils.get_total_norm([p.detach() for p in state.parameters])
    return float(learning_rate * torch.nn.utils.get_total_norm([u for u in updates if u is not None]) / weights)


@torch.no_grad()
def evaluate(
    state: TrainState, source: ImageSource, normalize: Normalize, amp: str, batch_size: int = 256
) -> tuple[float, float]:
    """Exact top-1 and mean loss over a split; ranks take disjoint shares, none padded."""
    state.model.eval()
    ids = np.arange(len(source.split))[state.ranks.rank :: state.ranks.world_size]
    totals = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        labels = torch.from_numpy(source.split.labels[part]).to(state.device)
        with torch.autocast(state.device.type, torch.bfloat16, enabled=amp == "bf16"):
            logits = state.model(to_input(source.fetch(part, None), normalize, state)).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        right = (logits.argmax(1) == labels).sum()
        totals += torch.tensor([float(right), float(loss), float(len(part))], dtype=torch.float64)
    right_sum, loss_sum, count = state.ranks.sum(totals).tolist()
    state.model.train()
    return right_sum / count, loss_sum / count


@torch.no_grad()
def score_batch(state: TrainState, ingredients: Ingredients, batch: Batch) -> float:
    """Mean loss of a batch in training mode, changing nothing: no gradient, and buffers are put back."""
    buffers_before = [buffer.clone() for buffer in state.buffers]
    images = to_input(batch.images, ingredients.normalize, state)
    logits = forward(state, ingredients, images, batch.companions)
    losses = F.cross_entropy(logits.float(), batch.labels.to(state.device), reduction="none")
    for buffer, before in zip(state.buffers, buffers_before, strict=True):
        buffer.copy_(before)
    totals = state.ranks.sum(torch.tensor([float(losses.double().sum()), float(len(losses))], dtype=torch.float64))
    return float(totals[0] / totals[1])
