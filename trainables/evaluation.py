"""Exact scores over a split, by all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.prefetch import Prefetcher
from trainables.ingredients import EvaluationIngredients
from trainables.loop import to_input
from trainables.norms import norm_settings
from trainables.precision import autocast, matrix_precision
from trainables.state import TrainState


@dataclass(frozen=True)
class Evaluation:
    """Exact scores over a split."""

    top1: float
    top5: float
    loss: float
    """Mean cross-entropy, in nats."""
    input_moments: tuple[float, ...] = ()
    """Per-channel means, then standard deviations, of the normalised input."""


@torch.no_grad()
def evaluate(
    state: TrainState, ingredients: EvaluationIngredients, *, batch_size: int = 256, loader_threads: int = 0
) -> Evaluation:
    """Score a split, with the averaged weights where there are any; ranks take disjoint shares, none padded.

    Images that don't decode are quarantined and in no score.
    """
    amp, ranks = ingredients.amp, state.ranks
    ids = ingredients.sample_ids[ranks.rank :: ranks.world_size]
    parts = np.split(ids, range(batch_size, len(ids), batch_size))
    totals = torch.zeros(4, dtype=torch.float64, device=state.device)
    moments = torch.zeros(2, 3, dtype=torch.float64, device=state.device)
    state.model.eval()
    decoded = Prefetcher(lambda i: ingredients.decode(parts[i]), loader_threads, stop_step=len(parts))
    with state.averaged_weights(), norm_settings(state.model, ingredients.norm), matrix_precision(amp, state.device):
        for buffer in state.buffers:
            # Running statistics and their averages are each rank's own.
            ranks.broadcast(buffer)
        with decoded:
            for i in range(len(parts)):
                images, kept = decoded.get(i)
                labels = torch.from_numpy(ingredients.label(kept)).to(state.device)
                inputs = to_input(images, ingredients.normalize, state)
                with autocast(amp, state.device):
                    logits: Tensor = state.model(inputs)
                moments += moment_sums(inputs)
                totals += evaluation_sums(logits.float(), labels, ingredients)
    state.model.train()
    top1, top5, loss, count = ranks.sum(totals).tolist()
    mean, square = ranks.sum(moments) / count
    std = (square - mean**2).clamp(min=0.0).sqrt()
    return Evaluation(top1 / count, top5 / count, loss / count, (*mean.tolist(), *std.tolist()))


def moment_sums(inputs: Tensor) -> Tensor:
    """Per-channel means and mean squares of each sample, summed over the samples: float64 [2, 3]."""
    pixels = inputs.float()
    return torch.stack([pixels.mean((2, 3)), pixels.square().mean((2, 3))]).sum(1, dtype=torch.float64)


def evaluation_sums(logits: Tensor, labels: Tensor, ingredients: EvaluationIngredients) -> Tensor:
    """Right at first, right among five, summed loss, samples: float64 [4]."""
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    return torch.cat([ingredients.metric(logits, labels), torch.stack([loss, torch.full_like(loss, len(labels))])])
